"""Judges YAML for Kubernetes and compose: images, commands, variables, ports, probes, mounts, config maps.

Pure. Documents are composed, not built, so that each finding has its line; aliases are looked at once.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any

import yaml

from torchrelay.cli.migrate import check_commands, check_config, check_variables, known_routes, shell_commands
from torchrelay.cli.migrate.findings import Finding

#: Nodes that are looked at; manifests have some thousand.
NODES_LIMIT = 100_000
_GRPC_PORTS = ("7070", "7071")
#: KServe's resources that run TorchServe without naming it.
_FRAMEWORK = "pytorch"
_TEMPLATE = re.compile(r"\{\{[^{}\n]*\}\}")
_TEMPLATE_LINE = re.compile(r"^[ \t]*\{\{[^{}\n]*\}\}[ \t]*$", re.MULTILINE)
#: In the order in which a container runs them: compose has `entrypoint`, Kubernetes `args`.
_COMMANDS = ("entrypoint", "command", "args", "test")
#: Keys of a chart's values that hold an image.
_OTHER_IMAGES = re.compile(r"(pytorch|kserve)/torchserve")

Fields = dict[str, yaml.Node]


def judge(text: str) -> list[Finding]:
    """Say what a file's documents mean here. Raises ValueError for what is no YAML."""
    found: list[Finding] = []
    beside: list[Finding] = []
    looked = 0
    # The parser in Python: the one in C has no bound to how deep it goes.
    try:
        waiting = list(yaml.compose_all(_filled_in(text), Loader=yaml.SafeLoader))
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"no YAML: {error}") from error
    seen: set[int] = set()
    while waiting:
        node = waiting.pop()
        looked += 1
        if node is None or id(node) in seen or looked > NODES_LIMIT:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            fields = {str(key.value): value for key, value in node.value}
            beside += _of_any_container(fields)
            found += _mapping(fields)
            waiting += [value for _, value in node.value]
        elif isinstance(node, yaml.SequenceNode):
            waiting += node.value
    # Of manifests that have nothing else to do with TorchServe, these say nothing.
    return [*found, *beside] if found else []


def _filled_in(text: str) -> str:
    """Put something in the place of what Helm fills in, each on its line."""
    return _TEMPLATE.sub("filled-in", _TEMPLATE_LINE.sub("", text)) if "{{" in text else text


def _mapping(fields: Fields) -> Iterator[Finding]:
    for key, inner in fields.items():
        if key == "image" or _OTHER_IMAGES.match(_text(inner)):
            yield from check_commands.judge_image(_text(inner), _line(inner))
    yield from _commands(fields)
    for name, value, line in (*_listed_variables(fields), *_mapped_variables(fields)):
        if check_variables.is_known(name):
            yield from check_variables.judge(name, value, line)
    yield from _probe(fields)
    yield from _kserve(fields)
    for key, inner in fields.items():
        # Of a config map; a block's text begins on the line below its key.
        if key.endswith(".properties") and isinstance(inner, yaml.ScalarNode):
            is_block = inner.style in ("|", ">")
            yield from check_config.judge(inner.value.encode(), _line(inner) - (0 if is_block else 1))


def _commands(fields: Fields) -> Iterator[Finding]:
    """Judge what a container or a health check runs; arguments follow their command."""
    given = [fields[key] for key in _COMMANDS if key in fields]
    words = [word for value in given for word in _words(value)]
    if not words:
        return
    line = _line(given[0])
    yield from check_commands.judge(words, line)
    for at, word in enumerate(words[:-1]):
        if word == "-c":  # of a shell
            for command in shell_commands.commands_in(words[at + 1]):
                yield from check_commands.judge(command.words, line)


def _words(value: yaml.Node) -> Sequence[str]:
    if isinstance(value, yaml.SequenceNode):
        return [text for part in value.value if (text := _text(part))]
    commands = shell_commands.split(_text(value)) or []
    return [word for words in commands for word in words]


def _listed_variables(fields: Fields) -> Iterator[tuple[str, str, int]]:
    """Yield the variables of `env: [{name:, value:}]` and `environment: [NAME=VALUE]`."""
    for key in ("env", "environment"):
        listed = fields.get(key)
        for part in listed.value if isinstance(listed, yaml.SequenceNode) else ():
            if isinstance(part, yaml.MappingNode):
                one = {str(name.value): value for name, value in part.value}
                yield _text(one.get("name")), _text(one.get("value")), _line(part)
            else:
                name, _, value = _text(part).partition("=")
                yield name, value, _line(part)


def _mapped_variables(fields: Fields) -> Iterator[tuple[str, str, int]]:
    for key in ("env", "environment", "data"):
        mapped = fields.get(key)
        if isinstance(mapped, yaml.MappingNode):
            yield from ((str(name.value), _text(value), _line(name)) for name, value in mapped.value)


def _probe(fields: Fields) -> Iterator[Finding]:
    http = fields.get("httpGet")
    if not isinstance(http, yaml.MappingNode):
        return
    asked = {str(key.value): _text(value) for key, value in http.value}
    path, port, line = asked.get("path", "/"), asked.get("port", ""), _line(http)
    target = known_routes.target_of(f"http://host{path}")
    if target.route is not None:
        what = f"a probe of {path} on port {port}"
        yield Finding("same", what, "/readyz on the management port says more, and asks for no key", line)
    elif port in known_routes.PORTS and path != "/":
        yield Finding("fails", f"a probe of {path}, which is no route here", "/ping, /livez or /readyz", line)


def _of_any_container(fields: Fields) -> Iterator[Finding]:
    for key in ("containerPort", "targetPort"):
        if _text(fields.get(key)) in _GRPC_PORTS:
            what = f"port {_text(fields[key])} is gRPC's, which needs the extra `grpc`, part of `all`"
            yield Finding("same", what, line=_line(fields[key]))
    if mounted := _text(fields.get("mountPath")):
        yield Finding("same", f"the mount {mounted} stays", line=_line(fields["mountPath"]))


def _kserve(fields: Fields) -> Iterator[Finding]:
    predictor = fields.get("predictor")
    if not isinstance(predictor, yaml.MappingNode) or "image" in _all_keys(predictor):
        return
    if _FRAMEWORK in _all_keys(predictor):
        what = "KServe's own runtime for PyTorch runs TorchServe's image"
        advice = "name a ServingRuntime of yours, with an image in which torchrelay is"
        yield Finding("differs", what, advice, _line(predictor))


def _all_keys(node: yaml.Node) -> set[str]:
    """Return the keys and texts a few floors deep: `pytorch:`, and `modelFormat: {name: pytorch}`."""
    found: set[str] = set()
    waiting: list[tuple[Any, int]] = [(node, 0)]
    while waiting:
        one, depth = waiting.pop()
        if isinstance(one, yaml.MappingNode) and depth < 4:
            for key, value in one.value:
                found.add(str(key.value))
                waiting.append((value, depth + 1))
        elif isinstance(one, yaml.ScalarNode):
            found.add(str(one.value))
    return found


def _text(node: yaml.Node | None) -> str:
    return str(node.value) if isinstance(node, yaml.ScalarNode) else ""


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1
