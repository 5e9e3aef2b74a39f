"""The wire: every message there and back, golden bytes, and whatever a stranger may send."""

from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import msgpack
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchrelay.shared.wire import codec
from torchrelay.shared.wire import messages as m

GOLDEN = Path(__file__).parents[1] / "golden_wire.txt"
#: The same of the versions before, as they were when they were released.
RELEASED = {version: GOLDEN.with_name(f"golden_wire_{version}.txt") for version in (3,)}

GPU_USE = m.GpuUse(0, 2 << 30, 12, 3)
WORKER = m.WorkerFacts(9000, "ready", "node", "cuda:0", 77, 1_700_000_000_000, 1 << 30, 2, "", GPU_USE)
VERSION = m.VersionFacts(
    "m", "1.0", True, "m.mar", "python", 1, 2, 8, 100, 120, 60, 300, False, 3, 100, 12,
    (WORKER,), "wants 2, has 1", "ValueError: no", 900, "pp", 4, "gpu", (0, 1), True, True, True, True, 1000,
    2000, 3, 4, (m.QuarantinedItem("id", "exited with 1", 2, 5, 300_000),), "pack", 9 << 30, (("zone", "a"),),
    "w",
)  # fmt: skip
POINT = m.MetricPoint(
    "HandlerTime", "gauge", "Milliseconds", 1.5, (("Level", "Model"),), 1_700_000_000_000, ("id",)
)
KEY = "ab" * 32
DEVICE = m.Device("cuda:0", "gpu", "H100", 80 << 30)
HELD = m.HeldWorker(9000, "m", "1.0", "ab", "cpu", 77, "mark", KEY, ("cuda:1", "cuda:2"), 9 << 30)

#: One of each kind, with every field said.
EXAMPLES: tuple[m.Message, ...] = (
    m.Bye(),
    m.Announced(9 << 20),
    m.Enrol(4, KEY, "n"),
    m.Missed(5),
    m.OfferMemory("worker", b"\0address", b"m" * 16, 1 << 28, b"w"),
    m.ReadsMemory(b"m" * 16),
    m.MemoryEnds(b"m" * 16),
    m.HelloGateway(1, "g", 42),
    m.GatewayBeat({"2xx": 3}, (1, 2), (3,), 4, 5),
    m.Submit(
        (m.SubmitItem(7, "m", None, False, b"meta", 1), m.SubmitItem(8, "m", "1.0", True, b"", 0, "s", 900)),
        m.HELD, 9, True, 5,
    ),
    m.Cancel((7, 8)),
    m.RegisterModel(1, "m.mar", "m", "h:f", "python", 8, 100, 120, 60, 2, False, True, "pr"),
    m.UnregisterModel(1, "m", None, "pr"),
    m.ScaleWorkers(1, "m", "1.0", 1, 2, True, 0, "pr"),
    m.SetDefault(1, "m", "1.0", "pr"),
    m.RenewKey(1, "inference", "pr"),
    m.DescribeModel(1, "m", None, True),
    m.ListModels(1, 100, 0),
    m.ReadFleet(1),
    m.ReadMetrics(1),
    m.ReadHealth(1),
    m.ReadReadiness(1),
    m.Invite(1, "gateway", "g", "m*", None, 2, True, False, "pr"),
    m.EndInvitation(1, "ab", "pr"),
    m.ReadMembers(1, "node"),
    m.ChangeMember(1, "node", "n", "drain", "pr"),
    m.RotateBrokerKey(1, "pr"),
    m.RegisterWorkflow(1, "w.war", "w", 120, 60, True, "pr"),
    m.UnregisterWorkflow(1, "w", "pr"),
    m.DescribeWorkflow(1, "w"),
    m.ListWorkflows(1, 100, 0),
    m.HelloNode(1, "n", (DEVICE,), 8, (HELD,), (("zone", "a"),), 96 << 30, "mark"),
    m.NodeLeaves(25_000),
    m.NodeBeat(((9000, 123),)),
    m.NodeMeasured("h", (POINT,), (GPU_USE,)),
    m.WorkerProgressed(9000, "fetching", 77, 5, 10),
    m.WorkerExited(9000, None, 9, "killed by signal 9", True, ("last", "lines"), False),
    m.WorkerKey(9000, KEY),
    m.FetchArchive("ab", 0, 1 << 20),
    m.HelloWorker(
        1, 9000, "n", "m", "1.0", "ab", "cpu", 77, "mark", "is_ready() says no",
        (m.HeldLease(3, True, False, 2, (m.HeldJob(b"g", 7, "s"),)),), 6,
    ),
    m.WorkerBeat((3, 4), 5, "is_ready() says no", 5),
    m.Completed(3, 1500, (m.CompletedItem(200, b"meta", 1), m.CompletedItem(503, b"", 0, ("s",))), 2, 5),
    m.CompletedInRow((m.Completed(3, 15, (m.CompletedItem(200, b"a"),), 0, 5), m.Completed(4, 9, (), 1, 6))),
    m.Streamed(3, (m.StreamedItem(0, b"meta", 1),), 1, 4),
    m.Measured("h", (POINT,)),
    m.Welcome(500, 3000, False, 2, True, True, True),
    m.Beat(2, 5),
    m.IntroduceYourself(),
    m.Leave("no use"),
    m.Misunderstood("why"),
    m.Enrolled("n", (KEY,)),
    m.BrokerKeys((KEY, KEY)),
    m.Answered((m.AnsweredItem(7, b"meta", 1), m.AnsweredItem(8, b"", 0, False, 2)), 5),
    m.Refused((m.RefusedItem(7, "ModelNotFound", "Model not found: m", "", 5),), 6),
    m.AskRefused(1, "Conflict", "taken", ""),
    m.ModelRegistered(1, "m", "1.0", 2, True),
    m.ModelUnregistered(1, "m"),
    m.WorkersScaled(1, False),
    m.DefaultSet(1),
    m.KeyRenewed(1),
    m.KeysChanged((m.AccessKey("inference", "ab", 1000), m.AccessKey("token", "cd", None))),
    m.ModelDescribed(1, (VERSION,)),
    m.ModelsListed(1, (m.ModelEntry("m", "m.mar"),), 100),
    m.FleetRead(
        1, 3, 1.5, 2,
        (m.NodeFacts("n", (DEVICE,), 8, 1, 1_700_000_000_000, (("zone", "a"),), (9 << 30,)),),
        (VERSION,), ("m.mar",), (m.NotLoaded("n", "n.mar", "not found"),),
    ),
    m.MetricsRead(1, (m.MetricFamily("x", "counter", "help", (m.Sample("_total", (("a", "b"),), 1.0),)),)),
    m.HealthRead(1, False, True),
    m.ReadinessRead(1, (m.VersionReadiness("m", "1.0", True, False, True, "wants 1, has 0"),), True),
    m.Invited(1, "torchrelay-join-1.abc", "ab", 1_700_000_000_000),
    m.InvitationEnded(1),
    m.MembersRead(
        1,
        (m.MemberFacts("n", "node", "ab", "here", 1, 2, "m*", True, True, 3, 4),),
        (m.InvitationFacts("ab", "node", "n", "m*", 1, None, 1, True, False),),
    ),
    m.MemberChanged(1),
    m.BrokerKeyRotated(1, KEY),
    m.WorkflowRegistered(1, "w"),
    m.WorkflowUnregistered(1, "w"),
    m.WorkflowDescribed(
        1, "w", "w.war", 1, 2, 3, 50,
        (m.StepFacts("a", "w__a", 1, 10_000, ("b",), True), m.StepFacts("b", "w__b", 0, 500, (), False)),
    ),
    m.WorkflowsListed(1, (m.WorkflowEntry("w", "w.war"),), 100),
    m.Forgotten((1,), (2,)),
    m.StartWorker(
        9000, "m", "1.0", "ab", 10, "h", "cuda:1", 1, 8, "json", False, False, 99, "m.mar", True,
        b"yaml", (1, 2), True, "3-4", "/state/ab.archive", "mark", ("cuda:1", "cuda:2"), 9 << 30,
    ),
    m.StopWorker(9000, True, "why", True, (1, 2)),
    m.ArchiveChunk("ab", 0, 10),
    m.ArchiveMissing("ab"),
    m.Assign(3, False, (m.AssignItem(b"meta", 1, "s", True, 900, b"g", 7),)),
    m.Assign(3, False, (m.AssignItem(b"a"), m.AssignItem(b"b")), (m.AheadItem(4, 1),)),
    m.AnswerAgain((3,)),
    m.CancelJobs(3, (0,)),
)  # fmt: skip


def test_there_is_an_example_of_every_kind_and_every_kind_has_a_number() -> None:
    assert {type(example) for example in EXAMPLES} == set(codec.KINDS.values())


def test_the_unions_of_all_directions_are_what_the_wire_knows() -> None:
    unions = (m.FromGateway, m.FromNode, m.FromWorker, m.ToGateway, m.ToNode, m.ToWorker)
    of_newcomers = {m.FromNewcomer, *get_args(m.ToNewcomer)}
    known = {member for union in unions for member in get_args(union)} | of_newcomers
    assert known == set(codec.KINDS.values())


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: type(message).__name__)
def test_every_message_survives_the_wire(message: m.Message) -> None:
    assert codec.decode(codec.encode(message, 7)) == (message, 7)


def test_the_bytes_of_every_message_are_the_golden_ones() -> None:
    """A change here breaks a fleet of mixed versions: append fields with a default, raise the version."""
    lines = [f"{type(example).__name__} {codec.encode(example, 7).hex()}" for example in EXAMPLES]
    assert lines == GOLDEN.read_text(encoding="ascii").splitlines()


def lines_of(version: int) -> list[str]:
    return RELEASED[version].read_text(encoding="ascii").splitlines()


def test_the_bytes_of_every_version_that_is_spoken_are_kept() -> None:
    assert set(RELEASED) == set(range(m.OLDEST_PROTOCOL_VERSION, m.PROTOCOL_VERSION))


@pytest.mark.parametrize(
    ("version", "line"), [(version, line) for version in RELEASED for line in lines_of(version)]
)
def test_a_message_of_a_version_before_is_read_with_its_values_and_todays_defaults(
    version: int, line: str
) -> None:
    """What it says stays what it says; what it doesn't say is what the field's default means."""
    name, digits = line.split(" ")
    head = bytes.fromhex(digits)
    message, epoch = codec.decode(head)
    assert (type(message).__name__, epoch) == (name, 7)
    said = msgpack.unpackb(head[codec.PREFIX.size :], use_list=False)
    assert_says(message, said)


def assert_says(message: object, said: object) -> None:
    """Check that a value of today holds all that was said, and beyond that nothing but defaults."""
    if isinstance(message, msgspec.Struct):
        assert isinstance(said, tuple)
        fields = msgspec.structs.fields(message)
        assert len(said) <= len(fields)
        for field, value in zip(fields, said, strict=False):
            assert_says(getattr(message, field.name), value)
        for field in fields[len(said) :]:
            assert getattr(message, field.name) == field.default, f"{field.name} has no default"
    elif isinstance(message, tuple) and isinstance(said, tuple):
        assert len(message) == len(said)
        for mine, value in zip(message, said, strict=True):
            assert_says(mine, value)
    else:
        assert message == said


@pytest.mark.parametrize("version", RELEASED)
def test_a_peer_of_a_version_before_reads_the_fields_that_it_knows_where_it_expects_them(
    version: int,
) -> None:
    """Its messages begin as today's do: fields are appended, and never moved or taken out."""
    today = {type(example).__name__: codec.encode(example, 7) for example in EXAMPLES}
    for line in lines_of(version):
        name, digits = line.split(" ")
        then, now = bytes.fromhex(digits), today[name]
        assert now[: codec.PREFIX.size] == then[: codec.PREFIX.size], f"{name} has another kind"
        fields_then = msgpack.unpackb(then[codec.PREFIX.size :], use_list=False, strict_map_key=False)
        fields_now = msgpack.unpackb(now[codec.PREFIX.size :], use_list=False, strict_map_key=False)
        assert len(fields_now) >= len(fields_then), f"{name} lost a field"
        for one, other in zip(fields_now, fields_then, strict=False):
            assert type(one) is type(other) or None in (one, other), f"{name} changed a field's type"


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: type(message).__name__)
def test_a_newer_peers_extra_fields_are_ignored(message: m.Message) -> None:
    head = codec.encode(message, 7)
    fields = [*msgpack.unpackb(head[codec.PREFIX.size :]), "of the future"]
    assert codec.decode(head[: codec.PREFIX.size] + msgpack.packb(fields)) == (message, 7)


@given(st.binary(max_size=200))
def test_garbage_is_a_wire_error_and_nothing_else(data: bytes) -> None:
    with pytest.raises(codec.WireError):
        codec.decode(data)


@given(st.sampled_from(EXAMPLES), st.data())
def test_a_damaged_message_is_read_as_a_message_or_refused(example: m.Message, data: st.DataObject) -> None:
    head = bytearray(codec.encode(example, 7))
    position = data.draw(st.integers(0, len(head) - 1))
    head[position] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(head)))
    for damaged in (bytes(head), bytes(head[:cut])):
        try:
            message, _ = codec.decode(damaged)
        except codec.WireError:
            continue
        assert isinstance(message, m.Message)


@pytest.mark.parametrize(
    ("head", "why"),
    [
        (b"", "shorter than its prefix"),
        (codec.PREFIX.pack(9, 61, 0, 0) + b"\x90", "wire version 9"),
        (codec.PREFIX.pack(1, 255, 0, 0) + b"\x90", "unknown kind 255"),
        (codec.PREFIX.pack(1, 61, 2, 0) + b"\x90", "unknown flags"),
        (codec.PREFIX.pack(1, 120, 0, 0) + b"\xdd\xff\xff\xff\xff", "exceeds max_array_len"),
        (codec.PREFIX.pack(1, 1, 0, 0) + b"\x91\xc7\x01\x05x", "exceeds max_ext_len"),
        (
            codec.PREFIX.pack(1, 23, 0, 0) + msgpack.packb([["x"]]),
            r"Expected `int`, got `str` - at `\$\[0\]\[0\]`",
        ),
        (codec.PREFIX.pack(1, 61, 0, 0) + b"\x91" * 5000, "not a Beat"),
    ],
)
def test_what_is_wrong_is_said(head: bytes, why: str) -> None:
    with pytest.raises(codec.WireError, match=why):
        codec.decode(head)


def _unbounded(kind: msgspec.inspect.Type, path: str) -> Iterator[str]:
    """Name the fields below a type that have no range, or texts without a length."""
    match kind:
        case msgspec.inspect.IntType(ge=ge, le=le):
            if ge is None or le is None or ge < -(2**63) or le > 2**63 - 1:
                yield path
        case msgspec.inspect.StrType(max_length=None, pattern=None):
            yield path
        case msgspec.inspect.StructType(fields=fields):
            for field in fields:
                yield from _unbounded(field.type, f"{path}.{field.name}")
        case msgspec.inspect.VarTupleType(item_type=item):
            yield from _unbounded(item, f"{path}[]")
        case msgspec.inspect.TupleType(item_types=items):
            for item in items:
                yield from _unbounded(item, f"{path}[]")
        case msgspec.inspect.DictType(key_type=key, value_type=value):
            yield from _unbounded(key, f"{path} key")
            yield from _unbounded(value, f"{path} value")
        case msgspec.inspect.UnionType(types=kinds):
            for one in kinds:
                yield from _unbounded(one, path)


def test_every_number_of_every_message_has_a_range_and_every_text_a_length() -> None:
    for cls in codec.KINDS.values():
        assert list(_unbounded(msgspec.inspect.type_info(cls), cls.__name__)) == []


def _with_leaf(value: object, leaf: object) -> Iterator[object]:
    """Yield a message's fields with each of its numbers or texts replaced in turn."""
    if isinstance(value, tuple | list):
        for index, item in enumerate(value):
            for changed in _with_leaf(item, leaf):
                yield [*value[:index], changed, *value[index + 1 :]]
    elif isinstance(value, dict):
        for key, item in value.items():
            for changed in _with_leaf(item, leaf):
                yield {**value, key: changed}
    elif type(value) is type(leaf):
        yield leaf


@pytest.mark.parametrize("leaf", [2**64 - 1, 2**63, 2**63 - 1, -1, -(2**63)])
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda message: type(message).__name__)
def test_what_passes_the_codec_can_be_kept_and_sent_on(example: m.Message, leaf: int) -> None:
    head = codec.encode(example, 7)
    fields = msgpack.unpackb(head[codec.PREFIX.size :])
    for changed in _with_leaf(fields, leaf):
        try:
            message, _ = codec.decode(head[: codec.PREFIX.size] + msgpack.packb(changed))
        except codec.WireError:
            continue
        assert codec.decode(codec.encode(message, 7)) == (message, 7)
        assert leaf < 2**63


@pytest.mark.parametrize(
    "message",
    [
        m.ListModels(1, -3, -(2**63)),
        m.HelloNode(1, "n", (), 2**63 - 1, ()),
        m.HelloNode(1, "n", (m.Device("cuda:" + "9" * 5000, "gpu"),), 1, ()),
        m.HelloNode(1, "n" * 201, (), 1, ()),
        m.HelloNode(1, "n", (), 1, (m.HeldWorker(2**63 - 1, "m", "1.0", "ab", "cpu", 7),)),
        m.FetchArchive("../../etc/passwd", 0, 10),
        m.Submit((m.SubmitItem(1, "m", None, False, b""),) * 1025),
        m.NodeBeat(((1, 1),) * 8193),
        m.GatewayBeat({str(number): 1 for number in range(17)}),
    ],
    ids=lambda message: type(message).__name__,
)
def test_what_no_part_would_send_is_refused(message: m.Message) -> None:
    with pytest.raises(codec.WireError):
        codec.decode(codec.encode(message, 7))


@pytest.mark.parametrize(
    "fields",
    [[1, "x" * 7_000_000], [1, "inference" * 100_000], [["x" * 7_000_000] * 1, 1], "x" * 7_000_000],
    ids=["word", "long word", "array", "no array"],
)
def test_a_refusal_quotes_little_of_what_came(fields: object) -> None:
    with pytest.raises(codec.WireError) as caught:
        codec.decode(codec.PREFIX.pack(1, 33, 0, 0) + msgpack.packb(fields))
    assert len(str(caught.value)) <= 250


@pytest.mark.parametrize("kind", [21, 23, 52])
def test_maps_that_no_message_has_are_refused_at_once(kind: int) -> None:
    """Each takes 64 bytes for one byte that was sent."""
    body = b"\x91\xdd" + (50_000).to_bytes(4, "big") + b"\x80" * 50_000
    with pytest.raises(codec.WireError, match=r"holds a map|holds two maps"):
        codec.decode(codec.PREFIX.pack(1, kind, 0, 0) + body)


def test_a_head_above_the_limit_is_refused_unread() -> None:
    with pytest.raises(codec.WireError, match="above the limit"):
        codec.decode(b"\x00" * (codec.HEAD_LIMIT_BYTES + 1))


def test_a_requests_head_comes_before_its_headers_and_keeps_every_byte() -> None:
    head = codec.head([b"X-Name", b"caf\xe9", b"x-empty", b""])
    request, _ = codec.unpack_request(codec.pack_request("id", [("explain", "True")], [], head)[0], ())
    assert request.headers == (("X-Name", "caf\xe9"), ("x-empty", ""), ("explain", "True"))


def test_a_head_with_half_a_header_is_no_request() -> None:
    with pytest.raises(codec.WireError):
        codec.unpack_request(codec.pack_request("id", [], [], b"name")[0], ())


@given(st.lists(st.tuples(st.text(max_size=9), st.text(max_size=9), st.binary(max_size=20_000)), max_size=12))
def test_requests_survive_the_wire_inline_or_as_frames(inputs: list[tuple[str, str, bytes]]) -> None:
    meta, frames = codec.pack_request("id", [("A", "b")], inputs)
    request, values = codec.unpack_request(meta, frames)
    assert (request.request_id, request.headers) == ("id", (("A", "b"),))
    assert [(i.name, i.content_type, bytes(v)) for i, v in zip(request.inputs, values, strict=True)] == inputs
    assert len(meta) < codec.INLINE_TOTAL_LIMIT_BYTES + 4096
    assert all(len(frame) > 0 for frame in frames)


@pytest.mark.parametrize("size", [0, codec.INLINE_LIMIT_BYTES, codec.INLINE_LIMIT_BYTES + 1])
def test_responses_survive_the_wire(size: int) -> None:
    response = codec.Response(201, "Made", (("a", "b"),), b"x" * size)
    meta, frames = codec.pack_response(response)
    unpacked, body = codec.unpack_response(meta, frames)
    assert (unpacked.status, unpacked.reason, unpacked.headers, bytes(body)) == (
        201,
        "Made",
        (("a", "b"),),
        b"x" * size,
    )
    assert bool(frames) == (size > codec.INLINE_LIMIT_BYTES)


def test_a_response_that_names_a_frame_it_lacks_is_refused() -> None:
    meta, _ = codec.pack_response(codec.Response(200, "", (), b"x" * 10_000))
    with pytest.raises(codec.WireError, match="frame 0 of 0"):
        codec.unpack_response(meta, [])


@pytest.mark.parametrize("counts", [[1], [1, 2], [-1, 3], [3]])
def test_frames_that_do_not_add_up_are_refused(counts: list[int]) -> None:
    with pytest.raises(codec.WireError, match="frames came"):
        codec.split_frames(counts, [b"a", b"b"])


def test_frames_are_dealt_out_in_order() -> None:
    assert codec.split_frames([1, 0, 2], ["a", "b", "c"]) == [("a",), (), ("b", "c")]
