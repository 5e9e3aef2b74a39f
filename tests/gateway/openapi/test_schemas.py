"""The schemas describe the bodies that are sent, and the parameters that are read."""

import json

import msgspec
import pytest
from openapi_schema_validator import OAS30Validator

from tests.gateway.facts import GPU_WORKER, WORKER, facts
from torchrelay.gateway.calls import answer_bodies, model_calls
from torchrelay.gateway.calls.parameters import Parameters
from torchrelay.gateway.http.standard_responses import pretty
from torchrelay.gateway.openapi import schemas
from torchrelay.gateway.openapi.schemas import REGISTRATION
from torchrelay.shared.wire import messages


@pytest.mark.parametrize("name", ["Fleet", "Version"])
def test_what_is_shown_of_fleet_and_models_is_what_the_schemas_say(name: str) -> None:
    node = messages.NodeFacts("node-a", (messages.Device("cpu", "cpu"),), 32, 1, 100, (("zone", "a"),), (5,))
    version = msgspec.structs.replace(facts(WORKER, GPU_WORKER), strategy="pack", labels=(("zone", "a"),))
    shown = {
        "Fleet": answer_bodies.fleet(messages.FleetRead(1, 5, 1.5, 1, (node,), (version,), ("slow.mar",))),
        "Version": answer_bodies.description(version),
    }
    schema = {"$ref": f"#/components/schemas/{name}", "components": {"schemas": schemas.COMPONENTS}}
    OAS30Validator(schema).validate(json.loads(pretty(shown[name])))


def test_a_component_is_called_as_its_class_without_the_ending() -> None:
    """Generated clients call their classes so."""
    assert {"Error", "Status", "Health", "Models", "Worker", "Version", "Fleet"} <= set(schemas.COMPONENTS)
    assert "Body" not in str(schemas.COMPONENTS)


def test_a_registration_is_described_with_all_parameters_that_are_read() -> None:
    read = set()

    class Noting(Parameters):
        def text(self, name: str) -> str | None:
            read.add(name)
            return "python" if name == "runtime" else "x"

        def number(self, name: str, default: int) -> int:
            read.add(name)
            return default

        def flag(self, name: str, *, default: bool) -> bool:
            read.add(name)
            assert REGISTRATION[name][0]["default"] == default
            return default

    model_calls._registration(Noting({}, strict=False), "")
    assert read == set(REGISTRATION)
