"""The fleet on one screen: everything that is wrong is named."""

from tests.cli import bodies
from tests.cli.bodies import FLEET
from tests.cli.command_line import ask
from tests.cli.fake_server import serving


def test_status_fits_80_columns_and_names_every_trouble() -> None:
    with serving({"GET /fleet": (200, FLEET)}) as server:
        result = ask(server, "status")
    assert result.exit_code == 0, result.output
    assert max(len(line) for line in result.output.splitlines()) <= 80
    for words in (
        "up 3 min 5 s",
        "digits",
        "1.0 *",
        "2/2",
        "3/100",
        "12 ms",
        "ready",
        "failing",
        "3/32",
    ):
        assert words in result.output
    flat = " ".join(result.output.split())
    assert "wants 1, has 0: restarting in 4 s" in flat
    assert "No module named 'torchvision'" in flat
    assert "requests like id-1 are refused for 250 s, 5 so far: 2 workers ended" in flat


def test_status_of_an_empty_fleet_says_what_is_missing() -> None:
    with serving({"GET /fleet": (200, bodies.fleet(nodes=()))}) as server:
        result = ask(server, "status")
    assert "No model is registered." in result.output
    assert "No node has joined" in result.output


def test_status_shows_which_node_drains() -> None:
    nodes = (bodies.node(name="a"), bodies.node(name="b", is_draining=True))
    with serving({"GET /fleet": (200, bodies.fleet(nodes=nodes))}) as server:
        lines = ask(server, "status").output.splitlines()
    assert [line.split()[1] for line in lines if line.startswith(("a ", "b "))] == ["here", "draining"]
