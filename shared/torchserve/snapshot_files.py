"""TorchServe's snapshot files: a config.properties that also says which models were served, and how.

Pure. They are read as any config.properties is, see `config_properties`; here they are written.
"""

import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Literal

import javaproperties

from torchrelay.shared.settings import StartupModel

Kind = Literal["startup", "snapshot", "shutdown"]
#: The key that makes a snapshot of a config.properties.
KEY = "model_snapshot"


def file_name(kind: Kind, at_ms: int) -> str:
    """Name a snapshot of this moment, in local time.

    Names sort as the moments do, but in the hour that comes twice.
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
    # Java's readers want Latin-1; the escapes that json makes of the rest are theirs too.
    return javaproperties.dumps({**config, KEY: json.dumps(content, indent=2)}, timestamp=None)


def _state(model: StartupModel) -> dict[str, object]:
    return {
        "defaultVersion": model.is_default,
        "marName": model.archive_name,
        "minWorkers": model.min_workers,
        "maxWorkers": model.max_workers,
        "batchSize": model.batch_size,
        "maxBatchDelay": model.max_batch_delay_ms,
        "responseTimeout": model.response_timeout_s,
        "startupTimeout": model.startup_timeout_s,
        "runtimeType": model.runtime,
    }
