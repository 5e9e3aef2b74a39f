"""A coroutine handler: waits as long as its input says, in seconds, while others run."""

import asyncio


class Waiter:
    def initialize(self, context):
        pass

    async def handle(self, data, context):
        text = bytes(data[0]["body"]).decode()
        await asyncio.sleep(float(text))
        return [f"waited {text}"]
