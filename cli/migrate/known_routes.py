"""Which requests our ports answer, by the OpenAPI documents that they answer themselves. Pure."""

import re
from collections.abc import Iterator
from functools import cache

import msgspec

from torchrelay.gateway.openapi import documents
from torchrelay.shared.settings import GatewaySettings

#: Routes of inference that no document has, and those that take any path below.
_UNDOCUMENTED = {
    "inference": (
        r"/[^/]+(/[^/]+)?/predict",
        r"/ping/.*",
        r"/v1/models/[^/]*:(predict|explain).*",
        r"(?i:/wfpredict)/[^/]+(/.*)?",
    ),
    "management": (r"/v1/models/[^/:]+",),
    "metrics": (r"/metrics/.*",),
}
#: TorchServe's usual ports: a URL with one of them is meant for it, whatever its path.
PORTS = {"8080": "inference", "8081": "management", "8082": "metrics"}
_URL = re.compile(r"(?:\w+://)?[^/?#]*?(?::(?P<port>\d+))?(?P<path>/[^?#]*)?(?:\?(?P<query>[^#]*))?(?:#.*)?")


class Route(msgspec.Struct, frozen=True):
    """What a path is on our side: the API, and the methods that it has; none named: any does the same."""

    api: str
    methods: frozenset[str] = frozenset()


class UrlTarget(msgspec.Struct, frozen=True):
    """What a URL leads to, read without knowing what its variables hold."""

    path: str
    query: str
    port: str
    route: Route | None

    @property
    def registers_workflow(self) -> bool:
        """Whether a POST to it registers a workflow."""
        return self.path.rstrip("/") == "/workflows" and "url=" in self.query

    @property
    def is_servers(self) -> bool:
        """Whether it is meant for a model server, known route or not."""
        return self.route is not None or self.port in PORTS

    def changes_something(self, method: str) -> bool:
        """Whether a request does more than to ask: predictions don't count, whatever their handlers do."""
        if self.path.startswith("/token"):
            return True
        is_prediction = self.route is not None and self.route.api == "inference"
        return not is_prediction and method not in ("GET", "HEAD", "OPTIONS")


def target_of(url: str) -> UrlTarget:
    """Read a URL; host and port may be a shell's variables."""
    found = _URL.fullmatch(url)
    if found is None:
        return UrlTarget("", "", "", None)
    path = found["path"] or "/"
    return UrlTarget(path, found["query"] or "", found["port"] or "", find(path))


def find(path: str) -> Route | None:
    """Return the route of a path; `/` is on every port, and says nothing of whose it is."""
    plain = path.rstrip("/") or "/"
    if plain == "/":
        return None
    return next((route for pattern, route in _routes() if pattern.fullmatch(plain)), None)


@cache
def _routes() -> tuple[tuple[re.Pattern[str], Route], ...]:
    return tuple(_all())


def _all() -> Iterator[tuple[re.Pattern[str], Route]]:
    """Yield inference's first, as on a port that all share; what any path fits comes last."""
    settings = GatewaySettings(open_inference_protocol=True, token_authorization=True)
    for api, describe in (
        ("inference", documents.inference),
        ("management", documents.management),
        ("metrics", documents.metrics),
    ):
        paths = describe(settings)["paths"]
        assert isinstance(paths, dict)
        for path, methods in paths.items():
            named = frozenset(method.upper() for method in methods) if api == "management" else frozenset()
            yield _pattern(path), Route(api, named)
    for api, patterns in _UNDOCUMENTED.items():
        yield from ((re.compile(pattern), Route(api)) for pattern in patterns)


def _pattern(path: str) -> re.Pattern[str]:
    parts = re.split(r"(\{\w+\})", path)
    return re.compile("".join(_part(part) for part in parts))


def _part(part: str) -> str:
    if part == "{sub_path}":
        return ".+"
    return "[^/]+" if part.startswith("{") else re.escape(part)
