import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchrelay.shared import clock
from torchrelay.shared.wire.messages import MetricPoint
from torchrelay.worker.common.metric_lines import parse

NOW_MS = 1_800_000_000_000
LINE = "[METRICS]HandlerTime.Milliseconds:1.5|#ModelName:m,Level:Model|#type:GAUGE|#hostname:h,1700000000,a,b"
POINT = MetricPoint(
    "HandlerTime", "gauge", "Milliseconds", 1.5, (("ModelName", "m"), ("Level", "Model")), 1_700_000_000_000,
    ("a", "b"),
)  # fmt: skip


@pytest.mark.parametrize("start", ["", "INFO > "])
def test_a_line_of_torchserves_form_is_a_metric(start: str) -> None:
    assert parse(start + LINE, NOW_MS) == POINT


@pytest.mark.parametrize(
    ("line", "name", "kind", "value", "dimensions", "request_ids"),
    [
        ("[METRICS] C.Count:3|#|#type:COUNTER|#hostname:h,1", "C", "counter", 3.0, (), ()),
        ("[METRICS]D.ms:1e-05|#Level:Model|#hostname:h,1,", "D", "gauge", 1e-05, (("Level", "Model"),), ()),
        ("[METRICS]a b.my unit:-1|#odd,Level:Model,x:y:z|#type:HISTOGRAM|#hostname:h,1,r", "a b", "histogram",
         -1.0, (("Level", "Model"),), ("r",)),
    ],
)  # fmt: skip
def test_what_may_be_left_out_may_be(
    line: str, name: str, kind: str, value: float, dimensions: object, request_ids: object
) -> None:
    point = parse(line, NOW_MS)
    assert point is not None
    assert (point.name, point.kind, point.value) == (name, kind, value)
    assert (point.dimensions, point.request_ids) == (dimensions, request_ids)


@pytest.mark.parametrize("seconds", ["soon", "-5", "0", "9e99", "99999999999999"])
def test_a_time_that_is_none_is_now(seconds: str) -> None:
    point = parse(f"[METRICS]C.Count:1|#|#hostname:h,{seconds}", NOW_MS)
    assert point is not None
    assert point.at_ms == NOW_MS


@pytest.mark.parametrize(
    "line",
    [
        "",
        "[METRICS]",
        "METRICS C.Count:1|#|#hostname:h,1",
        " [METRICS]C.Count:1|#|#hostname:h,1",
        "[METRICS]C.Count:1|#Level:Model",
        "[METRICS]C.Count:nan|#|#hostname:h,1",
        "[METRICS]C.Count:1e999|#|#hostname:h,1",
        "[METRICS]C.Count:1,000|#|#hostname:h,1",
        "[METRICS]C.Count:1|#|#type:SUMMARY|#hostname:h,1",
        "[METRICS]C-x.Count:1|#|#hostname:h,1",
        "[METRICS]C.Count:1|#" + ",".join(f"d{n}:v" for n in range(33)) + "|#hostname:h,1",
    ],
)
def test_what_is_no_metric_is_an_ordinary_line(line: str) -> None:
    assert parse(line, NOW_MS) is None


@given(st.text(alphabet="[METRICS]Count.:|#,type hostname1-e", max_size=200))
def test_no_line_breaks_the_reader(text: str) -> None:
    for line in (text, "[METRICS]" + text, LINE + text):
        point = parse(line, NOW_MS)
        assert point is None or line.startswith(("[METRICS]", "INFO > [METRICS]"))


@pytest.mark.parametrize("part", [" ", "a", "a ", ".", "1", ",", "|#", ":"])
def test_no_line_takes_long_to_read(part: str) -> None:
    line = "[METRICS]" + part * (4096 // len(part))
    started = clock.monotonic()
    assert parse(line, NOW_MS) is None
    assert clock.monotonic() - started < 0.5
