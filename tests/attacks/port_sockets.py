"""Attacks on the broker's port below its messages: claimed identities, endless and unread messages."""

import itertools
import os
from collections.abc import Callable
from functools import partial

from tests.attacks import zmtp
from tests.attacks.attacker import Attacker, pause
from tests.attacks.port_messages import node
from tests.curve_client import GREETING
from torchrelay.shared.wire import messages as m

#: What `rand` of the C library gives first where nobody seeded it, with which libzmq numbers its connections.
UNSEEDED = 0x6B8B4567
CLAIMS = 200
CHUNK_BYTES = 1 << 20
PIECE_BYTES = 32 * 1024
SILENT_CONNECTIONS = 500


def claimed_identities(attacker: Attacker) -> None:
    """Claim identities that the broker would make up, so that it makes one up that is there already."""
    kept: list[zmtp.Peer] = []
    for number in attacker.rounds(0.01):
        made_up = b"\0" + ((UNSEEDED + number % CLAIMS) & 0xFFFFFFFF).to_bytes(4, "big")
        # One that claims, one that has none, and two that have the same: the older gets one made up.
        for identity in (made_up, b"", b"same", b"same", b"\0", b"x" * 255):
            peer = zmtp.dial(attacker, identity)
            if peer is not None:
                attacker.counts["connections"] += 1
                kept.append(peer)
        while len(kept) > CLAIMS * 6:
            kept.pop(0).close()
    for peer in kept:
        peer.close()


def endless_messages(attacker: Attacker) -> None:
    """Send parts of one message without end: empty ones, small ones, large ones; and one part without end."""
    kinds = itertools.cycle(((b"", 2000), (b"a" * 100, 300), (b"a" * 1_000_000, 1), (b"", 0)))
    peers: list[tuple[zmtp.Peer, Callable[[], bytes]]] = []
    for _ in attacker.rounds():
        while len(peers) < 4 and not attacker.is_over:
            part, count = next(kinds)
            peer = zmtp.dial(attacker)
            if peer is None:
                continue
            if not count:  # the head of a part of 2 GB, of which much comes
                peer.line.send(b"\x02" + (2_000_000_000).to_bytes(8, "big"))
            peers.append((peer, partial(_parts, peer, part, count)))
            attacker.counts["connections"] += 1
        for peer, piece in list(peers):
            if not peer.line.send(piece()) and peer.line.is_closed:
                attacker.counts["closed by the server"] += 1
                peers.remove((peer, piece))
                peer.close()
    for peer, _ in peers:
        peer.close()


def _parts(peer: zmtp.Peer, part: bytes, count: int) -> bytes:
    """Seal parts of a message that goes on; with no count, bytes of a part that has begun."""
    if not count:
        return b"a" * PIECE_BYTES
    return b"".join(peer.client.message(part, more=True) for _ in range(count))


def unread_chunks(attacker: Attacker) -> None:
    """Ask for chunks of an archive and read none."""
    peers: list[zmtp.Peer] = []
    offsets = itertools.cycle(range(0, attacker.target.archive_bytes - CHUNK_BYTES, CHUNK_BYTES))
    for number in attacker.rounds():
        if len(peers) < 4:
            peer = zmtp.dial(attacker, role="node", receive_bytes=4096)
            if peer is None or not peer.hello(node(f"fetcher-{number}", slots=1)):
                attacker.counts["not welcome"] += 1
                pause(0.2)
                continue
            peers.append(peer)
        for peer in list(peers):
            fetch = m.FetchArchive(attacker.target.archive, next(offsets), CHUNK_BYTES)
            if peer.say(fetch) and peer.say(m.NodeBeat(())):
                attacker.counts["chunks asked for"] += 1
            elif peer.line.is_closed:
                attacker.counts["closed by the server"] += 1
                peers.remove(peer)
                peer.close()
    for peer in peers:
        peer.close()


def silent_connections(attacker: Attacker) -> None:
    """Connect and say nothing, half of a greeting, or garbage."""
    kinds = [b"", GREETING[:20], os.urandom(200), GREETING, zmtp.PLAIN_GREETING,
             b"GET / HTTP/1.1\r\n\r\n"]  # fmt: skip
    kept = []
    for number in attacker.rounds(0.005):
        line = attacker.dial(attacker.target.broker_port)
        if line is None:
            continue
        line.send(kinds[number % len(kinds)])
        kept.append(line)
        attacker.counts["connections"] += 1
        if len(kept) > SILENT_CONNECTIONS:
            kept.pop(0).close()
    for line in kept:
        line.close()
