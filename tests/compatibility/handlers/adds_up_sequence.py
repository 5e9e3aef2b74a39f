"""Adds up the numbers of each sequence; a sequence without a start flag begins at its first number."""

import json


class Sums:
    def initialize(self, context):
        self.sums = {}

    def handle(self, data, context):
        answers = []
        for index, row in enumerate(data):
            sequence = context.get_sequence_id(index)
            started = context.get_request_header(index, context.header_key_sequence_start) == "true"
            made_up = sequence.startswith("ts-seq-")
            self.sums[sequence] = self.sums.get(sequence, 0) + int(bytes(row["body"]))
            answers.append(json.dumps({"sum": self.sums[sequence], "started": started, "made_up": made_up}))
            context.set_response_header(index, "x-sequence", "made up" if made_up else sequence)
        return answers
