"""What a person in front of a terminal is told by `serve`."""

import pytest

from tests.cli import bodies
from tests.cli.start.test_part_settings import plan
from torchrelay.cli.start.progress import Terminal, example_call
from torchrelay.shared.settings import StaticKey
from torchrelay.shared.torchserve.config_keys import ConfigValues


def test_the_example_works_against_what_is_loaded() -> None:
    url = "http://127.0.0.1:8080"
    assert example_call(bodies.fleet(), url) == f"curl {url}/ping"
    loaded = bodies.fleet(bodies.model(model_name="a"), bodies.model(model_name="b c", workers_ready=1))
    assert example_call(loaded, url) == f"curl -T FILE {url}/predictions/b%20c"
    assert example_call(loaded, "unix:/x.sock").startswith(
        "curl -T FILE --unix-socket /x.sock http://localhost/"
    )
    secured = example_call(bodies.fleet(), "https://h:1", needs_key=True)
    assert secured == "curl -k -H 'Authorization: Bearer KEY' https://h:1/ping"


@pytest.mark.parametrize(("asks_for_keys", "header"), [(True, 1), (False, 0)])
def test_the_example_has_a_key_where_keys_are_asked_for(asks_for_keys: bool, header: int) -> None:
    """Keys from a secrets file or the environment leave no key file behind."""
    said = ConfigValues(disable_token_authorization=not asks_for_keys)
    keys = (StaticKey("inference", "alice", "a-long-enough-key"),)
    made = plan(said, static_keys=keys if asks_for_keys else ())
    said_lines: list[str] = []
    Terminal(made, said_lines.append).settled(bodies.fleet())
    assert "\n".join(said_lines).count(" -H 'Authorization: Bearer KEY' ") == header
