"""The operations are the routes of each port, with their methods and keys."""

from typing import Any

import pytest
from falcon.routing import CompiledRouter

from tests.gateway.fakes import templates
from tests.gateway.openapi.test_documents import FULL, MAKERS, PLAIN, ids
from torchrelay.gateway.api.base_app import App
from torchrelay.gateway.app import inference_app, management_app, metrics_app, shared_app
from torchrelay.gateway.link import Link
from torchrelay.shared.settings import GatewaySettings

PORTS = ["inference", "management", "metrics", "shared"]
_FIELDS = {
    "{model}": "{model_name}",
    "{workflow}": "{workflow_name}",
    "{target}": "{model_name}",
    "{version}": "{model_version}",
    "versions/{rest:path}": "versions/{model_version}",
    "{rest:path}": "{sub_path}",
}
#: Routes that no document tells of: any path below another, and TorchServe's oldest spellings.
UNTOLD = {
    "/ping/{sub_path}",
    "/metrics/{sub_path}",
    "/{model_name}/predict",
    "/{model_name}/{model_version}/predict",
}
#: Its case doesn't count, so that it is no route of falcon's.
WORKFLOW_PREDICTIONS = "/wfpredict/{workflow_name}"


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
    if port in ("inference", "shared"):
        there.add(WORKFLOW_PREDICTIONS)
    assert there - UNTOLD == told


#: Methods that are only there to refuse, as TorchServe does.
REFUSED = {
    "/models/{model_name}/{model_version}/set-default": {"delete"},
}


@pytest.mark.parametrize("config", [PLAIN, FULL], ids=["plain", "full"])
@pytest.mark.parametrize("port", PORTS)
def test_a_port_describes_the_methods_of_a_route_and_the_key_that_opens_it(
    port: str, config: GatewaySettings
) -> None:
    described: Any = MAKERS[port](config)
    router = app(port, config)._router
    for path, operations in described["paths"].items():
        if path == WORKFLOW_PREDICTIONS:
            continue
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
