"""The handler that classifies a text; one request at a time, so the model's batch size has to be 1."""

from typing import Any

import torch

from ts.handler_utils.text_utils import ngrams_iterator
from ts.torch_handler.text_handler import TextHandler
from ts.utils.util import map_class_to_label, require


class TextClassifier(TextHandler):
    """Answers the probability of each class, for a model of `(text, offsets)` like an embedding bag."""

    ngrams = 2

    def preprocess(self, data: Any) -> tuple[torch.Tensor, list[str]]:
        """Clean the first row's text; return the numbers of its tokens and n-grams, and the tokens."""
        text = data[0].get("data") or data[0].get("body")
        if isinstance(text, bytes | bytearray):
            text = text.decode("utf-8")
        text = self._remove_html_tags(text).lower()
        text = self._remove_accented_characters(self._expand_contractions(text))
        tokens = self._tokenize(self._remove_punctuation(text))
        numbers = [self.source_vocab[token] for token in ngrams_iterator(tokens, self.ngrams)]
        return torch.as_tensor(numbers, device=self.device), tokens

    def inference(self, data: Any, *args: Any, **kwargs: Any) -> Any:
        """Run the model on the one text."""
        numbers, _ = data
        return super().inference(numbers, torch.as_tensor([0], device=self.device))

    def postprocess(self, data: torch.Tensor) -> list[dict[Any, float]]:
        """Return label -> probability."""
        return map_class_to_label(torch.softmax(data, dim=1).tolist(), self.mapping)

    def get_insights(self, text_preprocess: Any, _: Any, target: Any = 0) -> list[dict[str, Any]]:
        """Return the words, and each one's share in the target's score."""
        numbers, tokens = text_preprocess
        reference = require("captum.attr", "an explanation").TokenReferenceBase()
        baseline = reference.generate_reference(numbers.shape[0], device=self.device).squeeze(0)
        attributions = self.lig.attribute(
            numbers,
            baseline,
            additional_forward_args=torch.tensor([0]).to(self.device),
            return_convergence_delta=False,
            target=target,
        )
        importances = self.summarize_attributions(attributions).tolist()
        return [{"importances": importances, "words": self.get_word_token(tokens)}]
