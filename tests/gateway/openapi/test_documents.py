"""The documents are OpenAPI, and say what TorchServe's clients look for; see integration for their truth."""

from collections.abc import Callable
from typing import Any

import pytest
from openapi_spec_validator import OpenAPIV30SpecValidator

from torchrelay.gateway.openapi import documents
from torchrelay.shared.settings import GatewaySettings

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


def test_a_models_document_has_its_name_in_its_paths_and_no_more_parameters() -> None:
    document: Any = documents.of_model("ä {b}/c", PLAIN)
    assert "/predictions/%C3%A4%20%7Bb%7D%2Fc" in document["paths"]
    assert not [path for path in document["paths"] if "{" in path]
    assert document["info"]["title"] == "RESTful API for: ä {b}/c"


def test_every_prediction_may_say_how_long_it_waits_and_hears_when_to_come_again() -> None:
    document = documents.inference(GatewaySettings())
    operations = [path["post"] for path in document["paths"].values() if "post" in path]  # type: ignore[attr-defined]  # JSON
    assert len(operations) == 13
    for operation in operations:
        (header,) = [one for one in operation["parameters"] if one["in"] == "header"]
        assert header["name"] == "x-request-timeout-ms"
        assert header["schema"] == {"type": "integer", "minimum": 1, "maximum": 86_400_000}
        assert "retry-after" in operation["responses"]["503"]["headers"]
        assert "504" in operation["responses"]


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


def test_a_registration_says_the_same_in_the_query_and_in_a_body() -> None:
    document: Any = documents.management(PLAIN)
    in_query = {
        one["name"]: one["schema"] | {"description": one["description"]}
        for one in document["paths"]["/models"]["post"]["parameters"]
    }
    assert in_query == document["components"]["schemas"]["Registration"]["properties"]
