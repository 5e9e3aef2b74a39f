"""Keys, bounds and the access log of calls by gRPC."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.gateway.fakes import FakeLink
from tests.gateway.grpc import raw_http2
from tests.gateway.grpc.serving import INFERENCE, Client, healthy, refused, served
from tests.support import eventually_async
from torchrelay.gateway import auth
from torchrelay.gateway.grpc import grpc_server
from torchrelay.gateway.grpc.protos import inference_pb2 as pb
from torchrelay.gateway.grpc.protos import management_pb2
from torchrelay.shared.wire import codec
from torchrelay.shared.wire import messages as m

KEYS = {"inference": "the-key-of-inference", "management": "the-key-of-management"}
NO_KEY = "Token Authorization failed. Token either incorrect, expired, or not provided correctly"


class Keyed(FakeLink):
    """A broker that has told its keys."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.says_at_start = [
            m.KeysChanged(
                tuple(
                    m.AccessKey(api, auth._sha256(auth._sha256(key.encode())).decode(), None)  # type: ignore[arg-type]
                    for api, key in KEYS.items()
                )
            )
        ]


def bearer(key: str) -> list[tuple[str, str]]:
    return [("authorization", f"Bearer {key}")]


def replies(ask: Any) -> m.Message:
    return m.ModelsListed(ask.ask, (), None) if isinstance(ask, m.ListModels) else healthy(ask)


async def ping(client: Client, key: str | None) -> Any:
    return await client.unary("Ping", b"", pb.TorchServeHealthResponse, metadata=bearer(key) if key else None)


async def page(client: Client, key: str | None) -> Any:
    request = management_pb2.ListModelsRequest(limit=1)
    return await client.manage("ListModels", request, metadata=bearer(key) if key else None)


async def test_each_service_has_its_key_and_nothing_is_done_without_it() -> None:
    async with served(replies=replies, link_type=Keyed, token_authorization=True) as client:
        for call, own, other in ((ping, "inference", "management"), (page, "management", "inference")):
            for key in (None, "wrong", KEYS[other]):
                assert await refused(call(client, key)) == ("PERMISSION_DENIED", NO_KEY)
            assert client.link.asked == []
            await call(client, KEYS[own])
            assert client.link.asked
            client.link.asked.clear()


async def test_a_guesser_is_told_to_wait() -> None:
    async with served(link_type=Keyed, token_authorization=True) as client:
        for number in range(auth.WRONG_KEYS_LIMIT):
            assert (await refused(ping(client, f"guess-{number}")))[0] == "PERMISSION_DENIED"
        assert (await refused(ping(client, "one-more")))[0] == "RESOURCE_EXHAUSTED"
        await ping(client, KEYS["inference"])


async def test_a_stream_does_nothing_more_when_its_key_has_ended() -> None:
    request = pb.PredictionsRequest(model_name="m", input={"body": b"x"}, sequence_id="a")
    async with served(link_type=Keyed, token_authorization=True) as client:
        call = client.exchange(metadata=bearer(KEYS["inference"]))
        await call.write(request)
        assert (await call.read()).prediction == b"x"
        client.link._session.keys.replace((), now=0.0)
        await call.write(request)
        assert (await call.read()).status.message == NO_KEY
        assert len(client.link.submitted) == 1
        call.cancel()


async def test_while_the_keys_are_not_known_a_call_may_come_again() -> None:
    async with served(token_authorization=True) as client:
        assert (await refused(ping(client, "a-key")))[0] in ("UNAVAILABLE", "INTERNAL")


async def test_every_call_has_a_line_in_the_access_log(tmp_path: Path) -> None:
    log = tmp_path / "access_log.log"
    async with served(access_log=str(log)) as client:
        await client.predict()
        assert (await refused(client.predict("")))[0] == "INTERNAL"
        await eventually_async(lambda: log.exists() and log.read_text().count("\n") == 2)
    first, second = log.read_text().splitlines()
    assert f'"gRPC {INFERENCE[1:]}Predictions HTTP/2.0" 0 ' in first
    assert " - /127." in first
    assert f'"gRPC {INFERENCE[1:]}Predictions HTTP/2.0" 13 ' in second


async def test_a_call_that_sends_nothing_is_ended_and_one_that_is_answered_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(grpc_server, "SWEEP_S", 0.01)
    monkeypatch.setattr("torchrelay.gateway.grpc.awaited_clients.BEGIN_S", 0.1)
    async with served(max_request_size=1024) as client:
        call = client.upload()
        idle = client.exchange()
        code, _ = await refused(_done(call))
        assert code == "RESOURCE_EXHAUSTED"
        assert client.link.submitted == []
        # A stream may be silent for as long as it likes.
        await idle.write(pb.PredictionsRequest(model_name="m", input={"body": b"x"}, sequence_id="a"))
        assert (await idle.read()).prediction == b"x"
        idle.cancel()


async def _done(call: Any) -> Any:
    return await call


async def test_too_many_calls_are_refused_and_silent_ones_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc_server, "SPARE_CALLS", 2)
    monkeypatch.setattr("torchrelay.gateway.grpc.awaited_clients.SHORT_WAIT_S", 0.0)
    async with served(replies=replies, in_flight_limit_jobs=1) as client:
        # A connection has no more streams than that, so that the call that is one too many comes on another.
        silent = [client.upload() for _ in range(3)]
        ends = asyncio.gather(*map(_done, silent), return_exceptions=True)
        await eventually_async(lambda: client.calls == 3)
        assert (await refused(page(client, None)))[0] == "UNAVAILABLE"
        assert all("RESOURCE_EXHAUSTED" in str(one) for one in await ends)
        await page(client, None)


@pytest.mark.parametrize("method", ["Predictions", "StreamPredictions"])
async def test_a_process_that_is_full_of_answers_that_nobody_takes_leaves_to_be_replaced(
    monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr(grpc_server, "SWEEP_S", 0.01)
    monkeypatch.setattr("torchrelay.gateway.grpc.awaited_clients.BEGIN_S", 0.0)
    large = codec.Response(200, "", (), bytes(1 << 20))
    request = pb.PredictionsRequest(model_name="m", input={"body": b"x"}).SerializeToString()
    async with served(lambda *_: [large, large], unsent_limit_bytes=1024, graceful_timeout_s=1) as client:
        monkeypatch.setattr("torchrelay.gateway.grpc.awaited_clients.LEAST_BYTES_PER_S", 1 << 24)
        host, _, port = client.addresses["inference"].rpartition(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(raw_http2.call(INFERENCE + method, request))
        await eventually_async(client.server._told.is_set)
        assert (await refused(client.predict()))[0] == "UNAVAILABLE"
        writer.close()
        await eventually_async(lambda: client.server._awaited.unsent_bytes == 0)
