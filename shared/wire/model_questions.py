"""What gateways ask of the broker about models and the fleet: questions, which change nothing."""

from torchrelay.shared.wire import fields as f
from torchrelay.shared.wire.items import Message


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
