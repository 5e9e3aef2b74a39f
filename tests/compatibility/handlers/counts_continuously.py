"""Continuous batching: each request counts up to its number, one step a call."""


class Counter:
    def initialize(self, context):
        self.left = {}
        self.count = {}

    def handle(self, data, context):
        answers = []
        for index, row in enumerate(data):
            request = context.request_ids[index]
            if request not in self.left:
                self.left[request] = int(bytes(row["body"]))
                self.count[request] = 0
            self.count[request] += 1
            answers.append(f"{self.count[request]},")
        context.stopping_criteria = [self.stop_after(index, context) for index in range(len(data))]
        return answers

    def stop_after(self, index, context):
        request = context.request_ids[index]

        def is_done(answer):
            return self.count[request] >= self.left[request]

        return is_done
