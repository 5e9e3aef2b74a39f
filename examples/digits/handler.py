"""Answers a picture of a digit with the digit: PNG in, `{"class": "3", "probability": 0.99}` out.

The digit is bright on a dark ground, as in the pictures that the model learnt from.
"""

import io

import torch
from PIL import Image
from ts.torch_handler.base_handler import BaseHandler


class DigitHandler(BaseHandler):
    """A whole batch is one call of the model; a picture that can't be read fails alone."""

    def preprocess(self, data):
        """Make [batch, 1, 8, 8] of the pictures, and remember which could not be read."""
        self.unreadable = set()
        return torch.stack(
            [self._read(index, row.get("data") or row.get("body")) for index, row in enumerate(data)]
        )

    def postprocess(self, scores):
        """Name the likeliest digit of each picture."""
        chances, digits = scores.softmax(1).max(1)
        answers = [
            {"class": str(digit), "probability": round(chance, 4)}
            for digit, chance in zip(digits.tolist(), chances.tolist(), strict=True)
        ]
        for index in self.unreadable:
            self.context.set_response_status(400, "Bad Request", index)
            answers[index] = {"error": "the request's body is no picture that can be read"}
        return answers

    def _read(self, index, content):
        try:
            picture = Image.open(io.BytesIO(content)).convert("L").resize((8, 8), Image.Resampling.BOX)
        except (OSError, TypeError, ValueError):
            self.unreadable.add(index)
            return torch.zeros(1, 8, 8)
        return torch.tensor(list(picture.tobytes()), dtype=torch.float32).reshape(1, 8, 8) / 255
