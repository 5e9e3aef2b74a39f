"""Where a server is and how a client gets in: addresses, keys, certificates.

What the caller leaves out comes from the environment (TORCHRELAY_INFERENCE, TORCHRELAY_MANAGEMENT,
TORCHRELAY_KEY, TORCHRELAY_CA), then from the key file of a server that was started in this folder.
"""

import re
import ssl
from collections.abc import Mapping
from pathlib import Path

import msgspec

from torchrelay.client.call_failures import UnusableSetting
from torchrelay.client.http_calls import Api
from torchrelay.shared.torchserve.key_files import ENTRY_NAMES, KeyEntry

#: The file with the keys that a server has made, in the folder where it was started; TorchServe's name.
KEY_FILE_NAME = "key_file.json"
#: What the server reads as a key.
_KEY = re.compile(r"[!-~]+")
DEFAULT_URLS: dict[Api, str] = {"inference": "http://127.0.0.1:8080", "management": "http://127.0.0.1:8081"}


class Endpoint(msgspec.Struct, frozen=True):
    """One address of a server, taken apart."""

    #: As it was given, for messages.
    url: str
    base_url: str
    socket_path: str | None

    @property
    def is_encrypted(self) -> bool:
        """Whether it speaks TLS."""
        return self.base_url.startswith("https:")


def endpoint(url: str) -> Endpoint:
    """Take an address apart: `http://HOST:PORT`, `https://HOST:PORT` or `unix:/PATH`."""
    if url.startswith("unix:"):
        return Endpoint(url, "http://localhost", url.removeprefix("unix:"))
    if not url.startswith(("http://", "https://")):
        raise UnusableSetting(f"{url} is no address: it begins with http://, https:// or unix:")
    return Endpoint(url, url, None)


class ServerAccess(msgspec.Struct, frozen=True, kw_only=True):
    """What a client was given of a server; None is what it was not given, and a key of "" is none."""

    inference: str | None = None
    management: str | None = None
    key: str | None = None
    key_file: Path | None = None
    ca_file: Path | None = None
    tls: ssl.SSLContext | None = None

    def endpoint(self, api: Api, environ: Mapping[str, str]) -> Endpoint:
        """Return the address of an API. Raises UnusableSetting for what is none."""
        given = self.inference if api == "inference" else self.management
        return endpoint(given or environ.get(f"TORCHRELAY_{api.upper()}") or DEFAULT_URLS[api])

    def headers(self, api: Api, environ: Mapping[str, str]) -> dict[str, str]:
        """Return the header that carries the key of an API, if there is one. Raises UnusableSetting."""
        key = self._found_key(api, environ) if self.key is None else self.key
        if key and not _KEY.fullmatch(key):
            raise UnusableSetting("the key has characters that no header carries")  # and is not shown
        return {"authorization": f"Bearer {key}"} if key else {}

    def _found_key(self, api: Api, environ: Mapping[str, str]) -> str | None:
        if self.key_file is None and (key := environ.get("TORCHRELAY_KEY")):
            return key
        entry = read_key_file(self.key_file or Path(KEY_FILE_NAME)).get(ENTRY_NAMES[api])
        if entry is None and self.key_file is not None:
            raise UnusableSetting(f"{self.key_file} has no key for {api}")
        return None if entry is None else entry.key

    def trust(self, environ: Mapping[str, str]) -> ssl.SSLContext:
        """Make what trusts the system's authorities, and those in a PEM file. Raises UnusableSetting."""
        if self.tls is not None:
            return self.tls
        context = ssl.create_default_context()
        if file := self.ca_file or environ.get("TORCHRELAY_CA"):
            try:
                context.load_verify_locations(file)
            except OSError as error:
                name = "the file of authorities" if self.ca_file else "TORCHRELAY_CA:"
                raise UnusableSetting(f"{name} {file} can't be used: {error}") from error
        return context


def read_key_file(path: Path) -> dict[str, KeyEntry]:
    """Read a key file: its entries by their names, which `ENTRY_NAMES` has; {} where there is no file.

    Raises UnusableSetting where it can't be read, or is something else.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, KeyEntry])
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UnusableSetting(
            f"{path} can't be read: {error.strerror}; set TORCHRELAY_KEY instead"
        ) from error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise UnusableSetting(f"{path} is no key file of a server") from error
