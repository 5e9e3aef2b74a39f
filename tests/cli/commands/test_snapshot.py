"""A snapshot of a server restores what it served."""

import json
from pathlib import Path

import javaproperties
from msgspec.structs import replace
from typer.testing import CliRunner

from tests.cli import bodies
from tests.cli.fake_server import serving
from torchrelay.cli.main import app
from torchrelay.shared.torchserve import config_properties

VERSION = bodies.version(
    model_url="https://host/a/m.mar", min_workers=2, max_workers=3, batch_size=4, max_batch_delay=50,
    response_timeout=60, startup_timeout=70,
)  # fmt: skip
SERVED = {
    "GET /fleet": (200, bodies.fleet(bodies.model(is_default=False), bodies.model(model_version="2.0"))),
    "GET /models": (200, {"models": [{"modelName": "m", "modelUrl": "m.mar"}]}),
    "GET /models/m/all": (200, [VERSION, replace(VERSION, model_version="2.0")]),
}


def test_a_snapshot_of_a_server_is_read_again_as_what_it_served(tmp_path: Path) -> None:
    file = tmp_path / "today.cfg"
    with serving(dict(SERVED)) as server:
        command = ["snapshot", str(file), "--management", server.url]
        assert CliRunner().invoke(app, command).exit_code == 0
        again = CliRunner().invoke(app, command)
        assert (again.exit_code, "--force" in again.stderr) == (1, True)
        assert CliRunner().invoke(app, [*command, "--force"]).exit_code == 0
        printed = CliRunner().invoke(app, ["snapshot", "--management", server.url]).stdout
    one, two = config_properties.read(file.read_bytes(), {}).file.model_snapshot or ()
    assert (one.name, one.version, one.archive_name, one.is_default) == ("m", "1.0", "m.mar", False)
    assert (one.min_workers, one.max_workers, one.batch_size, one.max_batch_delay_ms) == (2, 3, 4, 50)
    assert (one.response_timeout_s, one.startup_timeout_s, one.runtime) == (60, 70, "python")
    assert (two.version, two.is_default) == ("2.0", True)
    assert json.loads(javaproperties.loads(printed)["model_snapshot"])["modelCount"] == 2
