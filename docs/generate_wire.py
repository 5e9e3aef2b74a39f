"""Writes docs/wire.md from the messages and the tables of states: `python docs/generate_wire.py`.

States of jobs and workers are read from their tables, those of a session by having one hear each kind of
message in each state.
"""

import ast
import inspect
import re
from pathlib import Path
from typing import get_args

from torchrelay.broker.core import states
from torchrelay.gateway import session as gateway_session
from torchrelay.shared.settings import GatewaySettings
from torchrelay.shared.wire import codec, fields, items, memory_sharing, messages
from torchrelay.worker.common import peer_session

TARGET = Path(__file__).parent / "wire.md"

HEAD = """\
# The wire

<!-- Written by docs/generate_wire.py from shared/wire and broker/core/states.py; change those. -->

What gateways, nodes and workers say to the broker, and it to them. Only the broker listens; the others dial
out and never speak to each other, but for memory that is lent on one host. [The
architecture](architecture.md) says which part does what.

- **A message** is `[head][frame 0][frame 1]...` on a ZeroMQ socket (DEALER to ROUTER). The head is a prefix
  of {prefix} bytes (wire version {wire_version}, kind, flags, the broker's epoch; big-endian)
  and one msgpack array: the message's fields in their order.
- **Fields** are positional. New ones come at the end, with a default; a receiver ignores those that it does
  not know. Protocol {protocol}: a hello that names another is answered with `Leave`.
- **Payloads** up to {inline} bytes are in the head, larger ones are frames of their own, which the broker
  forwards and doesn't open. `frames` of an item counts those that are its.
- **Lent payloads**: gateways and workers of one host offer each other their memory by way of the broker
  (`OfferMemory`, `ReadsMemory`, `MemoryEnds`); it is handed out at a unix socket of its owner's. Once that is
  read on the other side, payloads from
  {lent_from} bytes on are written there once and not sent: flag 1 says that the last frame is a list of
  which frames of the message lie where. Whoever can't read a memory is sent the bytes.
- **Epoch**: rises with each start of a broker. What comes under another than the broker's is answered with
  `IntroduceYourself` and changes nothing.
- **Keys**: on tcp a connection is encrypted by CURVE, and each side knows the other's public key. A peer is
  who its key says, and its session (`X-Session` in the handshake, drawn at each start) tells that it is the
  same again after a reconnection. On a unix socket, and with `--insecure`, there are no keys.
- **Limits**: a head of {head_to_broker} bytes to the broker, {head} to the others, {frames} frames. What
  isn't a message, or none that its sender may send, is answered with `Misunderstood` and changes nothing.
- **Time** travels as a duration: hosts share no clock. Names of fields end with their unit: `_s` seconds,
  `_ms` milliseconds, `_us` microseconds, `_bytes`; `_at_ms` is milliseconds since 1970.

The code: `shared/wire/messages.py`, what is in them `shared/wire/items.py`, the codec `shared/wire/codec.py`,
sockets and their options `shared/wire/sockets.py`.

## States

### A peer's session with its broker

A gateway, node or worker says hello until it is welcomed, and beats from then on
(`shared/wire/presence.py`). `silence`: nothing came for longer than the peer_timeout that the
Welcome told. A node or worker:

{peer}

A gateway, which trusts only a new Welcome:

{gateway}

### A job

The table is `JOB_MOVES` in [states](../broker/core/states.py).

{job}

### A worker, seen from the broker

The table is `WORKER_MOVES` in [states](../broker/core/states.py).

{worker}
"""

#: In which state of its session a peer sends a message or the broker sends it one; otherwise `welcomed`.
SENT_IN = {
    messages.HelloGateway: "greeting, away",
    messages.HelloNode: "greeting, away",
    messages.HelloWorker: "greeting, away",
    messages.Welcome: "greeting, away; answers a hello",
    messages.IntroduceYourself: "any; answers all but a hello of a peer that the broker doesn't know",
    messages.Leave: "any",
    messages.Misunderstood: "any; answers what can't be read, or isn't for its sender to say",
    messages.Announced: "welcomed; goes ahead of a large message",
}

#: Why a job or a worker moves from one state to another; a move without a reason here stops the writing.
JOB_CAUSES = {
    ("queued", "running"): "a batch with it goes to a worker",
    ("queued", "ended"): "refused, expired or cancelled",
    ("running", "ended"): "answered, or failed for good",
    ("running", "queued"): "its worker is lost, one more attempt",
}
WORKER_CAUSES = {
    ("starting", "ready"): "HelloWorker",
    ("starting", "stopping"): "not wanted any more, or not ready within startup_timeout",
    ("starting", "gone"): "WorkerExited, or its node is lost",
    ("ready", "unready"): "WorkerBeat with `why_not_ready`: its handler's is_ready() says no",
    ("unready", "ready"): "WorkerBeat without it",
    ("unready", "draining"): "as from ready",
    ("unready", "stopping"): "as from ready, or not ready again within startup_timeout",
    ("unready", "gone"): "as from ready",
    ("ready", "draining"): "not wanted any more and has batches, or its node leaves",
    ("ready", "stopping"): "not wanted any more, stuck, or silent",
    ("ready", "gone"): "WorkerExited, Bye, or its node is lost",
    ("draining", "stopping"): "has answered its batches, or the drain's time is over",
    ("draining", "gone"): "WorkerExited, or its node is lost",
    ("stopping", "gone"): "WorkerExited, or its node is lost",
}

PEERS = {
    "gateway": (messages.FromGateway, messages.ToGateway),
    "node": (messages.FromNode, messages.ToNode),
    "worker": (messages.FromWorker, messages.ToWorker),
}

#: Units by the end of a field's name.
UNITS = (("_at_ms", "ms since 1970"), ("_ms", "ms"), ("_us", "us"), ("_s", "s"), ("_bytes", "bytes"))


def wire():
    """Return the page's text."""
    head = HEAD.format(
        prefix=codec.PREFIX.size,
        wire_version=codec.WIRE_VERSION,
        protocol=messages.PROTOCOL_VERSION,
        inline=number(codec.INLINE_LIMIT_BYTES),
        lent_from=f"{memory_sharing.LENT_FROM_BYTES:,}",
        head_to_broker=number(codec.HEAD_TO_BROKER_LIMIT_BYTES),
        head=number(codec.HEAD_LIMIT_BYTES),
        frames=number(codec.FRAMES_LIMIT),
        peer=diagram(session_moves(peer), peer().state),
        gateway=diagram(session_moves(gateway), gateway().state),
        job=diagram(table_moves(states.JOB_MOVES, JOB_CAUSES), "queued"),
        worker=diagram(table_moves(states.WORKER_MOVES, WORKER_CAUSES), "starting"),
    )
    sections: dict[str, list[str]] = {}
    for kind, cls in codec.KINDS.items():
        sections.setdefault(direction(cls), []).append(describe(cls, kind))
    parts = [head]
    for title, texts in sections.items():
        parts += [f"## {title}\n", *texts]
    parts += ["## Items\n", "What stands in messages.\n"]
    parts += [describe(cls) for cls in structs_of(items)]
    parts += ["## Inside a job's `meta`\n", "Packed by gateway and worker; the broker passes it on.\n"]
    parts += [describe(cls) for cls in (codec.Request, codec.Input, codec.Response)]
    parts += ["## Types of fields\n", types()]
    return "\n".join(parts)


def number(value):
    """Write a number for people."""
    return f"{value:,}"


def direction(cls):
    """Say who sends a message to whom."""
    senders = [name for name, (sent, _) in PEERS.items() if cls in get_args(sent)]
    receivers = [name for name, (_, received) in PEERS.items() if cls in get_args(received)]
    who, whom = (written(names) for names in (senders, receivers))
    if senders and receivers:
        return f"{who} to broker, broker to {whom}".capitalize()
    return f"{who} to broker".capitalize() if senders else f"Broker to {whom}"


def written(names):
    """Write a list of peers."""
    return "any peer" if len(names) == len(PEERS) else " or ".join(names)


def describe(cls, kind=None):
    """Describe a struct: its docstring, when it is sent, its fields."""
    title = cls.__name__ if kind is None else f"{cls.__name__} ({kind})"
    lines = [f"### {title}\n", paragraph(inspect.getdoc(cls)), ""]
    if kind is not None:
        lines += [f"Sent in: {SENT_IN.get(cls, 'welcomed')}.", ""]
    rows = fields_of(cls)
    if any(row[-1] for row in rows):
        columns = ["field", "type", "unit", "default", "meaning"]
    else:
        columns = ["field", "type", "unit", "default"]
    if rows:
        lines += [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
        lines += [f"| {' | '.join(row[: len(columns)])} |" for row in rows]
        lines.append("")
    return "\n".join(lines)


def paragraph(text):
    """Join the lines of each paragraph of a docstring."""
    return "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))


def fields_of(cls):
    """Return name, type, unit, default and meaning of each field, as its class spells them."""
    source = inspect.getsource(cls)
    meanings = comments(source)
    rows = []
    for node in ast.parse(source).body[0].body:
        if isinstance(node, ast.AnnAssign):
            name = node.target.id
            kind = re.sub(r"\b[fm]\.", "", ast.unparse(node.annotation)).replace("|", "\\|")
            default = f"`{ast.unparse(node.value)}`" if node.value is not None else ""
            unit = next((unit for end, unit in UNITS if name.endswith(end)), "")
            rows.append((f"`{name}`", f"`{kind}`", unit, default, meanings.get(name, "")))
    return rows


def comments(source):
    """Map each name to the `#:` comment above it, or the comment behind it."""
    found, above = {}, []
    for line in source.splitlines():
        if comment := re.match(r"\s*#: (.*)", line):
            above.append(comment[1])
        elif name := re.match(r"\s*(\w+)(?:: [^#]*| = [^#]*)(?:#:? (.*))?$", line):
            found[name[1]] = " ".join([*above, *([name[2]] if name[2] else [])]).replace("|", "\\|")
            above = []
        else:
            above = []
    return found


def structs_of(module):
    """Return the structs that a module defines."""
    return [
        cls
        for cls in vars(module).values()
        if isinstance(cls, type) and cls.__module__ == module.__name__ and cls.__name__ != "Item"
    ]


def types():
    """Write a row for each type of a field."""
    source = inspect.getsource(fields)
    meanings = comments(source)
    rows = ["| type | is | meaning |", "|---|---|---|"]
    for node in ast.parse(source).body:
        if (
            isinstance(node, ast.Assign)
            and not node.targets[0].id.isupper()
            and node.targets[0].id != "ItemT"
        ):
            name = node.targets[0].id
            meaning = meanings.get(name, "")
            rows.append(f"| `{name}` | {written_type(name, node.value)} | {meaning} |")
    return "\n".join(rows) + "\n"


def written_type(name, expression):
    """Write `Annotated[int, Meta(ge=0)]` as `int, from 0`."""
    text = ast.unparse(expression)
    if not text.startswith("Annotated"):
        return f"`{text}`"
    base, meta = expression.slice.elts
    words = {"ge": "from", "le": "to", "max_length": "at most", "pattern": "like"}
    _, limits = get_args(getattr(fields, name))
    bounds = ", ".join(f"{words[one.arg]} {written_bound(getattr(limits, one.arg))}" for one in meta.keywords)
    return f"`{ast.unparse(base)}`, {bounds}".replace("|", "\\|")


def written_bound(value):
    """Write a bound as a number, or a pattern as code."""
    return f"`{value}`" if isinstance(value, str) else str(value)


def table_moves(table, causes):
    """Return the moves of a table of states with their causes. Raises KeyError for one without."""
    moves = [(old.value, new.value) for old, news in table.items() for new in table if new in news]
    return {move: causes[move] for move in moves}


def session_moves(make):
    """Have a session hear what there is in each of its states, and return the moves that were seen."""
    moves: dict[tuple[str, str], list[str]] = {}
    known: dict[str, list[str]] = {make().state: []}
    waiting = list(known)
    while waiting:
        old = waiting.pop(0)
        for what in ("Welcome", "IntroduceYourself", "Beat", "silence"):
            session = make()
            for one in [*known[old], what]:
                happen(session, one)
            if session.state != old:
                moves.setdefault((old, session.state), []).append(what)
            if session.state not in known:
                known[session.state] = [*known[old], what]
                waiting.append(session.state)
    return {move: ", ".join(causes) for move, causes in moves.items()}


def happen(session, what):
    """Have a session hear a message, or nothing for longer than its peer_timeout."""
    welcome = messages.Welcome(beat_interval_ms=1000, peer_timeout_ms=3000)
    message = welcome if what == "Welcome" else getattr(messages, what, None)
    is_gateway = isinstance(session, gateway_session.GatewaySession)
    if message is None:
        (session.tick if is_gateway else session.due)(10.0)
    elif is_gateway:
        session.hear(message if what == "Welcome" else message(), 1, (), now=0.0)
    else:
        session.heard(message if what == "Welcome" else message(), 1, 0.0)


def gateway():
    """Make a gateway's session."""
    return gateway_session.GatewaySession(GatewaySettings(), name="gateway", pid=1, now=0.0)


def peer():
    """Make a node's or worker's session."""
    return peer_session.PeerSession(0.0)


def diagram(moves, first):
    """Draw moves between states for Mermaid."""
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {first}"]
    lines += [f"    {old} --> {new}" + (f" : {why}" if why else "") for (old, new), why in moves.items()]
    last = sorted({new for _, new in moves} - {old for old, _ in moves})
    return "\n".join([*lines, *(f"    {state} --> [*]" for state in last), "```"])


if __name__ == "__main__":
    TARGET.write_text(wire())
