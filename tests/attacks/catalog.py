"""All attacks, by name, in the order in which they run."""

from tests.attacks import (
    hostile_archives,
    hostile_urls,
    http_requests,
    port_floods,
    port_messages,
    port_sockets,
    slow_clients,
)
from tests.attacks.plan import Attack

#: Attacks side by side, under this name.
MIXED, MIXED_SECONDS = "mixed", 60.0

_ALL = (
    Attack("upgrades", "requests hidden in bodies behind an offered upgrade", http_requests.upgrades),
    Attack("unclear-lengths", "heads that say two lengths of one body", http_requests.unclear_lengths),
    Attack("endless-trailers", "trailers, and a trailer's value, without end", http_requests.trailers),
    Attack("chunk-extensions", "extensions of chunks without end", http_requests.chunk_extensions),
    Attack("small-chunks", "bodies in chunks of one byte", http_requests.small_chunks),
    Attack("endless-heads", "heads and targets without end", http_requests.heads),
    Attack("costly-bodies", "forms, parts and JSON that cost more than their size",
           http_requests.costly_bodies, seconds=30.0),
    Attack("browser", "requests as of a page in the operator's browser", http_requests.browsers,
           is_mixed=False),
    Attack("dripping-bodies", "200 announced bodies, a byte a second of each", slow_clients.bodies,
           seconds=30.0),
    Attack("slow-heads", "400 heads, a byte a second of each", slow_clients.slow_heads),
    Attack("idle-connections", "1,000 connections that say nothing", slow_clients.idle),
    Attack("unread-answers", "80 answers of 6 MB that nobody reads", slow_clients.readers, seconds=30.0),
    Attack("archives", "archives that cost much to look into", hostile_archives.archives, seconds=60.0,
           is_mixed=False),
    Attack("dripping-origins", "archives that come a byte in 2 s", hostile_urls.dripping_origins,
           seconds=30.0, broker_options=("--allow-private-urls",), is_mixed=False),
    Attack("odd-urls", "urls in disguise, pipes, devices, the store itself", hostile_urls.odd_urls,
           seconds=30.0, config=hostile_urls.TRUSTING, is_mixed=False),
    Attack("claimed-identities", "identities that the broker would make up", port_sockets.claimed_identities),
    Attack("out-of-range", "messages with values that no peer has", port_messages.out_of_range),
    Attack("endless-messages", "messages of parts without end", port_sockets.endless_messages),
    Attack("unread-chunks", "chunks of archives asked for and not read", port_sockets.unread_chunks),
    Attack("unknown-workers", "beats with 1,000 unknown workers", port_messages.unknown_workers),
    Attack("taken-workers", "workers of another node", port_messages.taken_workers, is_mixed=False),
    Attack("many-workers", "2,000 workers on one connection", port_messages.many_workers),
    Attack("one-name", "1,000 nodes of one name", port_messages.many_nodes_of_one_name),
    Attack("large-heads", "heads of 8 MB", port_messages.large_heads),
    Attack("large-values", "wrong values of 7 MB", port_messages.large_values),
    Attack("silent-connections", "500 connections to the broker that say nothing",
           port_sockets.silent_connections),
    Attack("garbage", "500 idle connections to the broker and garbage beside them",
           port_floods.garbage, seconds=30.0),
    Attack("slow-handshakes", "300 handshakes with the broker, byte by byte", port_floods.slow_handshakes),
    Attack("unknown-keys", "handshakes by unknown keys and used invitations", port_floods.unknown_keys),
    Attack("repeated-frames", "what a member has said, said again", port_floods.repeated_frames),
    Attack("resets", "more messages than are taken ahead, and resets", port_floods.resets, seconds=30.0),
)  # fmt: skip
ATTACKS = {attack.name: attack for attack in _ALL}
