"""The functions of the workflow `page`: between detector and classifier, and behind both."""

import base64
import json


def crop(data, context):
    """Hand the detector's picture on to the classifier, which takes a PNG."""
    return data and [base64.b64decode(json.loads(bytes(row["body"]))["picture"]) for row in data]


def report(data, context):
    """Put both answers together; they come by the names of the steps."""
    return data and [
        {"digit": json.loads(bytes(row["digits"]))["class"], "box": json.loads(bytes(row["finder"]))["box"]}
        for row in data
    ]
