"""What is asked of TorchServe's workflows, and their archives; the answers are in `workflow_transcripts`.

    python -m tests.compatibility.workflow_cases --torchserve PATH/bin/torchserve

records those anew from the real TorchServe.
"""

import argparse
import json
import tempfile
import zipfile
from pathlib import Path

from tests.compatibility import more_cases, replaying
from tests.compatibility.more_cases import I, M, group
from tests.integration.fleet import own_address

import record  # isort: skip  # tests/golden's; more_cases has made it importable

TRANSCRIPTS = Path(__file__).parent / "workflow_transcripts"
GROUP = "workflows"

#: The functions of all workflows.
CODE = """
import json

def told(data, name):
    rows = [{key: bytes(value).decode() for key, value in row.items()} for row in data or ()]
    return None if data is None else [json.dumps({name: row}, sort_keys=True) for row in rows]

def first(data, context):
    return None if data is None else [next(iter(row.values())) for row in data]

def left(data, context):
    return told(data, "left")

def right(data, context):
    return told(data, "right")

def join(data, context):
    return told(data, "join")

def plain(data, context):
    return None if data is None else ["plain" for _ in data]

def numbers(data, context):
    return None if data is None else ["[1, 2]" for _ in data]

def marks(data, context):
    for index in range(len(data or ())):
        context.set_response_status(418, "I'm a teapot", index)
        context.set_response_header(index, "x-mark", "1")
    return None if data is None else ["marked" for _ in data]

def breaks(data, context):
    if data is not None:
        raise ValueError("no such thing")

TRIES = 0

def third_time(data, context):
    global TRIES
    if data is None:
        return None
    TRIES += 1
    if TRIES % 3:
        raise ValueError("not yet")
    return [str(TRIES) for _ in data]
"""
MODELS = "models:\n  m: {url: echo.mar}\n"
#: Workflow -> its spec.
WORKFLOWS = {
    "chain": MODELS + "dag: {first: [m], m: [join]}",
    "fork": MODELS + "dag: {m: [left, right], left: [join], right: [join]}",
    "leaves": MODELS + "dag: {m: [left, right]}",
    "leaves_plain": MODELS + "dag: {m: [left, plain]}",
    "leaves_numbers": MODELS + "dag: {m: [left, numbers]}",
    "marks": MODELS + "dag: {marks: [m]}",
    "breaks": MODELS + "dag: {m: [breaks]}",
    "retried": "models:\n  retry-attempts: 2\n  m: {url: echo.mar}\ndag: {m: [third_time]}",
    "numbers": "models:\n  min-workers: 1\n  max-workers: 2\n  batch-size: 4\n  max-batch-delay: 60\n"
               "  m: {url: echo.mar, batch-size: 3, max-batch-delay: 20}\ndag: {m: []}",
    "no_archive": "models:\n  m: {url: nosuch.mar}\ndag: {m: [left]}",
    "no_start": "models:\n  m: {url: init_raises.mar}\ndag: {m: [left]}",
    "no_function": MODELS + "dag: {m: [nowhere]}",
    "self_loop": MODELS + "dag: {m: [m]}",
    "twice": MODELS + "dag: {m: [left, left]}",
    "two_starts": MODELS + "dag: {m: [join], left: [join]}",
    "circle": MODELS + "dag: {first: [m], m: [left], left: [m]}",
    "all_circle": MODELS + "dag: {m: [left], left: [m]}",
    "no_yaml": "models: [",
    "tagged": "models: !!python/object/apply:os.system ['true']\ndag: {m: []}",
    "no_dag": MODELS,
}  # fmt: skip
_WORKFLOW = {"workflowName": "w", "specFile": "spec.yaml", "handler": "code.py"}
_MANIFEST = {"createdOn": "01/01/2026", "archiverVersion": "0.2.15", "workflow": _WORKFLOW}
#: Archive -> its manifest, of those that lack something.
MANIFESTS: dict[str, object] = {
    "no_manifest": None,
    "empty_manifest": {},
    "no_name": {**_MANIFEST, "workflow": {"specFile": "spec.yaml", "handler": "code.py"}},
    "no_version": {key: value for key, value in _MANIFEST.items() if key != "archiverVersion"},
    "no_date": {key: value for key, value in _MANIFEST.items() if key != "createdOn"},
}


def add_archives(store: Path) -> None:
    """Add the workflows to a store that has the models of `tests/golden`."""
    for name, spec in WORKFLOWS.items():
        _write(store, name, spec, {**_MANIFEST, "workflow": {**_WORKFLOW, "workflowName": name}})
    for name, manifest in MANIFESTS.items():
        _write(store, name, WORKFLOWS["chain"], manifest)
    _write(store, "broken_manifest", WORKFLOWS["chain"], "{")
    (store / "no_zip.war").write_bytes(b"hello")


def _write(store: Path, name: str, spec: str, manifest: object) -> None:
    with zipfile.ZipFile(store / f"{name}.war", "w") as archive:
        archive.writestr("spec.yaml", spec)
        archive.writestr("code.py", CODE)
        if manifest is not None:
            text = manifest if isinstance(manifest, str) else json.dumps(manifest)
            archive.writestr("WAR-INF/MANIFEST.json", text)


def _register(name: str) -> dict[str, object]:
    made: dict[str, object] = M(f"/workflows?url={name}.war", "POST")
    return made


def _ask(name: str, body: str = "hello", **more: object) -> dict[str, object]:
    made: dict[str, object] = I(f"/wfpredict/{name}", body, **more)
    return made


#: TorchServe knows no such key, and takes workflows without.
case = group(GROUP, config=["enable_workflow_api=true"])
case("none", M("/workflows"))
case("no_url", M("/workflows", "POST"))
case("empty_url", M("/workflows?url=", "POST"))
case("relative_url", M("/workflows?url=../chain.war", "POST"))
case("unknown_archive", _register("nosuch"))
case("other_scheme", M("/workflows?url=ftp://127.0.0.1/nosuch.war", "POST"))
BROKEN = "self_loop twice two_starts circle all_circle no_yaml tagged no_dag no_archive no_start no_function"
for broken in (*MANIFESTS, "broken_manifest", "no_zip", *BROKEN.split()):
    case(f"register_{broken}", _register(broken))
case("nothing_is_left", M("/workflows"))
case("nor_any_model", M("/models"))
case("register", _register("chain"))
case("register_again", _register("chain"))
# Without the two times TorchServe takes them for 0, and no worker starts.
by_json = '{"url": "fork.war", "workflow_name": "my fork", "response_timeout": 120, "startup_timeout": 120}'
case("register_by_json", M("/workflows", "POST", by_json, {"Content-Type": "application/json"}))
case("list", M("/workflows"))
case("first_page", M("/workflows?limit=1"))
case("second_page", M("/workflows?limit=1&next_page_token=1"))
case("empty_page", M("/workflows?limit=0"))
case("functions_are_in_no_list", M("/models"))
case("a_model_of_a_step", M("/models/chain__m"), volatile=more_cases.WORKERS)
case("a_function", M("/models/chain__join"), volatile=more_cases.WORKERS)
case("describe", M("/workflows/chain"))
case("describe_renamed", M("/workflows/my%20fork"))
case("describe_unknown", M("/workflows/nosuch"))
case("put", M("/workflows/chain", "PUT"))
case("put_list", M("/workflows", "PUT"))
case("options", M("/workflows/chain", "OPTIONS"))
case("ask", _ask("chain"))
case("ask_in_capitals", I("/WFPREDICT/chain", "hello"))
case("ask_by_put", _ask("chain", method="PUT"))
case("ask_by_get", I("/wfpredict/chain", method="GET"))
case("ask_below", _ask("chain/more"))
case("ask_with_a_query", _ask("chain?q=1"))
case(
    "ask_with_a_form", _ask("chain", "p=1&q=2", headers={"Content-Type": "application/x-www-form-urlencoded"})
)
case("ask_unknown", _ask("nosuch"))
case("ask_nobody", I("/wfpredict", "hello"))
case("ask_branches", _ask("my%20fork"))
case("ask_a_step", I("/predictions/chain__m", "hello"))
case("ask_a_function", I("/predictions/chain__left", "hello"))
for asked in ("leaves", "leaves_plain", "leaves_numbers", "marks", "breaks", "retried", "numbers"):
    case(f"register_{asked}", _register(asked))
    case(f"ask_{asked}", _ask(asked), with_reason=True)
case("describe_numbers", M("/workflows/numbers"))
case("a_model_of_numbers", M("/models/numbers__m"), volatile=more_cases.WORKERS)
stopped = M("/models/numbers__m?min_worker=0&synchronous=true", "PUT")
case("step_without_workers", _ask("numbers"), [{"request": stopped, "expect_status": 200}])
case("unregister", M("/workflows/chain", "DELETE"))
case("unregister_again", M("/workflows/chain", "DELETE"))
case("ask_what_is_gone", _ask("chain"))
case("its_models_are_gone", M("/models/chain__m"))


def main() -> None:
    """Record the answers."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--torchserve", required=True, help="the real one")
    parser.add_argument("--store", type=Path, help="with the archives of tests/golden; made if not given")
    options = parser.parse_args()
    (named,) = (one for one in more_cases.FILES if one[0] == GROUP)
    with tempfile.TemporaryDirectory() as folder:
        store = options.store or Path(folder, "store")
        if options.store is None:
            replaying.build_store(store)
        add_archives(store)
        asked = more_cases.recorder(
            str(Path(options.torchserve).absolute()), store, TRANSCRIPTS, own_address()
        )
        record.record_file(*named, asked)


if __name__ == "__main__":
    main()
