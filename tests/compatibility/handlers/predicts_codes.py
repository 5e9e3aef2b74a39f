"""Fails as its input says: `raise CODE MESSAGE` by PredictionException, `status CODE PHRASE` for its row."""

from ts.utils.util import PredictionException


def handle(data, context):
    if data is None:
        return None
    answers = []
    for index, row in enumerate(data):
        verb, code, words = bytes(row["body"]).decode().split(" ", 2)
        if verb == "raise":
            raise PredictionException(words, int(code))
        if verb == "status":
            context.set_response_status(code=int(code), phrase=words, idx=index)
        answers.append(words)
    return answers
