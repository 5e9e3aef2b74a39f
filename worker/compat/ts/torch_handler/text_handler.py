"""The base of handlers of texts: what cleans a text, and the vocabulary; needs captum for explanations."""

import functools
import os
import re
import string
import unicodedata
from typing import Any

import torch

from ts.context import Context
from ts.handler_utils.text_utils import get_tokenizer
from ts.torch_handler.base_handler import BaseHandler
from ts.torch_handler.contractions import CONTRACTION_MAP
from ts.utils.util import CLEANUP_REGEX, require
from ts.utils.weights import load_weights

CONTRACTIONS_PATTERN = re.compile("|".join(CONTRACTION_MAP), re.IGNORECASE)
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


class TextHandler(BaseHandler):
    """Loads the model and `source_vocab.pt`, which maps tokens to numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.source_vocab: Any = None
        self.tokenizer = get_tokenizer("basic_english")
        self.input_text: str | None = None

    def initialize(self, context: Context) -> None:
        """Load the model and the vocabulary. Raises FileNotFoundError where there is none."""
        super().initialize(context)
        self.initialized = False
        named = ((self.manifest or {}).get("model") or {}).get("sourceVocab")
        path = named or self.get_source_vocab_path(context)
        self.source_vocab = load_weights(path, None, self.model_yaml_config)
        self.initialized = True

    @functools.cached_property
    def lig(self) -> Any:  # captum's
        """Captum's integrated gradients of the embedding, made when the first explanation is asked for."""
        attr = require("captum.attr", "an explanation")
        return attr.LayerIntegratedGradients(self.model, self.model.embedding)

    def get_source_vocab_path(self, ctx: Context) -> str:
        """Return where the archive has its vocabulary."""
        path = os.path.join(ctx.system_properties["model_dir"], "source_vocab.pt")
        if not os.path.isfile(path):
            raise FileNotFoundError("Missing the source_vocab.pt file, which a text handler needs")
        return path

    def _expand_contractions(self, text: str) -> str:
        """Write contractions out, the first letter as it was, and drop what apostrophes are left."""
        return CONTRACTIONS_PATTERN.sub(_expanded, text).replace("'", "")

    def _remove_accented_characters(self, text: str) -> str:
        return unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()

    def _remove_html_tags(self, text: str) -> str:
        return CLEANUP_REGEX.sub("", text)

    def _remove_punctuation(self, text: str) -> str:
        return text.translate(_NO_PUNCTUATION)

    #: The name that it had first; archives call it so.
    _remove_puncutation = _remove_punctuation

    def _tokenize(self, text: str) -> list[str]:
        return self.tokenizer(text)

    def get_word_token(self, input_tokens: list[str]) -> list[str]:
        """Return the tokens without the sign for a space that byte pair tokenizers begin words with."""
        return [token.replace("Ġ", "") for token in input_tokens]

    def summarize_attributions(self, attributions: torch.Tensor) -> torch.Tensor:
        """Scale attributions to the norm of their sums."""
        # The dimension that torch took by itself when nobody said which.
        shares = torch.softmax(attributions, dim=0 if attributions.dim() in (0, 1, 3) else 1)
        summary: torch.Tensor = shares / torch.linalg.vector_norm(shares.sum(dim=-1))
        return summary


def _expanded(match: re.Match[str]) -> str:
    contraction = match.group(0)
    meaning = CONTRACTION_MAP.get(contraction) or CONTRACTION_MAP[contraction.lower()]
    return contraction[0] + meaning[1:]
