"""Parameters of a call, from its query or a JSON body; pure.

A query is read as leniently as TorchServe reads it: what is no number is as good as absent, anything
but "true" is false, and of a parameter that comes twice the first counts. JSON may have
single quotes and bare names, as TorchServe's reader allows; a wrong type in it is the caller's fault.
"""

import re
from collections.abc import Mapping
from urllib.parse import parse_qsl

import pyjson5

from torchrelay.shared import errors
from torchrelay.shared.wire.fields import SAID_LIMIT_CHARS

#: Half of a character, which JSON's escapes can say and nothing can encode.
_LONE_SURROGATE = re.compile(r"[\ud800-\udfff]")
_WHOLE_NUMBER = re.compile(r"[+-]?[0-9]{1,10}")


def query_pairs(query: str) -> list[tuple[str, str]]:
    """Decode a query string, in order."""
    return parse_qsl(query, keep_blank_values=True, errors="replace")


class Parameters:
    """Parameters of a call, by name; values are what a query or JSON gave."""

    def __init__(self, values: Mapping[str, object], *, strict: bool) -> None:
        self._values = values
        self._strict = strict

    @classmethod
    def of_query(cls, query: str) -> "Parameters":
        """Read a query string."""
        return cls(dict(reversed(query_pairs(query))), strict=False)

    @classmethod
    def of_json(cls, body: bytes) -> "Parameters":
        """Read a JSON object. Raises BadRequest for anything else, and later for wrong types in it."""
        try:
            values = pyjson5.decode_buffer(body)
        except pyjson5.Json5DecoderException as error:
            # Its messages quote what was expected as Python's bytes.
            reason = (error.message or "").replace("b'", "'")
            raise errors.BadRequest(f"The body is not JSON: {reason}") from error
        if not isinstance(values, dict):
            raise errors.BadRequest("The body is not a JSON object.")
        return cls({name: value for name, value in values.items() if value is not None}, strict=True)

    def text(self, name: str) -> str | None:
        """Return a text, None where it is absent."""
        value = self._values.get(name)
        if value is None:
            return None
        if not isinstance(value, str):
            raise errors.BadRequest(f"Parameter {name} must be a text.")
        if len(value) > SAID_LIMIT_CHARS:
            raise errors.BadRequest(f"Parameter {name} has more than {SAID_LIMIT_CHARS} characters.")
        if _LONE_SURROGATE.search(value):
            raise errors.BadRequest(f"Parameter {name} is no Unicode text.")
        return value

    def number(self, name: str, default: int) -> int:
        """Return a whole number of 32 bits."""
        value = self._values.get(name)
        if value is None:
            return default
        if isinstance(value, str) and _WHOLE_NUMBER.fullmatch(value):
            value = int(value)
        # A number of JSON may have more digits than Python writes.
        if isinstance(value, int) and not isinstance(value, bool) and -(2**31) <= value < 2**31:
            return value
        if self._strict:
            raise errors.BadRequest(f"Parameter {name} must be a whole number.")
        return default

    def flag(self, name: str, *, default: bool) -> bool:
        """Return a boolean: true is `true` in any case."""
        value = self._values.get(name)
        return default if value is None else str(value).lower() == "true"
