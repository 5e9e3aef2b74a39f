"""Writes TorchServe's snapshot files: a config.properties that also lists the models served.

Pure. `config_properties` reads them, as any config.properties.
"""

import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Literal

from torchrelay.shared.settings import StartupModel
from torchrelay.shared.torchserve.config_parsers import MODEL_NUMBERS

Kind = Literal["startup", "snapshot", "shutdown"]
#: The key that only a snapshot has.
KEY = "model_snapshot"


def file_name(kind: Kind, at_ms: int) -> str:
    """Return the name of a snapshot of this moment, in local time.

    Names sort by time, except in the hour that comes twice when summer time ends.
    """
    at = datetime.fromtimestamp(at_ms / 1000)
    return f"{at:%Y%m%d%H%M%S}{at_ms % 1000:03d}-{kind}.cfg"


def render(models: Iterable[StartupModel], config: Mapping[str, str], *, name: str, created_ms: int) -> str:
    """Write a snapshot called `name`: the models as they are, and the configuration they run under."""
    by_name: dict[str, dict[str, dict[str, object]]] = {}
    for model in models:
        by_name.setdefault(model.name, {})[model.version] = _state(model)
    content = {
        "name": name,
        "modelCount": sum(map(len, by_name.values())),
        "created": created_ms,
        "models": by_name,
    }
    # Java reads Latin-1; it knows the escapes that json writes for all other characters.
    import javaproperties  # PERF: it brings http and xml, 30 ms, and most servers write no snapshot

    return javaproperties.dumps({**config, KEY: json.dumps(content, indent=2)}, timestamp=None)


def _state(model: StartupModel) -> dict[str, object]:
    return {
        "defaultVersion": model.is_default,
        "marName": model.archive_name,
        **{key: getattr(model, field) for key, field in MODEL_NUMBERS.items()},
        "runtimeType": model.runtime,
    }
