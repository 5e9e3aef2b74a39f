"""What of an archive runs: its manifest, handler, model-config.yaml and weights."""

import io
import itertools
import pickle
import zipfile
from collections import OrderedDict
from fractions import Fraction
from pathlib import Path

import pytest

from tests.cli.migrate.archives import HANDLER, judged, worse
from torchrelay.cli.migrate.surroundings import Surroundings
from torchrelay.shared.torchserve.config_keys import ConfigValues


def weights(value: object) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as file:
        file.writestr("w/data.pkl", pickle.dumps(value, 2))
    return target.getvalue()


def test_an_archive_that_runs_says_what_it_is(tmp_path: Path) -> None:
    [found] = judged(tmp_path, {"h.py": HANDLER}, modelVersion="2.0")
    assert (found.level, found.what) == ("same", "m 2.0, handler h.py")


@pytest.mark.parametrize(
    "text",
    [
        "class A: pass",
        "from x import handle",
        "handle = object()",
        "from x import *",
        "async def handle(d, c): ...",
    ],
)
def test_handlers_have_several_forms(tmp_path: Path, text: str) -> None:
    assert worse(judged(tmp_path, {"h.py": text})) == []


@pytest.mark.parametrize("text", ["", "class A: pass\nclass B: pass", "def other(): pass"])
def test_a_module_without_an_entry_point_doesnt_run(tmp_path: Path, text: str) -> None:
    assert worse(judged(tmp_path, {"h.py": text})) == [("fails", "h.py", 0)]


def test_a_function_that_the_manifest_names_is_looked_for(tmp_path: Path) -> None:
    assert worse(judged(tmp_path, {"h.py": "def answer(d, c): ..."}, handler="h:answer")) == []
    assert worse(judged(tmp_path, {"h.py": "def answer(d, c): ..."}, handler="h:other")) == [
        ("fails", "h.py", 0)
    ]


def test_the_handler_must_be_readable_and_other_files_need_not(tmp_path: Path) -> None:
    found = judged(tmp_path, {"h.py": HANDLER, "old.py": "print 'x'"})
    assert worse(found) == [("differs", "old.py", 1)]
    assert worse(judged(tmp_path, {"h.py": "\nprint 'x'"})) == [("fails", "h.py", 2)]


def test_what_the_context_lacks_is_found_unless_the_handler_keeps_it_there(tmp_path: Path) -> None:
    text = "def handle(data, context):\n    context.kept = 1\n    return context.nothing, context.kept\n"
    assert worse(judged(tmp_path, {"h.py": text})) == [("differs", "h.py", 3)]


def test_a_load_of_weights_is_told_of_what_torch_changed(tmp_path: Path) -> None:
    assert worse(judged(tmp_path, {"h.py": f"import torch\n{HANDLER}x = torch.load('a')\n"})) == [
        ("differs", "h.py", 4)
    ]


def test_weights_that_hold_objects_need_leave(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {"w.pt": weights(Fraction(1, 2)), "net.py": "class N: pass"}
    model = {"serializedFile": "w.pt", "modelFile": "net.py"}
    own = {**files, "h.py": HANDLER}
    assert worse(judged(tmp_path, own, **model)) == [("differs", "w.pt", 0)]
    ours = {
        **files,
        "h.py": "from ts.torch_handler.base_handler import BaseHandler\nclass H(BaseHandler): pass",
    }
    assert worse(judged(tmp_path, ours, **model)) == [("fails", "w.pt", 0)]
    allowed = {**ours, "c.yaml": "handler: {weights_only: false}"}
    assert worse(judged(tmp_path, allowed, configFile="c.yaml", **model)) == []
    tensors = {**ours, "w.pt": weights(OrderedDict(a=1))}
    assert worse(judged(tmp_path, tensors, **model)) == []


@pytest.mark.parametrize(
    ("config", "level"),
    [
        ("minWorkers: 1\nmaxWorkers: 1\nhandler: {a: 1}", ""),
        ("batchSize: many", "ignored"),
        ("a: [", "fails"),
        ("- a", "fails"),
        ("sequenceBatching: true", "fails"),
        ("torchrun: {nnodes: 2}\nparallelType: pp", "fails"),
        ("torchrun: {rdzv-endpoint: 'host:1', nproc-per-node: 1}\nparallelType: pp", "ignored"),
        ("a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
            f"{b}: &{b} [{', '.join([f'*{a}'] * 8)}]\n" for a, b in itertools.pairwise("abcdefgh")
        ), "fails"),
    ],
    ids=["as it is", "type", "no yaml", "list", "sequences", "hosts", "rendezvous", "bomb"],
)  # fmt: skip
def test_a_model_config_is_judged_as_a_registration_does(tmp_path: Path, config: str, level: str) -> None:
    found = worse(judged(tmp_path, {"h.py": HANDLER, "c.yaml": config}, configFile="c.yaml"))
    assert {one[0] for one in found} == ({level} if level else set())


def test_timeouts_that_a_model_config_leaves_out_matter_where_the_configuration_says_them(
    tmp_path: Path,
) -> None:
    around = Surroundings(config=ConfigValues(default_response_timeout=60))
    files = {"h.py": HANDLER, "c.yaml": "batchSize: 1"}
    assert worse(judged(tmp_path, files, around, configFile="c.yaml")) == [("differs", "c.yaml", 0)]
    assert worse(judged(tmp_path, files, configFile="c.yaml")) == []


@pytest.mark.parametrize(
    ("model", "level"),
    [
        ({"handler": ""}, "fails"),
        ({"modelName": "a/b"}, "fails"),
        ({"modelName": ""}, ""),
        ({"envelope": "json"}, "ignored"),
    ],
)
def test_a_manifest_is_judged_as_a_registration_does(
    tmp_path: Path, model: dict[str, str], level: str
) -> None:
    found = worse(judged(tmp_path, {"h.py": HANDLER}, **model))
    assert {one[0] for one in found} == ({level} if level else set())


def test_a_handler_may_come_from_the_configuration(tmp_path: Path) -> None:
    around = Surroundings(config=ConfigValues(default_service_handler="h.py"))
    assert worse(judged(tmp_path, {"h.py": HANDLER}, around, handler="")) == []


def test_the_backend_in_cpp_and_plugins_are_not_here(tmp_path: Path) -> None:
    assert ("fails", "", 0) in worse(judged(tmp_path, {"h.py": HANDLER}, runtime="LSP"))
    assert worse(judged(tmp_path, {"h.py": HANDLER, "p.jar": ""})) == [("ignored", "p.jar", 0)]
