"""YAML for Kubernetes and compose."""

import pytest

from torchrelay.cli.migrate import check_manifest

DEPLOYMENT = """\
kind: Deployment
spec:
  template:
    spec:
      containers:
      - image: pytorch/torchserve:0.12.0-gpu
        command: ["sh", "-c", "torchserve --start --nothing"]
        env:
        - name: TS_NUMBER_OF_NETTY_THREADS
          value: "8"
        ports: [{containerPort: 7070}]
        livenessProbe: {httpGet: {path: /ping, port: 8080}}
        readinessProbe: {httpGet: {path: /a_plugin, port: 8080}}
        volumeMounts: [{mountPath: /models}]
---
kind: ConfigMap
data:
  config.properties: |
    job_queue_size=10
    vmargs=-Xmx4g
"""
COMPOSE = """\
services:
  torchserve:
    image: "pytorch/torchserve:latest"
    command: torchserve --start --foreground --models all
    environment:
      - TS_CONFIG_FILE=/c
      - JAVA_HOME=/j
    healthcheck: {test: ["CMD", "curl", "http://localhost:8080/ping"]}
  other:
    environment: {TS_JOB_QUEUE_SIZE: many}
"""
KSERVE = """\
kind: InferenceService
spec: {predictor: {model: {modelFormat: {name: pytorch}}}}
"""
HELM = """\
{{- if .Values.enabled }}
image: pytorch/torchserve:0.12.0
replicas: {{ .Values.replicas }}
{{- end }}
"""


def found(text: str) -> set[tuple[str, int]]:
    return {(one.level, one.line) for one in check_manifest.judge(text)}


def test_a_deployment_is_judged_line_by_line() -> None:
    assert found(DEPLOYMENT) == {
        ("differs", 6), ("fails", 7), ("same", 7), ("ignored", 9), ("same", 11), ("same", 12), ("fails", 13),
        ("same", 14), ("same", 18), ("ignored", 20),
    }  # fmt: skip


def test_compose_is_judged_line_by_line() -> None:
    assert found(COMPOSE) == {
        ("differs", 3), ("same", 4), ("same", 6), ("ignored", 7), ("same", 8), ("fails", 10)
    }  # fmt: skip


def test_kserves_own_runtime_and_templates_are_known() -> None:
    assert found(KSERVE) == {("differs", 2)}
    assert found(HELM) == {("differs", 2)}


def test_an_entry_point_comes_before_its_command_and_charts_have_images_elsewhere() -> None:
    text = "command: [--start, --nothing]\nentrypoint: [torchserve]\n"
    assert found(text) == {("fails", 2), ("same", 2)}
    assert found("torchserve_image: pytorch/torchserve:latest-gpu\nname: torchserve\n") == {("differs", 1)}


def test_other_manifests_say_nothing() -> None:
    assert found("kind: Service\nspec: {ports: [{port: 80}]}\n") == set()


@pytest.mark.parametrize("text", ["a: [", "a: &b {c: *b", "[" * 1200, "\t- x: {{"])
def test_what_is_no_yaml_is_said_to_be_none(text: str) -> None:
    with pytest.raises(ValueError, match="no YAML"):
        check_manifest.judge(text)


def test_aliases_are_looked_at_once() -> None:
    rows = ["a0: &a0 {image: pytorch/torchserve}"]
    rows += [f"a{n + 1}: &a{n + 1} [" + ", ".join([f"*a{n}"] * 10) + "]" for n in range(30)]
    assert found("\n".join(rows)) == {("differs", 1)}
    assert found("a: &a {image: pytorch/torchserve, b: *a}") == {("differs", 1)}
