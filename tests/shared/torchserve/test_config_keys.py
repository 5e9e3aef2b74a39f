"""The table of keys: each row names settings that exist, and a row is all that a key needs."""

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from torchrelay.shared import settings
from torchrelay.shared.torchserve import config_keys

PROCESSES: dict[str, type[settings.Settings]] = {
    "broker": settings.BrokerSettings,
    "gateway": settings.GatewaySettings,
    "node": settings.NodeSettings,
}


def test_every_row_names_settings_that_exist_or_says_what_the_key_does() -> None:
    for name, key in config_keys.KEYS.items():
        targets = {process: config_keys.settings_of(name, process) for process in PROCESSES}
        for process, fields in targets.items():
            known = {field.name for field in msgspec.structs.fields(PROCESSES[process])}
            assert set(fields) <= known, name
        assert sum(map(len, targets.values())) == len(key.sets.split()), (
            f"{name} sets something of no process"
        )
        assert bool(key.sets) != bool(key.effect), name


def test_a_key_has_an_effect_or_a_reason_why_it_has_none() -> None:
    assert set(config_keys.KEYS) == set(config_keys.ConfigValues.__struct_fields__)
    assert not config_keys.KEYS.keys() & config_keys.REASONS.keys()
    assert all(config_keys.reason(key) is None for key in (*config_keys.KEYS, *config_keys.SWITCHES))


#: Runs with a table that has one row more: what reads, merges, sets and documents keys finds it there.
WITH_A_ROW = r"""
import importlib.util, sys
spec = importlib.util.find_spec("torchrelay.shared.torchserve.config_keys")
source = open(spec.origin).read()
first = "    inference_address: Annotated["
assert source.count(first) == 1
row = '    tries: Annotated[int | None, Key(p.parse_number(2), "broker.attempt_limit node.slots")] = None'
keys = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = keys
exec(compile(source.replace(first, row + chr(10) + first), spec.origin, "exec"), vars(keys))

from torchrelay.cli.start import part_settings
from torchrelay.shared.settings import SettingsError
from torchrelay.shared.torchserve import config_properties
nothing = keys.ConfigValues()
for file, environ, expected in (
    (b"tries = 5", {}, 5),
    (b"tries = 5\nenable_envvars_config = true", {"TS_TRIES": "7"}, 7),
):
    read = config_properties.read(file, environ)
    values = part_settings.merge(nothing, read)
    assert part_settings.broker_settings(values, state_dir="s").attempt_limit == expected
    assert part_settings.node_settings(values, name="n", cache_dir="c").slots == expected
    assert dict(part_settings.snapshot_config(nothing, read))["tries"] == str(expected)
try:
    config_properties.read(b"tries = 1", {})
except SettingsError as error:
    assert "tries: '1' is not a whole number from 2" in str(error)
else:
    raise AssertionError("1 was taken")

sys.path.insert(0, sys.argv[1])
import generate
page = generate.configuration()
assert "| `tries` | `TS_TRIES` | `attempt_limit`, `slots` |" in page
assert "| `attempt_limit` | `2` | `tries` |" in page
"""


def test_a_row_is_all_that_a_key_needs_to_be_read_merged_set_and_documented() -> None:
    docs = Path(__file__).parents[3] / "docs"
    ran = subprocess.run(
        [sys.executable, "-c", WITH_A_ROW, str(docs)], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr


VARIABLES = {
    "job_queue_size": "TS_JOB_QUEUE_SIZE",
    "token_expiration_min": "TS_TOKEN_EXPIRATION_TIME_MIN",
    "ts_header_key_sequence_id": "TS_HEADER_KEY_SEQUENCE_ID",
    "metrics_config": "TS_METRICS_CONFIG",
    "models": None,
    "model_snapshot": None,
    "metric_time_interval": None,
}


@pytest.mark.parametrize(("key", "name"), VARIABLES.items())
def test_a_key_has_the_variable_that_torchserve_gives_it(key: str, name: str | None) -> None:
    assert config_keys.variable(key) == name
