"""What a source says is read without running it, whatever it is."""

import pytest

from torchrelay.shared.archives import python_facts
from torchrelay.shared.archives.python_facts import ContextUse, Import


def read(text: str) -> python_facts.SourceFacts:
    return python_facts.read(text.encode())


def test_imports_say_when_they_are_done() -> None:
    text = """
import os, a.b
from c import d, e
from . import own
try:
    import f
except ImportError:
    f = None
def load():
    import g
class H:
    import h
    def run(self):
        if True:
            import i
"""
    found = {(one.module, one.time) for one in read(text).imports}
    assert found == {
        ("os", "loading"), ("a.b", "loading"), ("c", "loading"), ("f", "perhaps"), ("g", "calling"),
        ("h", "loading"), ("i", "perhaps"),
    }  # fmt: skip
    assert Import("c", ("d", "e"), 3, "loading") in read(text).imports


def test_what_is_asked_of_the_context_is_found_and_what_is_called_so_by_others_is_not() -> None:
    text = """
class Handler:
    def initialize(self, ctx):
        self.context = ctx
        ctx.own = 1
        ctx.system_properties.get("model_dir")
        ctx.system_properties["gpu_id"]
    def handle(self, data, context):
        self.context.metrics.add_time("a", 1)
        return context.get_request_id(0)
    def answer(self, context, question):
        return context.nothing
    def other(self, context):
        context = context["text"]
        return context.no_attribute
"""
    found = read(text)
    assert {use.attribute for use in found.context_uses} == {
        "system_properties", "system_properties.model_dir", "system_properties.gpu_id", "metrics",
        "metrics.add_time", "get_request_id",
    }  # fmt: skip
    assert ContextUse("get_request_id", 10) in found.context_uses
    assert found.context_sets == ("own",)


def test_functions_and_classes_are_those_of_the_module() -> None:
    text = "import x\nif x:\n    def a(): pass\nb = a\nclass C:\n    def d(self): pass\nasync def e(): pass\n"
    found = read(text)
    assert (found.functions, found.classes) == (("a", "e", "b"), ("C",))


def test_a_load_of_weights_that_says_what_it_takes_is_none_of_the_bare_ones() -> None:
    text = "torch.load(a)\ntorch.load(a, weights_only=True)\ntorch.load(a, **options)\njson.load(a)\n"
    assert read(text).bare_loads == (1,)


@pytest.mark.parametrize(
    "text",
    [
        b"print 'Python 2'",
        b"\0",
        b"x = " + b"(" * 10_000,
        b"x = '\xff'",
        b"-" * 200_000 + b"1",
        b"a" * (3 << 20),
    ],
    ids=["python 2", "nul", "brackets", "no text", "signs", "large"],
)
def test_what_python_cant_read_is_a_fault_and_nothing_else(text: bytes) -> None:
    found = python_facts.read(text)
    assert found.fault
    assert found.imports == ()


def test_odd_literals_warn_nobody(recwarn: pytest.WarningsRecorder) -> None:
    assert read("x = '\\d' if 1is 1 else 0").fault == ""
    assert len(recwarn) == 0


def test_where_the_fault_is_is_said() -> None:
    assert read("a = 1\nb = (\nc = 2 2").fault_line in (2, 3)
