"""Adds up the numbers of each sequence, names it in its answer, and ends it at zero."""


class Sums:
    def initialize(self, context):
        self.sums = {}

    def handle(self, data, context):
        answers = []
        for index, row in enumerate(data):
            sequence, number = context.get_sequence_id(index), int(bytes(row["body"]))
            if sequence not in self.sums or context.get_request_header(
                index, context.header_key_sequence_start
            ):
                self.sums[sequence] = 0
            self.sums[sequence] += number
            context.set_response_header(index, context.header_key_sequence_id, sequence)
            if number == 0:
                context.set_response_header(index, context.header_key_sequence_end, sequence)
            answers.append(str(self.sums[sequence]))
        return answers
