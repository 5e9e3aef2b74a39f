"""Writes docs/configuration.md from the settings classes: `python docs/generate.py`.

A field's meaning is its `#:` comment.
"""

import inspect
import re
from pathlib import Path

import msgspec

from cli import compose
from shared import settings
from shared.ts_config import Said

TARGET = Path(__file__).parent / "configuration.md"

HEAD = """\
# Configuration

<!-- Written by docs/generate.py from the settings classes; change those. -->

Where a value comes from, strongest first:

1. `TS_<KEY>` in the environment, only if config.properties says `enable_envvars_config=true`
   (`TS_ALLOWED_URLS` needs `use_env_allowed_urls=true` as well);
2. the command line (`torchrelay serve --help`); `--enable-model-api` can switch on and never off;
3. config.properties: `TS_CONFIG_FILE`, else `--ts-config`, else `./config.properties`;
4. the default below.

`$$NAME$$` inside a value of the file is replaced by the environment's NAME. All faults are reported
together, before anything starts. Keys without an effect here are named once at start.

## Keys of config.properties that have an effect

{keys}

`number_of_gpu` bounds the GPUs that `torchrelay serve` offers. `load_models` takes `all`, or a comma
list of archives and `name=archive`, with or without blanks around the commas.
"""

SECTIONS = (
    (settings.BrokerSettings, compose.BROKER_FIELDS),
    (settings.GatewaySettings, compose.GATEWAY_FIELDS),
    (settings.NodeSettings, {}),
)


def configuration():
    """Return the page's text."""
    parts = [HEAD.format(keys=", ".join(f"`{key}`" for key in sorted(Said.__struct_fields__)) + ".")]
    for cls, keys in SECTIONS:
        parts.append(f"## {inspect.getdoc(cls).split('.')[0]}\n")
        parts.append("| setting | default | config.properties | meaning |\n|---|---|---|---|")
        meanings = read_meanings(inspect.getsource(cls))
        key_of = {field: key for key, field in keys.items()}
        for field in msgspec.structs.fields(cls):
            key = f"`{key_of[field.name]}`" if field.name in key_of else ""
            parts.append(f"| `{field.name}` | {write_default(field)} | {key} | {meanings[field.name]} |")
        parts.append("")
    return "\n".join(parts)


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
