"""English contractions and what they stand for, in the order in which TorchServe's text handlers try them.

The order is part of the behaviour: a contraction that begins with an earlier one ("can't've") is never
reached by a pattern made of the keys.
"""

from collections.abc import Iterator

#: What the regular endings stand for.
_ENDINGS = {
    "n't": "not",
    "'d": "would",
    "'ll": "will",
    "'m": "am",
    "'re": "are",
    "'s": "is",
    "'ve": "have",
    "'d've": "would have",
    "'ll've": "will have",
    "n't've": "not have",
}
#: A word and its endings, or a contraction that follows no rule and its meaning.
_TABLE = """\
ain't=is not; are n't; can't=cannot; can't've=cannot have; 'cause=because; could 've n't n't've; did n't
does n't; do n't; had n't n't've; has n't; have n't; he 'd 'd've 'll 'll've 's; how'd=how did
how'd'y=how do you; how 'll 's; I 'd 'd've 'll 'll've 'm 've; i 'd 'd've 'll 'll've 'm 've; is n't
it 'd 'd've 'll 'll've 's; let's=let us; ma'am=madam; may n't; might 've n't n't've; must 've n't n't've
need n't n't've; o'clock=of the clock; ought n't n't've; shan't=shall not; sha'n't=shall not
shan't've=shall not have; she 'd 'd've 'll 'll've 's; should 've n't n't've; so 've; so's=so as
that 'd 'd've 's; there 'd 'd've 's; they 'd 'd've 'll 'll've 're 've; to 've; was n't
we 'd 'd've 'll 'll've 're 've; were n't; what 'll 'll've 're 's 've; when 's 've; where'd=where did
where 's 've; who 'll 'll've 's 've; why 's 've; will 've; won't=will not; won't've=will not have
would 've n't n't've; y'all=you all; y'all'd=you all would; y'all'd've=you all would have
y'all're=you all are; y'all've=you all have; you 'd 'd've 'll 'll've 're 've"""


def _entries() -> Iterator[tuple[str, str]]:
    for line in _TABLE.replace("\n", "; ").split("; "):
        contraction, is_irregular, meaning = line.partition("=")
        if is_irregular:
            yield contraction, meaning
            continue
        word, *endings = line.split()
        yield from ((word + ending, f"{word} {_ENDINGS[ending]}") for ending in endings)


CONTRACTION_MAP = dict(_entries())
