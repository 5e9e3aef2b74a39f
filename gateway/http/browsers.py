"""Which requests a browser makes for somebody else's page; pure.

A page that is open in a browser has it send requests to whatever that browser reaches: this host's
loopback, the network behind a firewall. Where keys are asked for, it has none. Where they aren't, what
browsers say by themselves, and no page can change, tells such requests from those of people and programs:
`Sec-Fetch-Site` and `Origin` name the page's site, and `Host` has the name that the page was loaded by,
which is somebody else's where its DNS entry was made to lead here (DNS rebinding). Who sends none of these
headers is no browser.
"""

import fnmatch
import ipaddress
import re
from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

from torchrelay.gateway.http.exchange import Scope
from torchrelay.shared import errors
from torchrelay.shared.quoting import quoted

#: `Host` headers that were found good, so that they need not be understood again.
HOSTS_REMEMBERED = 256

_HOST = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]*)(?::([0-9]{0,5}))?", re.ASCII)
_PORTS = {"http": 80, "https": 443}
_SITES_OF_ITS_OWN = (b"none", b"same-origin")


class BrowserCheck:
    """Tells requests of foreign pages at one listener.

    `own_names` are the listener's, `allowed_hosts` patterns of further ones. `is_read_only`: GET changes
    nothing here, so that a link to it may be followed from anywhere.
    """

    def __init__(
        self,
        own_names: Iterable[str] = (),
        allowed_hosts: Iterable[str] = (),
        cors_allowed_origin: str = "",
        *,
        is_read_only: bool = False,
    ) -> None:
        self._own_names = {_plain(name) for name in own_names}
        self._patterns = tuple(_plain(pattern) for pattern in allowed_hosts)
        self._takes_any_host = "*" in self._patterns
        self._origins = {_origin(text) or text for text in cors_allowed_origin.replace(",", " ").split()}
        self._is_read_only = is_read_only
        #: Whole headers; who sends none is no browser.
        self._good_hosts = {b""}

    def add_own_name(self, name: str) -> None:
        """Take note of a name of this host; from any thread."""
        self._own_names.add(_plain(name))

    def refusal(self, scope: Scope) -> errors.ForeignPage | None:
        """Return why a request is refused; None where it isn't a foreign page's.

        PERF: three look-ups for who is no browser, as most callers are.
        """
        headers: Mapping[bytes, bytes] | None = scope.get("headers_by_name")
        if headers is None:
            scope["headers"] = [(name, value) for name, value in scope["headers"]]
            headers = dict(scope["headers"])
        host = headers.get(b"host", b"")
        is_host_good = host in self._good_hosts
        if is_host_good and b"origin" not in headers and b"sec-fetch-site" not in headers:
            return None
        if not is_host_good:
            if not self._serves(host.decode("latin-1")):
                return errors.ForeignPage(
                    f"This server is not known as {quoted(host.decode('latin-1'))!r}. If that is a name of"
                    " its own, add it to allowed_hosts, or have the server ask for keys."
                )
            if len(self._good_hosts) >= HOSTS_REMEMBERED:
                self._good_hosts = {b""}
            self._good_hosts.add(host)
        return None if self._may_ask(scope, headers) else _foreign_site(headers)

    def _serves(self, host: str) -> bool:
        """Tell whether this is a name of ours, an address, or one that settings name."""
        found = _HOST.fullmatch(host)
        if found is None or self._takes_any_host:
            return self._takes_any_host
        name = _plain(found[1])
        if name == "localhost" or name.endswith(".localhost") or name in self._own_names:
            return True
        # Rebinding needs a name: whoever serves a page at an address of ours is this host.
        return _is_address(name) or any(fnmatch.fnmatchcase(name, pattern) for pattern in self._patterns)

    def _may_ask(self, scope: Scope, headers: Mapping[bytes, bytes]) -> bool:
        """Tell whether the page may, or no page, whose request has these headers."""
        site, said = headers.get(b"sec-fetch-site"), headers.get(b"origin")
        if site in _SITES_OF_ITS_OWN or "*" in self._origins:
            return True
        if said is None:
            return site is None or (self._is_read_only and _is_followed_link(scope["method"], headers))
        text = said.decode("latin-1")
        origin = _origin(text)
        if (origin or text) in self._origins:
            return True
        own = _origin(f"{scope['scheme']}://{headers.get(b'host', b'').decode('latin-1')}")
        return site is None and origin is not None and origin == own


def _plain(name: str) -> str:
    return name.lower().rstrip(".")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True


def _origin(text: str) -> tuple[str, str, int] | None:
    """Take an origin apart into scheme, host and port; None for what is none, as `null`."""
    try:
        parts = urlsplit(text)
        port = parts.port or _PORTS.get(parts.scheme)
    except ValueError:
        return None
    return (parts.scheme, _plain(parts.hostname), port) if parts.hostname and port else None


def _is_followed_link(method: str, headers: Mapping[bytes, bytes]) -> bool:
    """Tell whether a person goes to where a link leads: the page with the link doesn't see what is there."""
    wanted = headers.get(b"sec-fetch-mode"), headers.get(b"sec-fetch-dest")
    return method in ("GET", "HEAD") and wanted == (b"navigate", b"document")


def _foreign_site(headers: Mapping[bytes, bytes]) -> errors.ForeignPage:
    said = headers.get(b"origin")
    whose = "Another site's page" if said is None else f"The page of {quoted(said.decode('latin-1'))!r}"
    return errors.ForeignPage(
        f"{whose} may not use this server. If it is yours, set cors_allowed_origin to its origin, or have the"
        " server ask for keys."
    )
