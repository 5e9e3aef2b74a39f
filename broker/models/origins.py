"""Where archives come from: urls, taken apart once, here and nowhere else. Pure.

`parse` makes a typed value of any text, and fetching and deleting look at nothing else. What is matched,
resolved, connected to and asked for are the parts found here: two readers of one text would sooner or later
see two hosts in it. So there is one way to write a host: in ASCII after IDNA, an IPv4 address
as four decimal numbers. What libraries read in other ways (users, octal digits, backslashes) is refused.
"""

import ipaddress
import re
from dataclasses import dataclass
from encodings import idna
from urllib.parse import quote, unquote, urljoin

from torchrelay.shared.quoting import quoted

#: Longer than what any signed url has come to, and what most servers read of a request's first line.
URL_LIMIT_CHARS = 8192
DEFAULT_PORTS = {"http": 80, "https": 443}
_CONTROL = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_HTTP = re.compile(r"(https?)://([^/?#]*)(/[^?#]*)?(\?[^#]*)?(?:#.*)?", re.IGNORECASE)
#: What an object store's library may take for a bucket, a container at an account, or an organisation.
_BUCKET = re.compile(r"[A-Za-z0-9._@-]*")
_USER = re.compile(r"^(https?://)[^/?#]*@", re.IGNORECASE)
_FILE = re.compile(r"file://(?:localhost)?(/[^?#]*)(?:[?#].*)?", re.IGNORECASE)
_AUTHORITY = re.compile(r"(\[[^\]]*\]|[^:\[\]]*)(?::([0-9]{1,5}))?")
_LABEL = re.compile(r"[a-z0-9_-]{1,63}")
#: What makes a name's last part a number: then the whole is an address, or nothing.
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
#: What IDNA takes for a dot, beside the dot.
_DOTS = re.compile("[\u3002\uff0e\uff61]")
_HOST_LIMIT_CHARS = 253
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})")
#: What means the same with and without an escape (RFC 3986, section 2.3).
_UNRESERVED = re.compile(r"[A-Za-z0-9._~-]")
#: What a url is asked for with as it is; the rest, such as letters beyond ASCII, is escaped.
_AS_IT_IS = bytes(range(0x21, 0x7F)).replace(b"\\", b"")


class BadUrl(ValueError):
    """A url that isn't taken apart, since others might read it in another way."""


@dataclass(frozen=True, slots=True)
class _Given:
    #: As it was given.
    url: str
    #: What archives come from that share places for being fetched; empty for what is not going to be asked.
    source: str
    #: The url as patterns see it, rebuilt from what was found in it: scheme and host in lower case and ASCII;
    #: no default port, user or fragment; nothing escaped that need not be. The path is kept, and the query of
    #: http(s).
    matched: str

    @property
    def name(self) -> str:
        """The file or folder of the model store that the archive is, or is to be; empty if none."""
        return file_of(self.url)


@dataclass(frozen=True, slots=True)
class InStore(_Given):
    """A file or folder of the model store, or a whole path: what has no scheme. Each is its own source."""


@dataclass(frozen=True, slots=True)
class File(_Given):
    """A file of the broker's host, by its path."""

    path: str


@dataclass(frozen=True, slots=True)
class Http(_Given):
    """A url of http(s). `host` may be empty, and has no brackets; `path` is as given, with the query.

    Its source is the host, whatever the port.
    """

    scheme: str
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """Return host and port as they stand in a url: no default port, brackets around IPv6."""
        return _authority(self.scheme, self.host, self.port)

    @property
    def target(self) -> str:
        """Return what the server is asked for."""
        return quote(self.path, safe=_AS_IT_IS)

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.target}"


@dataclass(frozen=True, slots=True)
class ObjectStore(_Given):
    """A url of any other scheme: if it is fetched, then from an object store that allowed_urls names."""

    scheme: str
    bucket: str
    key: str


@dataclass(frozen=True, slots=True)
class UnreadableUrl(_Given):
    """A url that isn't taken apart, and so never asked for; `why` says so to the caller."""

    scheme: str
    why: str


Origin = InStore | File | Http | ObjectStore | UnreadableUrl


def parse(url: str) -> Origin:
    """Take apart where an archive comes from."""
    scheme, colon, rest = url.partition("://")
    scheme = scheme.lower()
    if not colon:
        return InStore(url, file_of(url), url)
    try:
        if scheme in DEFAULT_PORTS:
            return parse_http(url)
        _check_text(url)
        if scheme == "file":
            match = _FILE.fullmatch(url)
            if not match:
                raise BadUrl("a url of a file is file:///PATH")
            return File(url, "file://", f"file://{_unescaped(match[1])}", unquote(match[1]))
        bucket, _, key = rest.partition("/")
        if not _BUCKET.fullmatch(bucket):
            raise BadUrl("its bucket has characters that no bucket has")
        return ObjectStore(url, f"{scheme}://{bucket}", f"{scheme}://{rest}", scheme, bucket, key)
    except BadUrl as error:
        return UnreadableUrl(url, "", "", scheme, str(error))


def _check_text(url: str) -> None:
    """Raise BadUrl for what no url may have, of whatever scheme."""
    if len(url) > URL_LIMIT_CHARS:
        raise BadUrl(f"it has more than {URL_LIMIT_CHARS} characters")
    if has_control_characters(url):
        raise BadUrl("it has control characters")


def has_control_characters(text: str) -> bool:
    """Tell whether a text has what breaks lines, commands a terminal, or is no character."""
    return _CONTROL.search(text) is not None


def parse_http(text: str) -> Http:
    """Take a url of http(s) apart; its host may be empty. Raises BadUrl."""
    _check_text(text)
    match = _HTTP.fullmatch(text)
    if not match:
        raise BadUrl("it is no url of http or https")
    scheme, authority = match[1].lower(), match[2]
    path, query = match[3] or "/", match[4] or ""
    if "@" in authority:
        raise BadUrl("it has a user name or password, which urls of archives may not")
    if ".." in unquote(path).split("/"):
        raise BadUrl("its path has '..' in it")
    parts = _AUTHORITY.fullmatch(authority)
    if not parts:
        raise BadUrl("its host and port can't be read")
    port = int(parts[2] or DEFAULT_PORTS[scheme])
    if not 0 < port < 1 << 16:
        raise BadUrl(f"{port} is no port")
    host = _host(parts[1])
    matched = f"{scheme}://{_authority(scheme, host, port)}{_unescaped(path + query)}"
    return Http(text, host, matched, scheme, host, port, path + query)


def join(url: Http, location: bytes) -> str:
    """Return the url that a redirect leads to, whatever it is."""
    return urljoin(str(url), quote(location, safe=_AS_IT_IS))


def file_of(url: str) -> str:
    """Name the model store's file of an archive, "" if none; a query is no part of it.

    What comes without a scheme is a path, in which `?` and `#` mean nothing.
    """
    _, colon, rest = url.partition("://")
    path = re.split("[?#]", rest)[0].partition("/")[2] if colon else url
    return unquote(path).rstrip("/").rpartition("/")[2]


def without_query(url: str) -> str:
    """Return a url for the log: what is behind the question mark may be a signature."""
    return quoted(without_user(url.partition("?")[0]))


def without_user(url: str) -> str:
    """Return a url of http(s) for people: what is before the host may be a password."""
    return _USER.sub(r"\1", url)


def _authority(scheme: str, host: str, port: int) -> str:
    host = f"[{host}]" if ":" in host else host
    return host if port == DEFAULT_PORTS[scheme] else f"{host}:{port}"


def _host(text: str) -> str:
    """Return a host as it is looked up and compared. Raises BadUrl."""
    try:
        if text.startswith("["):
            return str(ipaddress.IPv6Address(text.replace("%", " ")[1:-1]))  # no name of an interface
        labels = [_ascii_label(label) for label in text.lower().removesuffix(".").split(".")]
        host = ".".join(labels)
        if _NUMBER.fullmatch(labels[-1]):
            return str(ipaddress.IPv4Address(host))
    except ValueError as error:
        raise BadUrl(
            "its host can't be read: IPv4 is four decimal numbers, IPv6 stands in brackets"
        ) from error
    if host and (len(host) > _HOST_LIMIT_CHARS or not all(map(_LABEL.fullmatch, labels))):
        raise BadUrl("its host has characters or lengths that no host has")
    return host


def _ascii_label(label: str) -> str:
    """Encode a part of a host's name by IDNA. Raises ValueError for letters that stand for others."""
    if label.isascii():
        return label
    encoded = idna.ToASCII(label).decode()
    # Full-width digits, ligatures and their like become plain letters: a second way to write a host.
    if _DOTS.search(label) or not encoded.startswith("xn--"):
        raise ValueError(label)
    return encoded.lower()


def _unescaped(text: str) -> str:
    def plain(match: re.Match[str]) -> str:
        letter = chr(int(match[1], 16))
        return letter if _UNRESERVED.fullmatch(letter) else match[0]

    return _ESCAPE.sub(plain, text)
