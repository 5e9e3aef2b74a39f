"""Commands of scripts."""

import pytest

from torchrelay.cli.migrate import check_commands


@pytest.mark.parametrize(
    ("line", "levels"),
    [
        ("torchserve --start --model-store s --models all --ncs", ["same"]),
        ("sudo -u ts /opt/bin/torchserve --stop", ["same"]),
        ("python -m ts.model_server --start --model-store s", ["same"]),
        ('torchserve --start "${ARGS[@]}"', ["same"]),
        ("torchserve --start --log-config l.xml --plugins-path p", ["ignored", "ignored", "same"]),
        ("torchserve --start --nothing", ["fails", "same"]),
        ("torchserve --start --model-store", ["fails"]),
        ("torchserve --help", []),
        ("java -cp x org.pytorch.serve.ModelServer", ["fails"]),
        ("FROM pytorch/torchserve:0.12.0-cpu", ["differs"]),
        ("FROM python:3.11", []),
        ("ARG BASE_IMAGE=pytorch/torchserve:latest-cpu", ["differs"]),
        ("docker run torchserve:mine", ["differs"]),
        ("wait_for torchserve-predictor /opt/torchserve/bin http://h/torchserve", []),
        ("docker run -p 8080:8080 -e TS_CONFIG_FILE=/c pytorch/torchserve:latest-gpu", ["same", "differs"]),
        ("docker run x/kserve/torchserve-kfs:0.9 torchserve --start", ["differs", "same"]),
        ("pip install torch torchserve==0.12.0 torch-model-archiver", ["differs"]),
        ("apt-get install -y openjdk-17-jdk", ["ignored"]),
        ("torch-model-archiver --model-name m", ["same"]),
        ("export TS_MODEL_SERVER_HOME=/x", ["ignored"]),
        ("ENV TS_NUMBER_OF_GPU 1", ["same"]),
        ("curl -s http://localhost:8080/ping", ["same"]),
        ("curl http://localhost:8080/ping -d", ["same"]),
        (
            "grpcurl -plaintext localhost:7070 org.pytorch.serve.grpc.inference.InferenceAPIsService/Ping",
            ["same"],
        ),
        ("python ts_scripts/torchserve_grpc_client.py infer m a.jpg", ["same"]),
        ("ls -l | grep torch", []),
    ],
)
def test_a_command_is_judged(line: str, levels: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert [one.level for one in check_commands.judge_script(line)] == levels
    assert capsys.readouterr() == ("", "")
