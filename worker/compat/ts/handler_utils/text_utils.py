"""Tokens and n-grams of texts, by the names that handlers used to import from torchtext."""

import re
from collections.abc import Callable, Iterator, Sequence

#: What each sign becomes, in this order.
_REPLACEMENTS = (
    (re.compile("'"), " '  "),
    (re.compile('"'), ""),
    (re.compile(r"\."), " . "),
    (re.compile("<br />"), " "),
    (re.compile(","), " , "),
    (re.compile(r"\("), " ( "),
    (re.compile(r"\)"), " ) "),
    (re.compile("!"), " ! "),
    (re.compile(r"\?"), " ? "),
    (re.compile("[;:]"), " "),
)


def ngrams_iterator(token_list: Sequence[str], ngrams: int) -> Iterator[str]:
    """Yield the tokens, then each run of two of them, and so on up to `ngrams`; joined by spaces."""
    yield from token_list
    for length in range(2, ngrams + 1):
        for start in range(len(token_list) - length + 1):
            yield " ".join(token_list[start : start + length])


def get_tokenizer(tokenizer: str | None, language: str = "en") -> Callable[[str], list[str]]:
    """Return what splits a text: at spaces (None), or as English (`basic_english`).

    Raises ValueError for any other.
    """
    if tokenizer is None:
        return str.split
    if tokenizer != "basic_english" or language != "en":
        raise ValueError(f"there is no tokenizer {tokenizer!r} for the language {language!r}")
    return _split_english


def _split_english(line: str) -> list[str]:
    """Split a text, in lower case, into words and the signs between them."""
    line = line.lower()
    for pattern, replacement in _REPLACEMENTS:
        line = pattern.sub(replacement, line)
    return line.split()
