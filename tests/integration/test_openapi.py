"""The OpenAPI documents against a running server: what is sent by them is answered by them.

schemathesis makes requests that fit a document, and some that don't; all from a fixed seed. A status,
content type, header or body that the document doesn't announce fails, and so does a fault of ours.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import hypothesis
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck
from openapi_spec_validator import OpenAPIV30SpecValidator
from schemathesis.specs.openapi import checks

from tests.integration.archives import make_store
from tests.integration.fleet import Fleet, fleet
from tests.support import eventually

pytestmark = pytest.mark.integration

#: Per operation and mode; all of this file's tests together take about a minute.
EXAMPLES = 20
CHECKS = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]
MODES = [schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("openapi")
    with fleet(folder, make_store(folder / "models", "echo", "describes")) as made:
        config = folder / "config.properties"
        config.write_text("max_request_size=100000\nts_open_inference_protocol=true\n")
        made.serve("--enable-model-api", "--models", "echo.mar", "--slots", "1", "--ts-config", str(config))
        eventually(lambda: made.ready("echo"))
        yield made


@pytest.fixture(autouse=True)
def nothing_breaks(server: Fleet) -> Iterator[None]:
    yield
    assert server.predict("echo", b"still here").content == b"still here"
    assert "gateway.bug" not in server.output()
    assert "Traceback" not in server.output()


def operations(server: Fleet, port: str, path: str = "/") -> list[Any]:  # Any: schemathesis' generics
    base = getattr(server, port)
    document = server.http.options(base + path).json()
    validator: Any = OpenAPIV30SpecValidator(document)  # Any: it has no types
    assert not list(validator.iter_errors())
    schema: Any = schemathesis.openapi.from_dict(document)
    schema.config.update(base_url=base)
    return [found.ok() for found in schema.get_all_operations()]


def fuzz(operation: Any, mode: schemathesis.GenerationMode, **known: Mapping[str, object]) -> None:
    """Call one operation many times; `known` fixes some of its parameters."""
    session = requests.Session()

    @hypothesis.given(case=operation.as_strategy(generation_mode=mode, **known))
    @hypothesis.settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    def call(case: Any) -> None:
        response = case.call(session=session, timeout=30)
        case.validate_response(response, checks=CHECKS)

    call()
    session.close()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("port", ["inference", "management", "metrics"])
def test_any_parameters_are_answered_as_the_document_says(
    server: Fleet, port: str, mode: schemathesis.GenerationMode
) -> None:
    for operation in operations(server, port):
        if mode in MODES[:1] or operation.query:  # in a path, any text is as good as another
            fuzz(operation, mode)


@pytest.mark.parametrize("port", ["inference", "management"])
def test_calls_of_a_model_that_is_there_are_answered_as_the_document_says(server: Fleet, port: str) -> None:
    changing = ("put", "delete")
    for operation in operations(server, port):
        if "{model_name}" in operation.path and operation.method not in changing:
            fuzz(operation, MODES[0], path_parameters={"model_name": "echo", "model_version": "1.0"})


@pytest.mark.parametrize(
    ("port", "path"), [("inference", "/predictions/echo"), ("management", "/models/echo")]
)
def test_a_models_own_document_is_as_true(server: Fleet, port: str, path: str) -> None:
    for operation in operations(server, port, path):
        if operation.method in ("get", "post"):
            fuzz(operation, MODES[0], path_parameters={"model_name": "echo", "model_version": "1.0"})


def test_changes_of_a_model_are_answered_as_the_document_says(server: Fleet) -> None:
    by_id = {
        operation.definition.raw["operationId"]: operation for operation in operations(server, "management")
    }
    spare = {"model_name": "describes", "model_version": "1.0"}
    none = {"min_worker": 0, "max_worker": 0}
    fuzz(by_id["registerModel"], MODES[0], query={"url": "describes.mar", "initial_workers": 0})
    fuzz(by_id["setAutoScale"], MODES[0], path_parameters=spare, query=none)
    fuzz(by_id["version_setAutoScale"], MODES[0], path_parameters=spare, query=none)
    fuzz(by_id["setDefault"], MODES[0], path_parameters=spare)
    fuzz(by_id["version_unregisterModel"], MODES[0], path_parameters=spare)
    fuzz(by_id["unregisterModel"], MODES[0], path_parameters=spare)
