"""The documents are OpenAPI, and say what TorchServe's clients look for; see integration for their truth."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from falcon.routing import CompiledRouter
from openapi_schema_validator import OAS30Validator
from openapi_spec_validator import OpenAPIV30SpecValidator

from tests.gateway.facts import GPU_WORKER, WORKER, facts
from tests.gateway.fakes import templates
from torchrelay.gateway.api import management, responses
from torchrelay.gateway.api.base_app import App
from torchrelay.gateway.api.parameters import Parameters
from torchrelay.gateway.app import inference_app, management_app, metrics_app, shared_app
from torchrelay.gateway.http.standard_responses import pretty
from torchrelay.gateway.link import Link
from torchrelay.gateway.openapi import documents, schemas
from torchrelay.gateway.openapi.schemas import REGISTRATION
from torchrelay.shared.settings import GatewaySettings
from torchrelay.shared.wire import messages

PLAIN = GatewaySettings()
FULL = GatewaySettings(token_authorization=True, open_inference_protocol=True)
MAKERS: dict[str, Callable[[GatewaySettings], Any]] = {
    "inference": documents.inference,
    "management": documents.management,
    "metrics": documents.metrics,
    "shared": documents.shared,
    "of_model": lambda config: documents.of_model("ä {b}/c", config),
    "management_of_model": lambda config: documents.management_of_model("m", config),
}

PORTS = ["inference", "management", "metrics", "shared"]

#: path -> method -> operation id, as TorchServe has them; those that it has twice have one of their own.
INFERENCE = {
    "/": {"options": "apiDescription"},
    "/ping": {"get": "ping"},
    "/v1/models/{model_name}:predict": {"post": "kserve_predictions"},
    "/v2/models/{model_name}/infer": {"post": "kserve_v2_predictions"},
    "/predictions/{model_name}": {"post": "predictions"},
    "/predictions/{model_name}/{model_version}": {"post": "version_predictions"},
    "/api-description": {"get": "api-description"},
}
MANAGEMENT = {
    "/": {"options": "apiDescription"},
    "/models": {"get": "listModels", "post": "registerModel"},
    "/models/{model_name}": {"get": "describeModel", "put": "setAutoScale", "delete": "unregisterModel"},
    "/models/{model_name}/{model_version}": {
        "get": "version_describeModel",
        "put": "version_setAutoScale",
        "delete": "version_unregisterModel",
    },
    "/models/{model_name}/{model_version}/set-default": {"put": "setDefault"},
    "/api-description": {"get": "api-description"},
}


def ids(document: Any) -> dict[str, dict[str, str]]:
    return {
        path: {method: operation["operationId"] for method, operation in of.items()}
        for path, of in document["paths"].items()
    }


@pytest.mark.parametrize("config", [PLAIN, FULL], ids=["plain", "full"])
@pytest.mark.parametrize("name", MAKERS)
def test_every_document_is_valid(name: str, config: GatewaySettings) -> None:
    validator: Any = OpenAPIV30SpecValidator(MAKERS[name](config))  # Any: it has no types
    faults = [str(fault) for fault in validator.iter_errors()]
    assert not faults


def test_torchserves_paths_and_operation_ids_are_there() -> None:
    for document, wanted in (
        (documents.inference(PLAIN), INFERENCE),
        (documents.management(PLAIN), MANAGEMENT),
    ):
        assert wanted.items() <= ids(document).items()
        assert document["info"]["title"] == "TorchServe APIs"  # type: ignore[index]
    assert ids(documents.metrics(PLAIN))["/metrics"] == {"get": "metrics"}


_FIELDS = {
    "{model}": "{model_name}",
    "{target}": "{model_name}",
    "{version}": "{model_version}",
    "versions/{rest:path}": "versions/{model_version}",
    "{rest:path}": "{sub_path}",
}
#: Routes that no document tells of: any path below another, TorchServe's oldest spellings, and what
#: there is none of.
UNTOLD = {
    "/ping/{sub_path}",
    "/metrics/{sub_path}",
    "/{model_name}/predict",
    "/{model_name}/{model_version}/predict",
    "/workflows/{workflow}",
}


def route(template: str) -> str:
    for ours, told in _FIELDS.items():
        template = template.replace(ours, told)
    return template


def app(port: str, config: GatewaySettings) -> App:
    link = Link(config)
    match port:
        case "inference":
            return inference_app(link, config)
        case "management":
            return management_app(link, config)
        case "metrics":
            return metrics_app(link, config)
    return shared_app(link, config)


@pytest.mark.parametrize("config", [PLAIN, FULL], ids=["plain", "full"])
@pytest.mark.parametrize("port", PORTS)
def test_a_port_describes_the_routes_that_it_has_and_no_others(port: str, config: GatewaySettings) -> None:
    there = {route(template) for template in templates(app(port, config))}
    told = {path.removesuffix(":predict").removesuffix(":explain") for path in ids(MAKERS[port](config))}
    assert there - UNTOLD == told


#: Methods that are only there to refuse, as TorchServe does.
REFUSED = {
    "/models/{model_name}/{model_version}/set-default": {"delete"},
    "/workflows": {"post"},
}


@pytest.mark.parametrize("config", [PLAIN, FULL], ids=["plain", "full"])
@pytest.mark.parametrize("port", PORTS)
def test_a_port_describes_the_methods_of_a_route_and_the_key_that_opens_it(
    port: str, config: GatewaySettings
) -> None:
    described: Any = MAKERS[port](config)
    router = app(port, config)._router
    for path, operations in described["paths"].items():
        found: Any = CompiledRouter.find(router, path)  # Any: falcon's own
        resource, responders, *_ = found
        own = {name.lower() for name, responder in responders.items() if _is_of(responder, resource)}
        told = set(operations)
        assert told <= own, path
        if "trace" not in own:  # else any method does the same
            assert own - told <= REFUSED.get(path, set()) | {"options"}, path
        if config.token_authorization:
            key: object = [{f"{resource.opened_by}Key": []}] if resource.opened_by else []
            assert all(operation["security"] == key for operation in operations.values()), path


def _is_of(responder: Any, resource: object) -> bool:
    return getattr(responder, "__self__", None) is resource


def test_a_models_document_has_its_name_in_its_paths_and_no_more_parameters() -> None:
    document: Any = documents.of_model("ä {b}/c", PLAIN)
    assert "/predictions/%C3%A4%20%7Bb%7D%2Fc" in document["paths"]
    assert not [path for path in document["paths"] if "{" in path]
    assert document["info"]["title"] == "RESTful API for: ä {b}/c"


def test_keys_are_told_where_they_are_asked_for() -> None:
    managing: Any = documents.management(FULL)
    assert managing["paths"]["/v1/models/{model_name}"]["get"]["security"] == [{"managementKey": []}]
    full: Any = documents.shared(FULL)
    assert full["paths"]["/v1/models/{model_name}"]["get"]["security"] == [{"inferenceKey": []}]
    assert full["paths"]["/predictions/{model_name}"]["post"]["security"] == [{"inferenceKey": []}]
    assert full["paths"]["/models"]["get"]["security"] == [{"managementKey": []}]
    assert full["paths"]["/token"]["get"]["security"] == [{"tokenKey": []}]
    assert full["paths"]["/metrics"]["get"]["security"] == []
    plain: Any = documents.shared(PLAIN)
    assert "security" not in plain["paths"]["/models"]["get"]
    assert "securitySchemes" not in plain["components"]


@pytest.mark.parametrize("name", ["Fleet", "Version"])
def test_what_is_shown_of_fleet_and_models_is_what_the_schemas_say(name: str) -> None:
    node = messages.NodeFacts("node-a", (messages.Device("cpu", "cpu"),), 32, 1, 100)
    version = facts(WORKER, GPU_WORKER)
    shown = {
        "Fleet": responses.fleet(messages.FleetRead(1, 5, 1.5, 1, (node,), (version,), ("slow.mar",))),
        "Version": responses.description(version),
    }
    schema = {"$ref": f"#/components/schemas/{name}", "components": {"schemas": schemas.COMPONENTS}}
    OAS30Validator(schema).validate(json.loads(pretty(shown[name])))


def test_a_component_is_called_as_its_class_without_the_ending() -> None:
    """Generated clients call their classes so."""
    assert {"Error", "Status", "Health", "Models", "Worker", "Version", "Fleet"} <= set(schemas.COMPONENTS)
    assert "Body" not in str(schemas.COMPONENTS)


def test_a_registration_says_the_same_in_the_query_and_in_a_body() -> None:
    document: Any = documents.management(PLAIN)
    in_query = {
        one["name"]: one["schema"] | {"description": one["description"]}
        for one in document["paths"]["/models"]["post"]["parameters"]
    }
    assert in_query == document["components"]["schemas"]["Registration"]["properties"]


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

    management._registration(Noting({}, strict=False), "")
    assert read == set(REGISTRATION)
