"""Sockets between the parts are made in one place, so that each has all options."""

import ast

from tests.contracts.source import name, sources, tree

HOME = "shared/wire/sockets.py"
#: What makes a socket, or changes how it is.
MAKERS = {"DEALER", "ROUTER", "REQ", "REP", "PUB", "SUB", "PUSH", "PULL", "PAIR", "STREAM"}
OPTIONS = {"LINGER", "IMMEDIATE", "RECONNECT_IVL", "RECONNECT_IVL_MAX", "CONNECT_TIMEOUT", "TCP_MAXRT",
           "HEARTBEAT_IVL", "HEARTBEAT_TIMEOUT", "HANDSHAKE_IVL", "ROUTING_ID", "MAXMSGSIZE"}  # fmt: skip


def test_no_other_module_makes_a_zmq_socket_or_sets_an_option_of_one() -> None:
    for path in sources():
        if name(path) == HOME:
            continue
        of_zmq = {node.attr for node in ast.walk(tree(path))
                  if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
                  and node.value.id == "zmq"}  # fmt: skip
        assert not of_zmq & (MAKERS | OPTIONS), f"{name(path)} uses zmq.{of_zmq & (MAKERS | OPTIONS)}"
