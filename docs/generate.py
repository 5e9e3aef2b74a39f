"""Writes docs/configuration.md from the settings classes and `config_keys`: `python docs/generate.py`.

A field's meaning is its `#:` comment.
"""

import inspect
import re
from pathlib import Path

import msgspec

from torchrelay.shared import settings
from torchrelay.shared.torchserve import config_keys

TARGET = Path(__file__).parent / "configuration.md"

HEAD = """\
# Configuration

<!-- Written by docs/generate.py from the settings classes; change those. -->

Where a value comes from, strongest first:

1. `TS_<KEY>` in the environment, only if config.properties says `enable_envvars_config=true`
   (`TS_ALLOWED_URLS` needs `use_env_allowed_urls=true` as well, `TS_OPEN_INFERENCE_PROTOCOL=oip` nothing);
2. the command line (`torchrelay serve --help`, `torchserve --help`); `--enable-model-api` can switch on and
   never off;
3. config.properties: `TS_CONFIG_FILE`, else `--ts-config`, else `./config.properties`. `torchserve` without
   `--ncs` looks for the newest snapshot in `logs/config` before the last;
4. the default below.

`$$NAME$$` inside a value of the file is replaced by the environment's NAME. All faults are reported
together, before anything starts. Keys without an effect are named once at start, with the reason.

## Keys of config.properties

| key | variable | sets |
|---|---|---|
{keys}

These two switch the reading itself: `enable_envvars_config`, `use_env_allowed_urls`.

## Keys of config.properties without an effect

| key | why |
|---|---|
{reasons}

Any other key is kept, as in TorchServe, and means nothing.
"""

SECTIONS = {
    "broker": settings.BrokerSettings,
    "gateway": settings.GatewaySettings,
    "node": settings.NodeSettings,
}


def configuration():
    """Return the page's text."""
    keys = [f"| `{key}` | {write_variable(key)} | {write_target(key)} |" for key in sorted(config_keys.KEYS)]
    reasons = [f"| `{key}` | {why} |" for key, why in sorted(config_keys.REASONS.items())]
    parts = [HEAD.format(keys="\n".join(keys), reasons="\n".join(reasons))]
    for process, cls in SECTIONS.items():
        parts.append(f"## {inspect.getdoc(cls).split('.')[0]}\n")
        parts.append("| setting | default | config.properties | meaning |\n|---|---|---|---|")
        meanings = read_meanings(inspect.getsource(cls))
        key_of = {field: key for key in config_keys.KEYS for field in config_keys.settings_of(key, process)}
        for field in msgspec.structs.fields(cls):
            key = f"`{key_of[field.name]}`" if field.name in key_of else ""
            parts.append(f"| `{field.name}` | {write_default(field)} | {key} | {meanings[field.name]} |")
        parts.append("")
    return "\n".join(parts)


def write_variable(key):
    """Write the variable that overrides a key."""
    name = config_keys.variable(key)
    return f"`{name}`" if name else "none"


def write_target(key):
    """Write what a key sets: a field of ours, or what no field says alone."""
    fields = [f"`{field}`" for process in SECTIONS for field in config_keys.settings_of(key, process)]
    row = config_keys.KEYS[key]
    meaning = ", ".join(dict.fromkeys(fields)) or row.effect
    return f"{meaning}; differs from TorchServe: {row.differs}" if row.differs else meaning


def read_meanings(source):
    """Map each field of a class to the `#:` comment above it."""
    meanings, comment = {}, []
    for line in source.splitlines():
        if found := re.match(r"    #: (.*)", line):
            comment.append(found[1])
        elif found := re.match(r"    (\w+): ", line):
            meanings[found[1]] = " ".join(comment).replace("|", "\\|")
            comment = []
    return meanings


def write_default(field):
    """Write a field's default as a person would type it."""
    if field.required:
        return "given by the command"
    value = field.default
    if value in (None, "", ()):
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    text = ", ".join(value) if isinstance(value, tuple) else str(value)
    return f"`{text}`".replace("|", "\\|")


if __name__ == "__main__":
    TARGET.write_text(configuration())
