"""Makes the calls of a transcript to a server, and says how its answers differ; or writes them down.

    python -m tests.compatibility.grpc_player --torchserve PATH/bin/torchserve [--group REGEX]

records `grpc_transcripts` anew from the real TorchServe. A transcript is lines of JSON: the first says how
its server is started, each other one is a call: what is asked before it by REST (`setup`, as in
`tests/golden`), the call, and its answer: status code, description, messages.
"""

import argparse
import base64
import json
import re
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import empty_pb2, json_format
from google.protobuf.message import Message
from google.rpc import error_details_pb2  # noqa: F401  # what `status` may hold

from tests.compatibility.replaying import GOLDEN, START_OPTIONS, listeners
from tests.installation import GRPC, command
from tests.integration.fleet import own_address
from tests.support import eventually
from torchrelay.gateway.grpc.protos import inference_pb2, management_pb2, open_inference_pb2

sys.path[:0] = [str(GOLDEN)]

import replay  # isort: skip  # of tests/golden

TRANSCRIPTS = Path(__file__).parent / "grpc_transcripts"
INFERENCE = "org.pytorch.serve.grpc.inference.InferenceAPIsService"
MANAGEMENT = "org.pytorch.serve.grpc.management.ManagementAPIsService"
OPEN_INFERENCE = "org.pytorch.serve.grpc.openinference.GRPCInferenceService"
#: Method -> (port, what it is sent, what it answers, whether requests and answers are streams).
METHODS: dict[str, tuple[str, type[Message], type[Message], bool, bool]] = {
    f"{INFERENCE}/Ping": ("inference", empty_pb2.Empty, inference_pb2.TorchServeHealthResponse, False, False),
    f"{INFERENCE}/Predictions": (
        "inference", inference_pb2.PredictionsRequest, inference_pb2.PredictionResponse, False, False,
    ),
    f"{INFERENCE}/StreamPredictions": (
        "inference", inference_pb2.PredictionsRequest, inference_pb2.PredictionResponse, False, True,
    ),
    f"{INFERENCE}/StreamPredictions2": (
        "inference", inference_pb2.PredictionsRequest, inference_pb2.PredictionResponse, True, True,
    ),
    **{
        f"{MANAGEMENT}/{name}": ("management", request, management_pb2.ManagementResponse, False, False)
        for name, request in (
            ("DescribeModel", management_pb2.DescribeModelRequest),
            ("ListModels", management_pb2.ListModelsRequest),
            ("RegisterModel", management_pb2.RegisterModelRequest),
            ("ScaleWorker", management_pb2.ScaleWorkerRequest),
            ("SetDefault", management_pb2.SetDefaultRequest),
            ("UnregisterModel", management_pb2.UnregisterModelRequest),
        )
    },
    **{
        f"{OPEN_INFERENCE}/{name}": (
            "inference",
            getattr(open_inference_pb2, f"{name}Request"),
            getattr(open_inference_pb2, f"{name}Response"),
            False,
            False,
        )
        for name in (
            "ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelInfer",
        )
    },
}  # fmt: skip
#: Of a call that sets none.
DEADLINE_S = 30.0
#: The gRPC ports of a server, on its own address.
PORTS = {"inference": 7070, "management": 7071}

Answer = dict[str, Any]  # JSON
Case = dict[str, Any]


class Player:
    """Makes the calls of one transcript to one server."""

    def __init__(self, target: Any, address: str) -> None:  # Any: replay.Target
        self._runner = replay.Runner(target)
        self._target = target
        self._channels = {
            port: grpc.insecure_channel(f"{address}:{number}", [("grpc.max_receive_message_length", -1)])
            for port, number in PORTS.items()
        }
        self._background: list[threading.Thread] = []

    def __enter__(self) -> "Player":
        for channel in self._channels.values():
            grpc.channel_ready_future(channel).result(timeout=60)
        # A server that has just started has no workers yet.
        eventually(lambda: "Unhealthy" not in json.dumps(self._ping()))
        return self

    def __exit__(self, *_: object) -> None:
        for channel in self._channels.values():
            channel.close()

    def play(self, case: Case) -> Answer:
        """Make a call, and what comes before it; return its answer."""
        for step in case.get("setup", ()):
            self._prepare(step)
        answer = self.call(case["call"])
        for thread in self._background:
            thread.join()
        self._background.clear()
        told: Answer = json.loads(self._target.normalise(json.dumps(answer)))
        return told

    def _ping(self) -> Answer:
        ping = {"method": f"{INFERENCE}/Ping", "requests": [{}]}
        answer = self.call(ping)
        if answer["code"] != "OK":  # it asks for keys
            answer = self.call(ping | {"metadata": {"authorization": "Bearer {{key:inference}}"}})
        return answer

    def _prepare(self, step: dict[str, Any]) -> None:
        if "background_call" in step:
            thread = threading.Thread(target=self.call, args=(step["background_call"],), daemon=True)
            thread.start()
            self._background.append(thread)
        elif "call" in step:
            answer = self.call(step["call"])
            assert answer["code"] == "OK", answer
        else:
            self._runner.step(step)

    def call(self, call: dict[str, Any]) -> Answer:
        """Make one call; return code, description and messages."""
        method = call["method"]
        port, kind, answers, is_stream, is_streamed = METHODS.get(
            method, ("inference", empty_pb2.Empty, empty_pb2.Empty, False, False)
        )
        channel = self._channels[call.get("port", port)]
        requests = [self._packed(kind, one) for one in call["requests"]]
        metadata = [(name, self._target.fill(value)) for name, value in call.get("metadata", {}).items()]
        options = {"timeout": call.get("deadline_s", DEADLINE_S), "metadata": metadata}
        made: Any = (  # grpc's own
            _stream if is_stream else _unary
        )(channel, f"/{method}", answers, is_streamed)
        got: list[Any] = []
        answered = threading.Semaphore(0)
        try:
            answer = made(
                _sent(requests, answered if call.get("is_in_steps") else None) if is_stream else requests[0],
                **options,
            )
            for message in answer if is_streamed else [answer]:
                got.append(_unpacked(message))
                answered.release()
        except grpc.RpcError as error:
            return {"code": error.code().name, "description": error.details(), "messages": got}
        return {"code": "OK", "messages": got}

    def _packed(self, kind: type[Message], said: Any) -> bytes:
        if isinstance(said, str):  # what is no message
            return base64.b64decode(said)
        said = json.loads(self._target.fill(json.dumps(said)))
        if "input" in said:
            said["input"] = {name: _base64(value) for name, value in said["input"].items()}
        return json_format.ParseDict(said, kind()).SerializeToString(deterministic=True)


def _unary(channel: grpc.Channel, method: str, answers: type[Message], is_streamed: bool) -> Any:
    make = channel.unary_stream if is_streamed else channel.unary_unary
    return make(method, response_deserializer=answers.FromString)


def _stream(channel: grpc.Channel, method: str, answers: type[Message], _is_streamed: bool) -> Any:
    return channel.stream_stream(method, response_deserializer=answers.FromString)


def _sent(requests: Sequence[bytes], answered: threading.Semaphore | None) -> Iterator[bytes]:
    """Yield requests; with `answered`, each one and the end only when the one before has its answer."""
    for request in requests:
        yield request
        if answered is not None:
            answered.acquire(timeout=DEADLINE_S)


def _base64(value: Any) -> str:
    """Take an input as a transcript has it: a text, a text so many times, or base64."""
    match value:
        case {"b64": text}:
            return str(text)
        case {"repeat": [unit, times]}:
            return base64.b64encode(unit.encode() * times).decode()
    return base64.b64encode(value.encode()).decode()


def _unpacked(message: Message) -> Any:
    """Write a message as JSON; bytes as text where they are one, and what is JSON itself as that."""
    said = json_format.MessageToDict(message, preserving_proto_field_name=True)
    if "prediction" in said:
        data = base64.b64decode(said["prediction"])
        try:
            said["prediction"] = data.decode()
        except UnicodeDecodeError:
            said["prediction"] = {"b64": said["prediction"]}
    return said


# Comparing


def differences(case: Case, got: Answer) -> str:
    """Say how an answer differs from the one that was recorded; "" if it doesn't."""
    wanted = case["answer"]
    volatile = case.get("volatile", ())
    got = {**got, "messages": [_without_extra(one) for one in got["messages"]]}
    if _plain(wanted, volatile) == _plain(got, volatile):
        return ""
    return f"{json.dumps(got, ensure_ascii=False)}, recorded was {json.dumps(wanted, ensure_ascii=False)}"


def _without_extra(message: Any) -> Any:
    """Leave out what our answers have beyond TorchServe's: the sequence that a prediction is of."""
    return {name: value for name, value in message.items() if name != "sequence_id"}


def _plain(answer: Answer, volatile: Sequence[str]) -> str:
    text = json.dumps(answer, ensure_ascii=False, sort_keys=True)
    for pattern in volatile:
        text = re.sub(pattern, "<volatile>", text)
    return text


# Servers


def load(transcript: Path) -> tuple[dict[str, Any], list[Case]]:
    """Read a transcript: how its server is started, and its cases."""
    server, *cases = (json.loads(line) for line in transcript.read_text(encoding="utf-8").splitlines())
    return server["server"], cases


def play_all(
    server: dict[str, Any], cases: Sequence[Case], torchserve: str, store: Path, scratch: Path
) -> Iterator[tuple[Case, Answer]]:
    """Start a server by a `torchserve` command, make all calls, and stop it."""
    address = own_address()
    options = replay.parser().parse_args(
        ["--keep", "--scratch", str(scratch), "--store", str(store), *listeners(address), "-"]
    )
    config = [*server["config"], *(f"grpc_{port}_address={address}" for port in PORTS)]
    options.grpc_inference_port, options.grpc_management_port = PORTS["inference"], PORTS["management"]
    started = {**server, "config": config, "env": {**server["env"], GRPC: "yes"}}
    running = replay.Server(f"{torchserve} {START_OPTIONS}", started, options, "grpc")
    try:
        running.wait_until_up()
        with Player(running.target, address) as player:
            for case in cases:
                yield case, player.play(case)
    finally:
        running.stop()


def record(
    torchserve: str, server: dict[str, Any], cases: Sequence[Case], store: Path, scratch: Path
) -> Iterator[Case]:
    """Make all calls to the real TorchServe; yield each case with its answer."""
    for case, answer in play_all(server, cases, torchserve, store, scratch):
        yield {**case, "answer": answer}


def replay_all(
    server: dict[str, Any], cases: Sequence[Case], store: Path, scratch: Path, *more_config: str
) -> dict[str, str]:
    """Make all calls to a server of ours; return how answers differ from those recorded, by case."""
    started = {**server, "config": [*server["config"], *more_config]}
    answers = play_all(started, cases, command("torchserve"), store, scratch)
    return {case["name"]: how for case, answer in answers if (how := differences(case, answer))}


def main() -> int:
    """Record the transcripts."""
    from tests.compatibility import grpc_cases, open_inference_cases

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--torchserve", required=True, help="the real one")
    parser.add_argument("--group", default="", metavar="REGEX", help="only groups of such a name")
    parser.add_argument("--out", type=Path, default=TRANSCRIPTS)
    parser.add_argument("--store", type=Path, help="a store that was built already")
    parser.add_argument("--scratch", type=Path, help="where servers leave their logs")
    options = parser.parse_args()
    torchserve = str(Path(shutil.which(options.torchserve) or "").absolute())
    options.out.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="grpc") as folder:
        scratch = options.scratch or Path(folder)
        store = options.store or grpc_cases.build_store(Path(folder, "store"))
        for name, server, cases in open_inference_cases.FILES:
            if not re.search(options.group, name):
                continue
            lines = [{"server": server}]
            for case in record(torchserve, server, cases, store, scratch):
                print(f"{name}/{case['name']}: {json.dumps(case['answer'], ensure_ascii=False)[:300]}")
                lines.append(case)
            text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
            (options.out / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
