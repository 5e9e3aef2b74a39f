"""Archives for whole-fleet tests: one behaviour each, made by our own archiver."""

from pathlib import Path

from torchrelay.shared.archives import model_archive

#: Model name -> its handler's code.
HANDLERS = {
    "echo": """
def handle(data, context):
    return None if data is None else [bytes(row.get("body") or b"") for row in data]
""",
    "imports_project": """
import broker, cli, gateway, shared, worker

def handle(data, context):
    return data and [broker.WORD + shared.WORD for _ in data]
""",
    "teller": """
import os, time

class Teller:
    def initialize(self, context):
        self.loaded_at = time.time()
        self.device = context.system_properties.get("gpu_id")

    def handle(self, data, context):
        time.sleep(float(context.get_request_header(0, "x-take-s") or 0))
        return [{"pid": os.getpid(), "loaded_at": self.loaded_at, "rows": len(data)} for _ in data]
""",
    "on_device": """
import torch

class OnDevice:
    def initialize(self, context):
        gpu_id = context.system_properties["gpu_id"]
        self.device = torch.device("cpu" if gpu_id is None else f"cuda:{gpu_id}")
        self.weights = torch.arange(4.0, device=self.device)

    def handle(self, data, context):
        return [{"device": str(self.weights.device), "sum": self.weights.sum().item()} for _ in data]
""",
    "tells_what_it_was_given": """
import os

def handle(data, context):
    given = open("/proc/self/environ").read() + open("/proc/self/cmdline").read() + str(dict(os.environ))
    given += str(vars(context)) + str(context.system_properties)
    return data and [given for _ in data]
""",
    "describes": """
class Describes:
    def initialize(self, context):
        self.context = context

    def handle(self, data, context):
        if context.get_request_header(0, "describe") == "True":
            return [{"data1": "1", "data2": "2"}]
        return ["ok" for _ in data]
""",
    "raises_at_load": """
class Raises:
    def initialize(self, context):
        raise ValueError("no weights here")

    def handle(self, data, context):
        return data
""",
    "raises": """
def handle(data, context):
    if data is not None:
        raise KeyError("pixel")
""",
    "wrong_rows": """
def handle(data, context):
    return None if data is None else ["one", "too", "many"]
""",
    "unserialisable": """
def handle(data, context):
    return None if data is None else [object() for _ in data]
""",
    "spy": """
import os, re
from pathlib import Path

SECRET = b"can" + b"ary"

def is_own(folder):
    try:
        return folder.stat().st_uid == os.geteuid()
    except OSError:  # the process has ended
        return False

def held():
    # What looks like a secret in this process's own memory; the pattern doesn't look like itself.
    pattern = re.compile(rb"canary-of-the-(?:[k]ey(?:store)?)")
    with open("/proc/self/mem", "rb", 0) as memory, open("/proc/self/maps") as maps:
        for place, rights, _, device, *_ in map(str.split, maps):
            start, end = (int(word, 16) for word in place.split("-"))
            if rights.startswith("rw") and device == "00:00" and end - start < 1 << 28:
                memory.seek(start)
                yield from {word.decode() for word in pattern.findall(memory.read(end - start))}

def handle(data, context):
    if not data:  # it is being loaded
        return None
    in_memory = sorted(held())  # first: root may read the environment of any process, and then holds it
    found, read, refused = [], [], []
    for folder in Path("/proc").glob("[0-9]*"):
        for name in ("environ", "cmdline"):
            try:
                text = (folder / name).read_bytes()
            except OSError:
                if is_own(folder):
                    refused.append(folder.name)
                continue
            if name == "environ" and folder.name != str(os.getpid()):
                read.append(folder.name)
            if SECRET in text and is_own(folder):
                found.append((folder.name, name))
    variables = dict(os.environ)
    seen = dict(pid=os.getpid(), variables=variables, found=found, read=read, refused=refused,
                held=in_memory)
    return [seen for _ in data]
""",
    "prints_without_end": """
import itertools, threading, time

def flood():
    for number in itertools.count():
        print(number, "y" * 3900, flush=True)
        time.sleep(0.001)

class Prints:
    def initialize(self, context):
        threading.Thread(target=flood, daemon=True).start()

    def handle(self, data, context):
        return ["answered" for _ in data]
""",
    "exits": """
import os

def handle(data, context):
    if data is not None:
        print("going down", flush=True)
        os._exit(1)
""",
    "kills_itself": """
import os, signal

def handle(data, context):
    if data is not None:
        os.kill(os.getpid(), signal.SIGKILL)
""",
    "dies_of_a_word": """
import os, signal

def handle(data, context):
    if data is None:
        return None
    rows = [bytes(row.get("body") or b"") for row in data]
    if any(b"exit" in row for row in rows):
        os._exit(1)
    if any(b"crash" in row for row in rows):
        signal.signal(signal.SIGSEGV, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGSEGV)
    return rows
""",
    "waits_for_a_file": """
import os, time

def handle(data, context):
    if data is None:
        return None
    path = bytes(data[0]["body"]).decode()
    open(path + ".begun", "w").close()
    while not os.path.exists(path):
        time.sleep(0.02)
    return [str(os.getpid()) for _ in data]
""",
    "never_returns": """
import time

def handle(data, context):
    while data is not None:
        time.sleep(60)
""",
}


def make(
    folder: Path,
    name: str,
    *,
    version: str = "1.0",
    file_name: str = "",
    handler: str = "",
    model_name: str = "",
    code: str = "",
    config: str = "",
    requirements: str = "",
) -> Path:
    """Write an archive into a model store and return it.

    The handler's code is that of HANDLERS unless it is given; `config` is the text of a model-config.yaml,
    `requirements` that of a requirements.txt.
    """
    source = folder.parent / f"{name}-source" / (handler or f"{name}_handler.py")
    source.parent.mkdir(exist_ok=True)
    source.write_text(code or HANDLERS[name])
    target = folder / (file_name or f"{name}.mar")
    model_archive.create(
        target,
        model_name=model_name or name,
        version=version,
        handler=str(source),
        config_file=_written(source.parent / "model-config.yaml", config),
        requirements_file=_written(source.parent / "requirements.txt", requirements),
    )
    return target


def _written(path: Path, text: str) -> Path | None:
    if not text:
        return None
    path.write_text(text)
    return path


def make_store(folder: Path, *names: str) -> Path:
    """Make a model store with these archives."""
    folder.mkdir(exist_ok=True)
    for name in names:
        make(folder, name)
    return folder
