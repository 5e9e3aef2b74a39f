"""gRPC as users have it: real processes, kills, clients that vanish, and a server that stops."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.integration.archives import make_store
from tests.integration.fleet import Fleet, fleet
from tests.support import eventually
from torchrelay.gateway.grpc.protos import inference_pb2 as pb
from torchrelay.gateway.grpc.protos import management_pb2

pytestmark = pytest.mark.integration

SERVICE = "org.pytorch.serve.grpc.inference.InferenceAPIsService"
MANAGEMENT = "org.pytorch.serve.grpc.management.ManagementAPIsService"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("grpc")
    with fleet(folder, make_store(folder / "models", "echo", "waits_for_a_file")) as made:
        made.serve(
            "--models", "all", "--enable-model-api", "--grpc-inference", f"{made.address}:7070",
            "--grpc-management", f"{made.address}:7071", "--grpc",
        )  # fmt: skip
        eventually(lambda: made.ready("echo") and made.ready("waits_for_a_file"))
        yield made


@pytest.fixture
def channel(served: Fleet) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"{served.address}:7070") as made:
        yield made


def predict(channel: grpc.Channel, model: str, body: bytes, timeout: float = 60) -> bytes:
    call: Any = channel.unary_unary(
        f"/{SERVICE}/Predictions", response_deserializer=pb.PredictionResponse.FromString
    )
    request = pb.PredictionsRequest(model_name=model, input={"body": body})
    answer = call(request.SerializeToString(), timeout=timeout, wait_for_ready=True)
    assert isinstance(answer, pb.PredictionResponse)
    return answer.prediction


def manage(served: Fleet, method: str, request: Message) -> str:
    with grpc.insecure_channel(f"{served.address}:7071") as made:
        call: Any = made.unary_unary(
            f"/{MANAGEMENT}/{method}", response_deserializer=management_pb2.ManagementResponse.FromString
        )
        answer = call(request.SerializeToString(), timeout=60)
        assert isinstance(answer, management_pb2.ManagementResponse)
        return answer.msg


def speaking(served: Fleet) -> set[int]:
    """Return the processes that have grpc imported."""
    found = set()
    for process in served.descendants():
        with contextlib.suppress(OSError):
            if "cygrpc" in Path(f"/proc/{process.pid}/maps").read_text():
                found.add(process.pid)
    return found


def test_both_services_serve_the_fleet(served: Fleet, channel: grpc.Channel) -> None:
    assert predict(channel, "echo", b"\x00raw") == b"\x00raw"
    scaled = management_pb2.ScaleWorkerRequest(model_name="echo", min_worker=1, synchronous=True)
    assert manage(served, "ScaleWorker", scaled) == "Workers scaled to 1 for model: echo"
    assert '"echo"' in manage(served, "ListModels", management_pb2.ListModelsRequest())
    # It may be ready before it says so.
    eventually(lambda: f"gRPC        {served.address}:7070" in served.output())


def test_one_process_has_grpc_imported_and_is_replaced_when_it_is_killed(
    served: Fleet, channel: grpc.Channel
) -> None:
    (before,) = speaking(served)
    os.kill(before, signal.SIGKILL)
    eventually(lambda: before not in speaking(served))
    assert predict(channel, "echo", b"again") == b"again"
    eventually(lambda: len(speaking(served)) == 1)
    assert speaking(served) != {before}


#: Asks a model that waits for a file, more often than its workers take at a time, and waits for the answers.
CLIENT = """
import sys, grpc
from torchrelay.gateway.grpc.protos import inference_pb2 as pb
request = pb.PredictionsRequest(model_name="waits_for_a_file", input={"body": sys.argv[3].encode()})
with grpc.insecure_channel(sys.argv[1]) as channel:
    call = channel.unary_unary("/" + sys.argv[2] + "/Predictions")
    for answer in [call.future(request.SerializeToString(), wait_for_ready=True) for _ in range(20)]:
        answer.result()
"""


def test_a_client_that_is_killed_leaves_no_request_behind(served: Fleet, tmp_path: Path) -> None:
    file = tmp_path / "go on"
    with subprocess.Popen([sys.executable, "-c", CLIENT, f"{served.address}:7070", SERVICE, file]) as client:
        try:
            eventually(lambda: _waiting(served) > 5)
        finally:
            client.kill()
    eventually(lambda: _waiting(served) == 0)
    file.touch()


def _waiting(served: Fleet) -> int:
    (entry,) = (one for one in served.status()["models"] if one["modelName"] == "waits_for_a_file")
    return int(entry["queueDepth"])


def test_a_server_that_stops_says_so_and_ends_its_calls(served: Fleet, channel: grpc.Channel) -> None:
    stub = health_pb2_grpc.HealthStub(channel)
    watch = stub.Watch(health_pb2.HealthCheckRequest())
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
    (server,) = served.processes
    server.send_signal(signal.SIGTERM)
    assert server.wait(30) == 0
    with pytest.raises(grpc.RpcError):
        for _ in watch:
            pass
    eventually(lambda: not served.descendants())
