"""What gateways ask of the broker about models and the fleet, which changes nothing; and short replies."""

from torchrelay.shared.wire import fields as f
from torchrelay.shared.wire.items import Message, VersionReadiness


class DescribeModel(Message, frozen=True):
    """Describe the default version, one version, or with `every` all of them."""

    ask: f.Number
    model: f.Said
    version: f.Said | None
    every: bool = False


class ListModels(Message, frozen=True):
    """List models by name, from `offset` on."""

    ask: f.Number
    limit: f.Number
    offset: f.Number


class ReadFleet(Message, frozen=True):
    """Ask for all that `status` shows."""

    ask: f.Number


class ReadMetrics(Message, frozen=True):
    """The broker's figures, which are the whole fleet's."""

    ask: f.Number


class ReadHealth(Message, frozen=True):
    """Whether every default version has the workers it wants, or may still get them."""

    ask: f.Number


class ReadReadiness(Message, frozen=True):
    """Ask which versions can answer requests now."""

    ask: f.Number


class HealthRead(Message, frozen=True):
    """`healthy`: no model lacks workers for good.

    `is_starting`: models named at start are still being registered.
    """

    ask: f.Number
    healthy: bool
    is_starting: bool = False


class ReadinessRead(Message, frozen=True):
    """Every version, and whether it can answer requests now; `is_starting` as in HealthRead.

    A model of the start that could not be registered is one of them, without a version.
    """

    ask: f.Number
    versions: tuple[VersionReadiness, ...]
    is_starting: bool = False
