import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import cast

import pytest
import torch

from tests.worker.models import ECHO, start_worker, write_model
from torchrelay.worker.model import loading

pytestmark = pytest.mark.usefixtures("imports")

CLASS = """
class Handler:
    def initialize(self, context):
        context.initialized = True

    def handle(self, data, context):
        return [context.initialized for _ in data]
"""


def load(folder: Path, files: dict[str, str], handler: str = "h.py", **model: object) -> loading.LoadedModel:
    model_dir = write_model(folder, files, **model)
    sys.path.insert(0, str(model_dir))
    return loading.load(start_worker(handler=handler), model_dir)


def test_a_function_called_handle_is_called_with_none_while_loading(tmp_path: Path) -> None:
    code = "seen = []\ndef handle(data, context):\n    seen.append(data)\n    return ['ok']\n"
    model = load(tmp_path, {"h.py": code})
    assert model.entry_point([{}], model.context) == ["ok"]
    assert sys.modules["h"].seen == [None, [{}]]


@pytest.mark.parametrize("handler", ["h:answer", "h.py:answer", "some/dir/h.py:answer"])
def test_a_function_of_another_name_is_the_entry_point(tmp_path: Path, handler: str) -> None:
    model = load(tmp_path, {"h.py": "def answer(data, context):\n    return ['answered']\n"}, handler)
    assert model.entry_point([{}], model.context) == ["answered"]


def test_the_one_class_is_made_and_initialized(tmp_path: Path) -> None:
    code = f"from collections import OrderedDict\n{CLASS}"
    model = load(tmp_path, {"h.py": code})
    assert model.entry_point([{}, {}], model.context) == [True, True]


def test_two_classes_are_one_too_many_and_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="its classes are: Handler, Second"):
        load(tmp_path, {"h.py": f"{CLASS}\nclass Second:\n    pass\n"})


def test_a_module_without_a_class_or_function_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="its classes are: none"):
        load(tmp_path, {"h.py": "from collections import OrderedDict\n"})


def test_a_class_without_handle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="class Handler of h has no method handle"):
        load(tmp_path, {"h.py": "class Handler:\n    def initialize(self, context):\n        pass\n"})


def test_a_missing_handler_is_told_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(ModuleNotFoundError, match=r"the archive has no nowhere\.py"):
        load(tmp_path, {}, "nowhere.py")


def test_no_handler_at_all_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="names no handler"):
        load(tmp_path, {}, "")


def test_a_handler_that_lacks_a_library_fails_with_that_and_not_with_the_fallback(tmp_path: Path) -> None:
    with pytest.raises(ModuleNotFoundError, match="No module named 'a_library_nobody_has'"):
        load(tmp_path, {"image_classifier.py": "import a_library_nobody_has\n"}, "image_classifier")


def test_an_exception_of_initialize_comes_through_as_it_is(tmp_path: Path) -> None:
    code = CLASS.replace("context.initialized = True", "raise ValueError('cannot initialise')")
    with pytest.raises(ValueError, match=r"^cannot initialise$"):
        load(tmp_path, {"h.py": code})


def test_the_context_tells_the_model_and_its_configuration(tmp_path: Path) -> None:
    model = load(
        tmp_path, {"h.py": ECHO, "model-config.yaml": "own: {key: 3}\n"}, configFile="model-config.yaml"
    )
    context = model.context
    assert context.model_name == "m"
    assert context.model_yaml_config == {"own": {"key": 3}}
    assert context.manifest is not None
    assert context.manifest["model"]["configFile"] == "model-config.yaml"
    assert sorted(context.system_properties) == [
        "batch_size",
        "gpu_id",
        "limit_max_image_pixels",
        "model_dir",
        "server_name",
        "server_version",
    ]
    assert context.system_properties["server_name"] == "MMS"
    assert context.get_request_id() is None


@pytest.mark.parametrize("content", [None, "a: [broken"])
def test_a_missing_or_broken_configuration_file_fails_the_load(tmp_path: Path, content: str | None) -> None:
    files = {"h.py": ECHO} | ({"c.yaml": content} if content else {})
    with pytest.raises(Exception, match=r"c\.yaml"):
        load(tmp_path, files, configFile="c.yaml")


def test_the_base_handler_runs_an_eager_model_from_its_state_dict(tmp_path: Path) -> None:
    net = """
    import torch

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(2, 1)

        def forward(self, x):
            return self.linear(x)
    """
    handler = """
    from ts.torch_handler.base_handler import BaseHandler

    class Handler(BaseHandler):
        def preprocess(self, data):
            return super().preprocess([row["body"] for row in data])
    """
    linear = torch.nn.Linear(2, 1)
    with torch.no_grad():
        linear.weight.fill_(0.5)
        linear.bias.fill_(1.0)
    tmp_path.mkdir(exist_ok=True)
    torch.save({f"linear.{key}": value for key, value in linear.state_dict().items()}, tmp_path / "net.pt")
    files = {"net.py": textwrap.dedent(net), "h.py": textwrap.dedent(handler)}
    model = load(tmp_path, files, modelFile="net.py", serializedFile="net.pt")
    model.context.request_ids = {0: "r"}
    assert model.entry_point([{"body": [1.0, 3.0]}], model.context) == [[3.0]]
    assert model.context.metrics is not None
    assert [point.name for point in model.context.metrics.take_points()] == ["HandlerTime"]


def test_the_base_handler_by_name_needs_no_file_and_runs_torchscript(tmp_path: Path) -> None:
    tmp_path.mkdir(exist_ok=True)
    torch.jit.save(torch.jit.script(torch.nn.ReLU()), tmp_path / "net.pt")
    model = load(tmp_path, {}, "base_handler", serializedFile="net.pt")
    rows = cast("list[dict[str, object]]", [-1.0, 2.0])
    assert model.entry_point(rows, model.context) == [0.0, 2.0]


def test_a_state_dict_that_is_a_program_is_not_loaded(tmp_path: Path) -> None:
    class Program:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (print, ("run",))

    tmp_path.mkdir(exist_ok=True)
    torch.save({"w": Program()}, tmp_path / "net.pt")
    files = {"net.py": "class Net:\n    pass\n"}
    with pytest.raises(Exception, match="holds more than tensors"):
        load(tmp_path, files, "base_handler", modelFile="net.py", serializedFile="net.pt")


def test_archives_with_modules_named_as_ours_load_and_leave_ours_alone(tmp_path: Path) -> None:
    model_dir = write_model(
        tmp_path / "model",
        {
            "worker.py": "import broker, cli, json, torchrelay.deep\nfrom torchrelay.deep import WORD\n"
            "def handle(data, context):\n"
            "    return data and [[WORD, broker.__file__, cli.__file__, row['body']] for row in data]\n",
            "torchrelay/__init__.py": "",
            "torchrelay/deep.py": "WORD = 'theirs'\n",
            "broker.py": "",
            "cli.py": "",
        },
    )
    script = f"""
    import json, msgspec, sys
    from pathlib import Path
    sys.path.insert(0, {str(Path(loading.__file__).parents[1] / "compat")!r})
    from torchrelay.shared.wire import codec, messages as m
    from torchrelay.worker.model import loading
    from torchrelay.worker.model.runner import Runner
    from torchrelay.worker.model.held_leases import AssignedJob, Batch
    model_dir = Path({str(model_dir)!r})
    start = m.StartWorker(1, "m", "1.0", "", 0, "worker.py", "cpu", None, 1)
    ours = loading.our_modules()
    loading.hide_our_modules(ours, model_dir)
    runner = Runner(model=loading.load(start, model_dir), decode_input=True, response_limit_bytes=1000)
    meta, frames = codec.pack_request("r", [], [("body", "text/plain", b"hi")])
    part_sender = runner.new_part_sender(runner.model.context, print)
    [response], _ = runner.run(part_sender, Batch(1, False, [AssignedJob(meta, frames)]))
    body = codec.unpack_response(*codec.pack_response(response))[1]
    for cls in codec.KINDS.values():
        try:  # each message's field types are looked up at its first use
            msgspec.convert((), cls)
        except msgspec.ValidationError:
            pass
    message, epoch = codec.decode(codec.encode(m.Welcome(500, 3000), 7))
    theirs = sys.modules["worker"].__file__
    print(json.dumps([json.loads(bytes(body)), epoch, type(message).__name__, theirs]))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer, epoch, name, worker_file = json.loads(done.stdout)
    assert answer == ["theirs", str(model_dir / "broker.py"), str(model_dir / "cli.py"), "hi"]
    assert (epoch, name, worker_file) == (7, "Welcome", str(model_dir / "worker.py"))


def test_a_module_is_found_that_was_installed_after_others_were_looked_for(tmp_path: Path) -> None:
    script = f"""
    import importlib, os, sys
    from pathlib import Path
    from torchrelay.worker.model import loading
    folders = [Path({str(tmp_path)!r}, name) for name in ("there", "not_yet")]
    folders[0].mkdir()
    sys.path += map(str, folders)
    times = folders[0].stat()
    assert importlib.util.find_spec("late_one") is importlib.util.find_spec("late_two") is None
    folders[1].mkdir()
    for folder, name in zip(folders, ("late_one", "late_two")):
        (folder / f"{{name}}.py").write_text("")
    os.utime(folders[0], ns=(times.st_atime_ns, times.st_mtime_ns))  # within one tick of its clock
    loading.hide_our_modules(loading.our_modules(), Path({str(tmp_path)!r}))
    import late_one, late_two
    """
    code = textwrap.dedent(script)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_handler_called_like_a_library_that_is_loaded_is_the_archives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "textwrap", textwrap)
    model = load(tmp_path, {"textwrap.py": "def handle(data, context):\n    return ['mine']\n"}, "textwrap")
    assert model.entry_point([{}], model.context) == ["mine"]
