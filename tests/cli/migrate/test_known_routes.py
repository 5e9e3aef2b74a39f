"""Which requests our ports answer."""

import pytest

from torchrelay.cli.migrate import known_routes


@pytest.mark.parametrize(
    ("url", "api"),
    [
        ("http://h:8080/predictions/m", "inference"),
        ("http://h:8080/predictions/m/1.0/a/b", "inference"),
        ("$HOST/predictions/$MODEL?x=1", "inference"),
        ("http://h/explanations/m", "inference"),
        ("http://h/m/predict", "inference"),
        ("http://h/v1/models/m:predict", "inference"),
        ("http://h/v2/health/ready", "inference"),
        ("http://h/ping/", "inference"),
        ("http://h/models", "management"),
        ("http://h/models/m/1.0/set-default", "management"),
        ("http://h/v1/models/m", "management"),
        ("http://h/token?type=inference", "management"),
        ("http://h/workflows/w", "management"),
        ("http://h/WfPredict/w/x", "inference"),
        ("http://h/metrics?name[]=a", "metrics"),
        ("http://h/nothing", None),
        ("http://h", None),
        ("", None),
    ],
)
def test_a_path_leads_to_its_api(url: str, api: str | None) -> None:
    route = known_routes.target_of(url).route
    assert (route and route.api) == api


def test_whose_a_url_is_its_route_or_port_tells() -> None:
    assert known_routes.target_of("http://h:8081/plugin").is_servers
    assert not known_routes.target_of("https://example.com/file.tgz").is_servers
    assert known_routes.target_of("http://h/workflows?url=w.war").registers_workflow
    assert not known_routes.target_of("http://h/workflows/w").registers_workflow


@pytest.mark.parametrize(
    ("method", "url", "changes"),
    [
        ("POST", "http://h/predictions/m", False),
        ("GET", "http://h/models", False),
        ("POST", "http://h/models?url=a.mar", True),
        ("DELETE", "http://h/models/m", True),
        ("GET", "http://h/token", True),
        ("POST", "http://h/plugin", True),
        ("OPTIONS", "http://h/", False),
    ],
)
def test_requests_that_change_something_are_known(method: str, url: str, changes: bool) -> None:
    assert known_routes.target_of(url).changes_something(method) is changes
