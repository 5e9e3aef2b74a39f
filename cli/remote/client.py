"""A client of the management and inference APIs: successful answers are returned, others raise Fault."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

import httpx2
import msgspec
from msgspec import UNSET, UnsetType

from torchrelay.cli.commands.options import KEY_FILE_NAME
from torchrelay.cli.faults import Fault
from torchrelay.cli.remote import credentials
from torchrelay.cli.remote.credentials import Port
from torchrelay.shared import errors
from torchrelay.shared.api_bodies import ErrorBody, FleetBody, ModelsBody, ModelsEntryBody, VersionBody
from torchrelay.shared.settings import environment

T = TypeVar("T")
#: What a person can do about an error, by its `type`.
_ADVICE = {
    errors.MethodNotAllowed.type: "the server must run with --enable-model-api for this",
    errors.ModelNotFound.type: "`torchrelay models list` shows what is registered",
    errors.ModelVersionNotFound.type: "`torchrelay models describe NAME --all` shows its versions",
    errors.MemberNotFound.type: "`torchrelay nodes list` and `torchrelay gateways list` show the names",
    errors.InvitationNotFound.type: "`torchrelay nodes invitations` (or `gateways invitations`) shows the ids"
    " of those that let somebody in",
    errors.Conflict.type: "unregister that version first, or give the archive another one",
    errors.ServiceUnavailable.type: "`torchrelay status` shows why",
    errors.InvalidModel.type: "`torchrelay archive inspect FILE` checks an archive",
    errors.InvalidKey.type: f"the key comes from TORCHRELAY_KEY, or from a {KEY_FILE_NAME} in this folder",
}
#: The same for a registration, where it differs.
_REGISTRATION_ADVICE = _ADVICE | {
    errors.ModelNotFound.type: "the archive must lie in the server's model store, or be given as a url",
    errors.DownloadFailed.type: "the server itself must be able to fetch that url, and private addresses"
    " only with allow_private_urls; the broker's log has the reason",
}
#: Seconds that a server has for an answer.
TIMEOUT_S = 30.0


class RestClient:
    """One port of a server at a base url, `http://HOST:PORT` or `unix:/PATH`."""

    def __init__(
        self,
        port: Port,
        url: str,
        timeout_s: float | None = TIMEOUT_S,
        key: str | None = None,
    ) -> None:
        self._port = port
        self._url = url
        base_url, socket_path = endpoint(url)
        environ = environment()
        self._http = httpx2.Client(
            base_url=base_url,
            # No proxy of the environment, since it is never meant for this server; but its certificates.
            transport=httpx2.HTTPTransport(
                uds=socket_path, verify=base_url.startswith("https:") and credentials.trust(environ)
            ),
            headers=credentials.headers(key or credentials.find_key(port, environ, Path.cwd())),
            timeout=httpx2.Timeout(timeout_s, connect=5.0),
            trust_env=False,
        )

    def call(self, method: str, path: str, parameters: Mapping[str, object] | None = None) -> bytes:
        """Send a request and return the body of the answer; parameters that are None are left out."""
        with self.stream(method, path, parameters) as answer:
            return answer.read()

    @contextmanager
    def stream(
        self,
        method: str,
        path: str,
        parameters: Mapping[str, object] | None = None,
        *,
        content: bytes | None = None,
        content_type: str | None = None,
    ) -> Iterator[httpx2.Response]:
        """Send a request and yield a successful answer, whose body is still to be read.

        Raises:
            Fault: nobody answered, or the answer is an error.
        """
        query = {key: _as_text(value) for key, value in (parameters or {}).items() if value is not None}
        headers = {"content-type": content_type} if content_type else {}
        try:
            with self._http.stream(method, path, params=query, content=content, headers=headers) as answer:
                if answer.is_error:
                    advice = _REGISTRATION_ADVICE if (method, path) == ("POST", "/models") else _ADVICE
                    raise Fault(_explain(answer.status_code, answer.read(), advice))
                yield answer
        except httpx2.ConnectError as error:
            if refused := credentials.untrusted(error):
                raise Fault(
                    f"the certificate of {self._url} is not trusted: {refused.verify_message}\n"
                    "set TORCHRELAY_CA to the PEM file of the authority that signed it"
                ) from error
            raise Fault(
                f"no server answers at {self._url}: start one with `torchrelay serve`, or say where it is"
                f" with --{self._port} or TORCHRELAY_{self._port.upper()}"
            ) from error
        except httpx2.TimeoutException as error:
            raise Fault(
                f"the server at {self._url} gave no answer in time: `torchrelay status` shows why"
            ) from error
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise Fault(f"can't talk to {self._url}: {error}") from error

    def models(self) -> list[ModelsEntryBody]:
        """Read the whole list of models, page by page."""
        models: list[ModelsEntryBody] = []
        token: str | UnsetType = "0"
        while token is not UNSET:
            page = decode(self.call("GET", "/models", {"next_page_token": token}), ModelsBody)
            models += page.models
            token = page.next_page_token if page.models else UNSET
        return models

    def versions(self, model: str, version: str | None) -> list[VersionBody]:
        """Read how a model's default version, the named one or, for `all`, every version is served."""
        return decode(self.call("GET", path_of("models", model, version)), list[VersionBody])

    def fleet(self) -> FleetBody:
        """Read the whole fleet's state."""
        return decode(self.call("GET", "/fleet"), FleetBody)


def endpoint(url: str) -> tuple[str, str | None]:
    """Return the base url of an address, and the path of its unix socket if it is one."""
    return ("http://localhost", url.removeprefix("unix:")) if url.startswith("unix:") else (url, None)


def decode(content: bytes, what: type[T]) -> T:
    """Decode an answer. Raises Fault where it has another form, since then another server listens there."""
    try:
        return msgspec.json.decode(content, type=what)
    except msgspec.MsgspecError as error:
        raise Fault(f"what answers there is not torchrelay's management address: {error}") from error


def path_of(*segments: str | None) -> str:
    """Write a path of these segments; what is None, as a version that isn't named, is left out."""
    return "".join("/" + quote(segment, safe="") for segment in segments if segment)


def _as_text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _explain(status: int, body: bytes, advice: Mapping[str, str]) -> str:
    try:
        error = msgspec.json.decode(body, type=ErrorBody)
    except msgspec.MsgspecError:  # a handler may answer an error of its own in any form
        text = body.decode(errors="replace").strip()
        return f"the server answered {status}" + (f": {text[:300]}" if text else "")
    parts = [error.message, error.details[:500], advice.get(error.type, "")]
    return "\n".join(part for part in parts if part)
