"""Adds up the rows of each request's first tensor, with arrays in and out (the open inference protocol)."""

import numpy as np
from ts.utils.util import PredictionException


def handle(data, context):
    """Answer each request of a batch with its sums, one for each row."""
    return None if data is None else [_answer(row["body"]) for row in data]


def _answer(request):
    if not isinstance(request, dict) or not request.get("inputs"):
        raise PredictionException("the body is no request of the open inference protocol", 400)
    tensor = request["inputs"][0]
    # An array of this shape where it came as binary data, a list where it came as JSON.
    values = np.asarray(tensor["data"]).reshape(tensor["shape"])
    # Its datatype and shape are the array's; whether it goes out as JSON or as binary data, its client says.
    return {"outputs": [{"name": "sums", "data": values.sum(axis=-1)}]}
