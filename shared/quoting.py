"""How much of what came from outside is repeated in logs and answers."""

#: Enough to recognise a value by.
QUOTED_LIMIT_CHARS = 200
#: Of what is cut out of a text, its end is left: there stands where the fault was.
_END_CHARS = 60
_GAP = " ... "


def quoted(value: object) -> str:
    """Return a value as text of at most QUOTED_LIMIT_CHARS characters, which a message can carry."""
    text = value if isinstance(value, str) else str(value)
    if len(text) > QUOTED_LIMIT_CHARS:
        text = text[: QUOTED_LIMIT_CHARS - _END_CHARS - len(_GAP)] + _GAP + text[-_END_CHARS:]
    # JSON may have halves of surrogate pairs, which UTF-8 hasn't.
    return text.encode(errors="replace").decode()
