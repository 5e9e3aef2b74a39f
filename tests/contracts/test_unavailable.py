"""Every answer that something is unavailable: a 503 that may be tried again, and when it says that."""

import ast

from tests.contracts.source import ROOT, modules

#: Where it is made, the beginning of its message -> whether it says when to come again by the service rate.
COMPUTED = {
    # The broker: queues full, no ticket, no time left, waited too long.
    ("broker/core/answers.py", "{named} has no worker to serve inference request."),
    ("broker/core/answers.py", "{named} has no worker to serve describe request."),
    # The gateway's own bounds: in_flight_limit_jobs, in_flight_limit_bytes, management calls.
    ("gateway/session.py", "The gateway is busy."),
    ("gateway/in_flight_room.py", "The gateway is busy."),
}
#: The others say the least, a second: what they wait for has no rate.
A_SECOND = {
    # What is starting or stopping, and is there in a moment or never.
    ("broker/core/early_requests.py", "The models named at start are being registered."),
    ("gateway/api/inference.py", "The models named at start are being registered."),
    ("gateway/link.py", "The gateway stops."),
    ("shared/archives/reader.py", "The server stops."),
    ("gateway/link.py", "The keys are not known."),
    ("gateway/session.py", "The keys are not known."),
    # What could not be fetched may be there at the next try, within 30 s.
    ("broker/models/catalog.py", "Model {quoted(model)} could not be loaded at start."),
    # A broker that is away.
    ("gateway/session.py", "The broker can't be reached."),
    ("gateway/session.py", "The broker's answer was lost."),
    ("gateway/session.py", "The rest of the answer was lost."),
    # Bounds of management calls, of what one gateway may hold, and of connections, which end as clients like.
    ("broker/models/changes.py", "The broker is busy."),
    ("broker/membership/membership_changes.py", "The broker is busy."),
    ("broker/core/questions.py", "The broker is busy."),
    ("broker/core/gateway_requests.py", "The broker is busy."),
    ("gateway/http/connection.py", "The gateway is busy."),
    ("gateway/grpc/served_calls.py", "The gateway is busy."),
    ("gateway/waiter.py", "The client takes its answer too slowly."),
}
NAMES = ("ServiceUnavailable", "BrokerUnreachable")


def text_of(node: ast.expr) -> str:
    """Write a literal as it stands, with the names of what is filled in."""
    match node:
        case ast.Constant(str(text)):
            return text
        case ast.JoinedStr(values):
            return "".join(map(text_of, values))
        case ast.FormattedValue(value):
            return f"{{{ast.unparse(value)}}}"
    return ast.unparse(node)


def made() -> dict[tuple[str, str], list[bool]]:
    """Return where such errors are made, and whether each is told when to come again."""
    found: dict[tuple[str, str], list[bool]] = {}
    for module in modules(ROOT, "broker", "gateway", "shared", "worker", "cli"):
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in NAMES:
                says_when = any(keyword.arg == "retry_after_s" for keyword in node.keywords)
                found.setdefault((module.name, text_of(node.args[0])), []).append(says_when)
    return found


def row(place: tuple[str, str]) -> tuple[str, str]:
    """Return the row of the table that a place stands in, or the place itself."""
    rows = [one for one in COMPUTED | A_SECOND if one[0] == place[0] and place[1].startswith(one[1])]
    return rows[0] if rows else place


def test_the_table_has_every_503_that_may_be_tried_again_and_no_other() -> None:
    assert {row(place) for place in made()} == COMPUTED | A_SECOND


def test_what_is_refused_for_lack_of_room_says_when_there_may_be_some() -> None:
    for place, says_when in made().items():
        assert all(said == (row(place) in COMPUTED) for said in says_when), place
