"""The flags of `torchserve`, as TorchServe has them."""

import pytest

from torchrelay.shared.torchserve import command_line


def test_only_one_of_start_stop_and_version_is_taken() -> None:
    for one in ("--start", "--stop", "--version"):
        assert getattr(command_line.parser().parse_args([one]), one.strip("-"))
    with pytest.raises(SystemExit):
        command_line.parser().parse_args(["--start", "--stop"])


@pytest.mark.parametrize(
    ("short", "long", "name"),
    [
        ("--ncs", "--no-config-snapshots", "no_config_snapshots"),
        ("--dt", "--disable-token-auth", "token_auth"),
    ],
)
def test_a_short_flag_means_what_the_long_one_does(short: str, long: str, name: str) -> None:
    for words, is_set in (([short], True), ([long], True), ([], False)):
        assert getattr(command_line.parser().parse_args(words), name) is is_set
