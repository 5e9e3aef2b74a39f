from typing import Any

import grpc

from benchmarks.peers import grpc_load
from benchmarks.servers import free_ports


async def served(answer: Any, port: int) -> grpc.aio.Server:
    server = grpc.aio.server()
    handler: Any = grpc.unary_unary_rpc_method_handler(answer)
    server.add_registered_method_handlers("s", {"m": handler})
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    return server


def plan(port: int, **more: Any) -> grpc_load.GrpcLoad:
    return grpc_load.GrpcLoad(
        target=f"127.0.0.1:{port}", method="/s/m", in_flight=4, requests=(b"a", b"b"),
        **{"seconds": 0.1, **more},
    )  # fmt: skip


async def test_answers_are_counted_and_wrong_ones_found() -> None:
    async def echo(data: bytes, _context: object) -> bytes:
        return b"answer " + data

    (port,) = free_ports(1)
    server = await served(echo, port)
    found = await grpc_load.run(plan(port, endings=(b"a", b"b")))
    assert found.load.requests > 0
    assert (found.wrong, found.load.errors) == (0, 0)
    assert 0 < found.load.p50_us <= found.load.p99_us
    assert (await grpc_load.run(plan(port, endings=(b"a", b"c")))).wrong > 0
    await server.stop(None)


async def test_refusals_are_no_answers() -> None:
    first: list[bytes] = []

    async def refuse(data: bytes, context: Any) -> bytes:
        if first:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "no")
        first.append(data)
        return data

    (port,) = free_ports(1)
    server = await served(refuse, port)
    found = await grpc_load.run(plan(port))
    assert (found.load.requests, found.load.refused > 0) == (0, True)
    assert found.example == "UNAVAILABLE: no"
    await server.stop(None)
