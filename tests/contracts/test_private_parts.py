"""What we lean on in libraries that they don't promise: each fails here when a new version changes it.

`pyproject.toml` bounds these libraries from above, so that nobody gets a version that hasn't met these tests.
"""

import asyncio
import inspect
import re
import socket
import tomllib
from collections.abc import Callable, Generator
from contextvars import Context
from typing import Any, ClassVar

import falcon.asgi
import gunicorn.arbiter
import gunicorn.glogging
import gunicorn.workers.base
import pytest
import uvicorn
import uvloop
from falcon.routing import CompiledRouter
from uvicorn.protocols.utils import get_local_addr, get_remote_addr, is_ssl
from uvicorn.server import ServerState
from uvicorn_worker import UvicornWorker

from tests.contracts.source import ROOT
from torchrelay.gateway.api.base_app import App
from torchrelay.gateway.api.gateway_request import GatewayRequest
from torchrelay.gateway.http.connection import GatewayProtocol
from torchrelay.gateway.main import GrpcProcess, Master, PropagatingLogger, ServingProcess
from torchrelay.gateway.waiter import Waiter

LOOPS: list[Callable[[], asyncio.AbstractEventLoop]] = [asyncio.new_event_loop, uvloop.new_event_loop]


def test_every_library_named_here_is_bounded_from_above() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    bounds = {re.split("[<>=]", line)[0]: line for line in project["optional-dependencies"]["gateway"]}
    bounded = {name for name, line in bounds.items() if "<" in line}
    assert bounded == {"falcon", "gunicorn", "uvicorn", "uvicorn-worker", "uvloop"}


# falcon: gateway/api/gateway_request.py, gateway/api/base_app.py

HEADERS = [(b"host", b"h"), (b"content-type", b"text/plain"), (b"content-length", b"3")]
SCOPE = {"type": "http", "http_version": "1.1", "method": "POST", "path": "/p", "query_string": b"",
         "headers": HEADERS, "scheme": "http", "root_path": ""}  # fmt: skip


def _attributes(req: falcon.asgi.Request) -> dict[str, object]:
    slots = [name for cls in type(req).__mro__ for name in getattr(cls, "__slots__", ())]
    names = [*vars(req), *(name for name in slots if name not in ("__dict__", "__weakref__"))]
    return {name: getattr(req, name) for name in names if hasattr(req, name)}


async def _receive() -> dict[str, Any]:
    return {"type": "http.disconnect"}


def test_a_request_made_without_falcons_own_constructor_has_all_that_this_sets() -> None:
    options = falcon.RequestOptions()
    theirs = _attributes(falcon.asgi.Request(dict(SCOPE), _receive, None, options))
    ours = _attributes(GatewayRequest({**SCOPE, "headers_by_name": dict(HEADERS)}, _receive, None, options))
    assert theirs.keys() - ours.keys() == {"context"}  # which nobody here uses
    for name in ours.keys() - {"scope", "stream"}:  # of its own for each request
        assert ours[name] == theirs[name], name


class Answers:
    """Answers in each of the ways that resources have."""

    async def on_get(self, _req: falcon.asgi.Request, resp: falcon.asgi.Response, what: str) -> None:
        resp.set_header("x-what", what)
        match what:
            case "data":
                resp.data = b"data"
            case "status":
                resp.status, resp.data = 404, b"none"
            case "bodiless":
                resp.status = 204
            case "parts":
                resp.stream = Parts()
            case "error":
                raise falcon.HTTPBadRequest(title="error")

    on_head = on_post = on_get


class Parts:
    def __init__(self) -> None:
        self.left = [b"one", b"two"]

    def __aiter__(self) -> "Parts":
        return self

    async def __anext__(self) -> bytes:
        if not self.left:
            raise StopAsyncIteration
        return self.left.pop(0)

    async def close(self) -> None:
        """Nothing is open."""


async def _said(app: Any, method: str, path: str) -> list[dict[str, Any]]:
    said: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        said.append(message)

    scope = {**SCOPE, "asgi": {"version": "3.0", "spec_version": "2.3"}, "method": method, "path": path}
    await app({**scope, "headers_by_name": dict(HEADERS)}, receive, send)
    return said


@pytest.mark.parametrize("method", ["GET", "POST", "HEAD", "PUT"])
async def test_our_way_through_falcon_says_what_falcons_own_does(method: str) -> None:
    theirs: Any = falcon.asgi.App(request_type=GatewayRequest)
    ours = App(request_type=GatewayRequest)
    for app in (theirs, ours):
        app.resp_options.default_media_type = None
        app.add_route("/{what}", Answers())
    for what in ("data", "nothing", "status", "bodiless", "parts", "error", "no/route"):
        said = await _said(ours, method, f"/{what}")
        expected = await _said(theirs, method, f"/{what}")
        for message in (*said, *expected):
            if message["type"] == "http.response.body":
                message.setdefault("body", b"")
        assert said == expected, what


def test_falcons_router_finds_by_path_what_begins_with_the_resource() -> None:
    class Resource:
        def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
            """Stand for any."""

    router, resource = CompiledRouter(), Resource()
    router.add_route("/a/{b}", resource)
    assert list(inspect.signature(CompiledRouter.find).parameters) == ["self", "uri", "req"]
    found = router.find("/a/x", None)
    assert found is not None
    assert found[0] is resource
    assert router.find("/c", None) is None
    assert "default_to_on_request" in dir(router.options)


# uvicorn: gateway/http/connection.py, gateway/http/uvicorn_server.py


class Recorder(asyncio.Protocol):
    """A connection that uvicorn makes, as `GatewayProtocol` is one."""

    made: ClassVar[list[dict[str, object]]] = []

    def __init__(self, **given: object) -> None:
        self.made.append(given)


class Listener:
    """What `TlsListener` is to uvicorn: an asyncio server of which two methods are used."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def close(self) -> None:
        self.told.append("close")

    async def wait_closed(self) -> None:
        self.told.append("wait_closed")


class Connection:
    """What uvicorn does with a connection when it stops."""

    def __init__(self, state: ServerState) -> None:
        self._state = state

    def shutdown(self) -> None:
        self._state.connections.discard(self)


async def _app(scope: object, receive: object, send: object) -> None:
    """Stand for an application."""


async def test_uvicorn_makes_keeps_and_ends_connections_and_listeners_as_before() -> None:
    config = uvicorn.Config(_app, http=Recorder, lifespan="off", timeout_keep_alive=7, log_config=None)
    config.load()
    assert (config.loaded_app is not None, config.timeout_keep_alive) == (True, 7)
    assert config.http_protocol_class is Recorder
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    with socket.create_server(("127.0.0.1", 0)) as bound:
        await server.startup([bound])
        _, writer = await asyncio.open_connection(*bound.getsockname())
        while not Recorder.made:
            await asyncio.sleep(0)
        writer.close()
        expected = set(inspect.signature(GatewayProtocol.__init__).parameters) - {"self"}
        assert set(Recorder.made.pop()) == expected
        state = server.server_state
        assert (state.total_requests, state.connections) == (0, set())
        listener = Listener()
        server.servers.append(listener)  # type: ignore[arg-type]  # has what uvicorn uses
        state.connections.add(Connection(state))  # type: ignore[arg-type]  # the same
        await server.shutdown([])
    assert listener.told == ["close", "wait_closed"]
    assert state.connections == set()


def test_uvicorn_tells_of_a_transport_who_talks_to_whom() -> None:
    class Transport(asyncio.Transport):
        def get_extra_info(self, name: str, default: object = None) -> object:
            return {"sockname": ("here", 1), "peername": ("there", 2)}.get(name, default)

    transport = Transport()
    assert (get_local_addr(transport), get_remote_addr(transport)) == (("here", 1), ("there", 2))
    assert not is_ssl(transport)


# gunicorn: gateway/main.py


def test_gunicorn_has_what_our_process_overrides() -> None:
    overridden = {
        Master: (
            gunicorn.arbiter.Arbiter,
            {"init_signals", "manage_workers", "murder_workers", "reap_workers", "spawn_worker", "stop"},
        ),
        ServingProcess: (
            UvicornWorker,
            {"__init__", "_serve", "callback_notify", "handle_exit", "init_signals"},
        ),
        GrpcProcess: (gunicorn.workers.base.Worker, {"init_signals", "load_wsgi", "notify", "run"}),
        PropagatingLogger: (gunicorn.glogging.Logger, {"setup"}),
    }
    for cls, (base, names) in overridden.items():
        own = {name for name, value in vars(cls).items() if inspect.isfunction(value)}
        assert {name for name in own if hasattr(base, name)} == names
    given = list(inspect.signature(gunicorn.workers.base.Worker.__init__).parameters)
    assert given == list(inspect.signature(ServingProcess.__init__).parameters)
    assert {"CONFIG_KWARGS", "_install_sigquit_handler"} <= set(dir(UvicornWorker))
    assert gunicorn.arbiter.Arbiter.WORKER_BOOT_ERROR
    used = {"kill_worker", "kill_workers", "reap_workers", "wait_for_signals", "WORKERS"}
    assert used <= set(dir(gunicorn.arbiter.Arbiter))
    assert {"handle_exit", "on_tick"} <= set(dir(uvicorn.Server))


# asyncio and uvloop: gateway/link.py, gateway/http/exchange.py


class Awaited:
    """What a Task takes for a future: `Waiter` has the same attributes."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._asyncio_future_blocking = False
        self._loop = loop

    def __await__(self) -> Generator["Awaited", None, str]:
        self._asyncio_future_blocking = True
        yield self
        return "awaited"

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    def add_done_callback(
        self, callback: Callable[["Awaited"], object], *, context: Context | None = None
    ) -> None:
        self._loop.call_soon(callback, self, context=context)

    def result(self) -> None:
        """Say that there is a result."""


@pytest.mark.parametrize("new_loop", LOOPS)
def test_a_task_takes_for_a_future_what_has_these_attributes(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    assert set(vars(Awaited)) & set(dir(Waiter)) >= {"__await__", "get_loop", "add_done_callback", "result"}
    assert "_asyncio_future_blocking" in Waiter.__slots__

    async def wait() -> str:
        return await Awaited(asyncio.get_running_loop())

    with asyncio.Runner(loop_factory=new_loop) as runner:
        assert runner.run(wait()) == "awaited"


@pytest.mark.parametrize("new_loop", LOOPS)
def test_a_future_hands_itself_to_who_drives_the_coroutine_that_awaits_it(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    async def drive() -> object:
        future = asyncio.get_running_loop().create_future()

        async def wait() -> None:
            await future

        coroutine = wait()
        given = coroutine.send(None)
        assert given is future
        assert given._asyncio_future_blocking
        given._asyncio_future_blocking = False
        done: list[object] = []
        given.add_done_callback(done.append)
        given.set_result(None)
        while not done:
            await asyncio.sleep(0)
        with pytest.raises(StopIteration):
            coroutine.send(None)
        return done[0]

    with asyncio.Runner(loop_factory=new_loop) as runner:
        assert isinstance(runner.run(drive()), asyncio.Future)
