"""Streams as many parts as its input says, then ends with one more."""

from ts.handler_utils.utils import send_intermediate_predict_response


def handle(data, context):
    if data is None:
        return None
    count = int(bytes(data[0]["body"]))
    context.set_response_content_type(0, "text/event-stream")
    for number in range(count):
        part = [f"data: {number}\n\n" for _ in data]
        send_intermediate_predict_response(part, context.request_ids, "part", 200, context)
    return ["data: end\n\n" for _ in data]
