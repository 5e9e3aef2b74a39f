"""Answers with the text that its first input holds: whatever a test wants a server to be answered."""

import base64


def handle(data, context):
    if data is None:
        return None
    return [base64.b64decode(row["body"]["inputs"][0]["data"][0]).decode() for row in data]
