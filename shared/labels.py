"""Labels of nodes, which models may ask for: `zone=a`, `rack=3`. Pure."""

import re
from collections.abc import Iterable, Mapping

from torchrelay.shared.quoting import quoted
from torchrelay.shared.wire.fields import LABELS_LIMIT, Labels

#: As `wire.fields.LabelText`.
_TEXT = re.compile(r"[A-Za-z0-9._/-]{1,63}")
_ALLOWED = "1 to 63 letters, digits, '.', '_', '-' and '/'"


def parse(texts: Iterable[str]) -> Labels:
    """Read labels, each written NAME=VALUE. Raises ValueError for what is none, or names one twice."""
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.strip().partition("=")
        if not equals:
            raise ValueError(f"expected a label as NAME=VALUE, found {quoted(text)!r}")
        if name in found:
            raise ValueError(f"the label {quoted(name)} is given twice")
        found[name] = value
    return checked(found)


def checked(labels: Mapping[str, str]) -> Labels:
    """Return labels sorted by name. Raises ValueError for what can't be one, and for too many."""
    if len(labels) > LABELS_LIMIT:
        raise ValueError(f"{len(labels)} labels are more than the limit of {LABELS_LIMIT}")
    for text in (text for label in labels.items() for text in label):
        if not _TEXT.fullmatch(text):
            raise ValueError(f"{quoted(text)!r} is no name or value of a label, which have {_ALLOWED}")
    return tuple(sorted(labels.items()))


def shown(labels: Labels) -> str:
    """Write labels as they are given."""
    return ", ".join(f"{name}={value}" for name, value in labels)
