"""What handlers raise, and what it says of itself, whatever its own code does."""

import pytest

from torchrelay.worker.common import handler_errors


class Hostile(Exception):
    def __str__(self) -> str:
        raise ValueError("not even a text")


class Liar(str):
    __slots__ = ()

    def __str__(self) -> str:
        return "another"


def fail(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), GeneratorExit(), Hostile()])
def test_whatever_a_handler_raises_is_returned(error: BaseException) -> None:
    assert handler_errors.guarded(fail, error) is error


def test_a_handler_that_ends_its_process_is_let() -> None:
    with pytest.raises(SystemExit):
        handler_errors.guarded(fail, SystemExit(3))


def test_what_a_handler_returns_is_returned() -> None:
    assert handler_errors.guarded(lambda a, b: a + b, 1, 2) == 3


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("bad pixel"), "ValueError: bad pixel"),
        (ValueError("first\nsecond"), "ValueError: first"),
        (ValueError(), "ValueError"),
        (ValueError("  \n"), "ValueError"),
        (Hostile(), "Hostile: <Hostile without a text>"),
        (ValueError("\ud800"), "ValueError: \\ud800"),
    ],
)
def test_an_exception_is_one_line_that_can_be_sent(error: BaseException, line: str) -> None:
    assert handler_errors.one_line(error) == line


def test_a_long_line_is_cut() -> None:
    line = handler_errors.one_line(ValueError("x" * 10_000))
    assert len(line) == handler_errors.LINE_LIMIT + len("...")


def test_a_text_is_a_plain_string_whatever_its_class() -> None:
    text = handler_errors.text_of(Liar("own"))
    assert type(text) is str


@pytest.mark.parametrize(
    ("error", "is_out"),
    [(MemoryError(), True), (RuntimeError("CUDA out of memory"), True), (RuntimeError("cuda"), False)],
)
def test_lack_of_memory_is_told_as_torchserve_tells_it(error: BaseException, is_out: bool) -> None:
    assert handler_errors.is_out_of_memory(error) is is_out
