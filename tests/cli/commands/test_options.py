"""What `--help` says of defaults, which it knows without loading the settings, is what they are."""

from tests.cli.command_line import run
from torchrelay.cli.commands import options
from torchrelay.shared.settings import DEFAULT_CACHE_LIMIT_BYTES, GatewaySettings


def test_the_default_addresses_are_those_of_the_gateway() -> None:
    config = GatewaySettings()
    assert config.inference_address == options.DEFAULT_INFERENCE
    assert config.management_address == options.DEFAULT_MANAGEMENT
    assert config.metrics_address == options.DEFAULT_METRICS
    shown = run("gateway", "--help").output
    assert all(
        f"[default: {config_address}]" in " ".join(shown.split())
        for config_address in (config.inference_address, config.management_address, config.metrics_address)
    )


def test_the_default_limit_of_a_cache_is_the_nodes() -> None:
    assert options.DEFAULT_CACHE_LIMIT_GB * options.GIGABYTE == DEFAULT_CACHE_LIMIT_BYTES
