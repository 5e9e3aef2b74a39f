"""Answers a request of the open inference protocol with a tensor that shows what the handler was given."""

import json


def handle(data, context):
    if data is None:
        return None
    answers = []
    for index, row in enumerate(data):
        shown = {"row": row, "content-type": context.get_request_header(index, "body")}
        output = {"name": "shown", "datatype": "BYTES", "shape": [1], "data": [json.dumps(shown)]}
        answers.append(
            {"id": "an id", "model_name": "a model", "model_version": "a version", "outputs": [output]}
        )
    return answers
