r"""Makes text safe to be shown: whoever wrote it can't move the cursor, recolour, hide or forge anything.

Archives, handlers, urls, clients and peers have names and messages in what commands print and logs hold. A
terminal obeys escape sequences in them, a reader of logs takes a newline for a new entry, and marks of the
direction of writing show other text than there is. They are written as Python writes them: `\x1b`, `\u202e`.
"""

import re

#: What is neither ASCII that can be seen nor a space; the rest is looked at one by one.
_ODD = re.compile(r"[^\x20-\x7e]")
_ODD_OR_COLOUR = re.compile(r"\x1b\[[0-9;]*m|[^\x20-\x7e]")
_NO_COLOUR = "\x1b[0m"
#: Not printable by Unicode, and harmless: a space, and what joins or parts letters and emoji.
_HARMLESS = "\u00a0\u200c\u200d"


def printable(text: str) -> str:
    """Escape all but what can be seen, newlines and tabs."""
    return text if text.isprintable() else _ODD.sub(_escaped, text)


def one_line(text: str) -> str:
    """Escape newlines as well."""
    return text if text.isprintable() else printable(text).replace("\n", "\\n")


def coloured_line(text: str) -> str:
    """Escape as `one_line` does, but let colours be, which end with the line."""
    if text.isprintable():
        return text
    shown = _ODD_OR_COLOUR.sub(lambda found: found[0] if len(found[0]) > 1 else _escaped(found), text)
    return shown.replace("\n", "\\n") + (_NO_COLOUR if "\x1b" in shown else "")


def printable_json(text: str) -> str:
    """Escape what stands in JSON's texts, so that it is read as it was; newlines stay."""
    return text if text.isprintable() else _ODD.sub(_escaped_for_json, text)


def _escaped(found: re.Match[str]) -> str:
    character = found[0]
    if character.isprintable() or character in "\n\t" or character in _HARMLESS:
        return character
    return character.encode("unicode_escape").decode("ascii")


def _escaped_for_json(found: re.Match[str]) -> str:
    character = found[0]
    if character.isprintable() or character == "\n":
        return character
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at] << 8 | units[at + 1]:04x}" for at in range(0, len(units), 2))
