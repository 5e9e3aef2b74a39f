"""Judges an archive by what was read of it: its manifest, handlers, weights and model-config.yaml. Pure."""

from collections.abc import Iterator

from torchrelay.broker.models import precedence
from torchrelay.broker.models.records import Prepared
from torchrelay.cli.migrate import check_imports
from torchrelay.cli.migrate.findings import Finding
from torchrelay.cli.migrate.provided_modules import context_attributes
from torchrelay.cli.migrate.surroundings import Surroundings
from torchrelay.shared import errors
from torchrelay.shared.archives import model_archive, model_config
from torchrelay.shared.archives.archive_survey import Survey
from torchrelay.shared.archives.model_archive import DEFAULT_HANDLERS, ArchiveInfo, Manifest
from torchrelay.shared.settings import BrokerSettings
from torchrelay.shared.wire.messages import RegisterModel

#: What a file of tensors refers to; anything else is an object of some class.
_OF_TENSORS = frozenset(
    ("torch", "torch._utils", "torch._tensor", "torch.nn.parameter", "torch.serialization", "torch.storage")
)
_PLAIN = frozenset(("collections.OrderedDict", "collections.Counter", "_codecs.encode"))
#: What a text, list or dictionary has: then this `context` was none of TorchServe's.
_OF_OTHERS = frozenset({*dir(str), *dir(list), *dir(dict)})
NO_WEIGHTS_ONLY = "put `handler: {weights_only: false}` into model-config.yaml, if you trust the file"


def judge(survey: Survey, file_name: str, around: Surroundings) -> list[Finding]:
    """Say what of an archive runs, and what doesn't."""
    info = survey.info
    found = [*_manifest(info.manifest, file_name, around), *_notes(info)]
    if info.manifest.raw is not None:
        found += _registration(info, file_name)
    found += _config(info, around)
    found += check_imports.judge(survey, around)
    found += [*_handler(survey), *_context(survey), *_weights(survey)]
    if survey.has_more_sources:
        found.append(Finding("same", f"only {len(survey.sources)} of its Python files were read"))
    found += [
        Finding("ignored", "there is no Java here, and plugins are Java", inside=jar) for jar in survey.jars
    ]
    return found


def _manifest(manifest: Manifest, file_name: str, around: Surroundings) -> Iterator[Finding]:
    if manifest.raw is None:
        return
    handler = manifest.handler or around.config.default_service_handler or ""
    own = (
        ""
        if model_archive.handler_module(handler) not in DEFAULT_HANDLERS
        else ", which comes with the server"
    )
    yield Finding(
        "same", f"{manifest.model_name or file_name} {manifest.model_version}, handler {handler or '?'}{own}"
    )
    if not manifest.model_name:
        yield Finding(
            "same", "the manifest has no modelName: as in TorchServe, a registration has to say one"
        )
    if not handler:
        yield Finding(
            "fails",
            "the manifest names no handler",
            "name one in the registration, or by default_service_handler in config.properties",
        )
    if manifest.runtime == "LSP":
        yield Finding("fails", "runtime LSP: there is no C++ backend here", "write the handler in Python")
    model = manifest.raw.get("model")
    if isinstance(model, dict) and "envelope" in model:
        yield Finding("ignored", "`envelope` in the manifest: as in TorchServe, service_envelope counts")


def _notes(info: ArchiveInfo) -> Iterator[Finding]:
    for note in info.notes:
        yield Finding(
            "fails", note, "make it anew: `torchrelay archive create` has torch-model-archiver's options"
        )


def _registration(info: ArchiveInfo, file_name: str) -> Iterator[Finding]:
    """Ask those who decide at a registration, for what they refuse."""
    manifest = info.manifest
    name = manifest.model_name or file_name
    prepared = Prepared(
        archive="", archive_bytes=0, model_name=name, model_version=manifest.model_version,
        handler=manifest.handler or "", runtime=manifest.runtime, file_name=file_name,
        config=info.server_config,
    )  # fmt: skip
    try:
        precedence.settle(RegisterModel(0, url=file_name), prepared, BrokerSettings(state_dir=""))
    except errors.RelayError as refused:
        yield Finding("fails", f"registering it is {refused.status}: {refused.message}")


def _config(info: ArchiveInfo, around: Surroundings) -> Iterator[Finding]:
    file = info.manifest.config_file or ""
    if info.config is None:
        return
    try:
        model_config.load(info.config)
    except model_config.Unreadable as error:
        yield Finding("fails", f"{error}: its workers can't load", inside=file)
        return
    for warning in info.config_warnings:
        yield Finding("ignored", f"{warning}; passed over, as in TorchServe", inside=file)
    said = info.server_config
    if said is None:
        return
    for key, value, default in (
        ("responseTimeout", said.response_timeout_s, around.config.default_response_timeout),
        ("startupTimeout", said.startup_timeout_s, around.config.default_startup_timeout),
    ):
        if value is None and default is not None:
            what = f"doesn't say {key}: then TorchServe takes 120 s, and ours the configuration's {default} s"
            yield Finding("differs", what, f"write {key}: 120 there to keep it", inside=file)
    if said.torchrun and (said.torchrun.rdzv_endpoint or said.torchrun.rdzv_conf):
        yield Finding(
            "ignored", "torchrun.rdzv-*: a worker's processes are forks of it and need none", inside=file
        )


def _handler(survey: Survey) -> Iterator[Finding]:
    """Look for what a worker calls: a function of the name, or the module's one class."""
    for source in survey.sources:
        if source.facts.fault:
            # Other files may be templates, or of another Python; the handler's must be readable.
            is_handler = _is_handler(survey, source.name)
            what = f"Python can't read it: {source.facts.fault}"
            yield Finding(
                "fails" if is_handler else "differs", what, line=source.facts.fault_line, inside=source.name
            )
            continue
        for line in source.facts.bare_loads:
            yield Finding(
                "differs",
                "torch.load without weights_only: since torch 2.6 it reads tensors and plain values alone",
                "say weights_only=False there if the file holds more, and you trust it",
                line=line,
                inside=source.name,
            )
        if _is_handler(survey, source.name):
            yield from _entry_point(survey, source.name)


def _is_handler(survey: Survey, name: str) -> bool:
    module = model_archive.handler_module(survey.info.manifest.handler or "")
    return name in (f"{module}.py", f"{module}/__init__.py")


def _entry_point(survey: Survey, name: str) -> Iterator[Finding]:
    facts = next(source.facts for source in survey.sources if source.name == name)
    function = (survey.info.manifest.handler or "").partition(":")[2] or "handle"
    imported = {name for one in facts.imports for name in one.names}
    if function in facts.functions or {function, "*"} & imported or len(facts.classes) == 1:
        return
    classes = ", ".join(facts.classes) or "none"
    yield Finding(
        "fails", f"it has no function {function}, nor exactly one class (its classes: {classes})", inside=name
    )


def _context(survey: Survey) -> Iterator[Finding]:
    own = {name for source in survey.sources for name in source.facts.context_sets}
    known = context_attributes() | own | _OF_OTHERS
    for source in survey.sources:
        for use in source.facts.context_uses:
            if use.attribute not in known:
                what = f"context.{use.attribute}: neither TorchServe's context nor ours has it"
                yield Finding("differs", what, line=use.line, inside=source.name)


def _weights(survey: Survey) -> Iterator[Finding]:
    objects = [
        name for name in survey.pickled if name not in _PLAIN and name.rpartition(".")[0] not in _OF_TENSORS
    ]
    if not objects:
        return
    handler = _mapping(survey.info.config).get("handler")
    if isinstance(handler, dict) and handler.get("weights_only") is False:
        return
    modules = {one.module for source in survey.sources for one in source.facts.imports}
    is_ours = model_archive.handler_module(survey.info.manifest.handler or "") in DEFAULT_HANDLERS
    is_ours = is_ours or any(module.startswith("ts.torch_handler") for module in modules)
    more = f" and {len(objects) - 1} more" if len(objects) > 1 else ""
    yield Finding(
        "fails" if is_ours else "differs",
        f"holds objects, not tensors alone ({objects[0]}{more}): our handlers don't load such a file",
        NO_WEIGHTS_ONLY if is_ours else "if the handler loads it by torch.load: weights_only=False",
        inside=survey.info.manifest.serialized_file or "",
    )


def _mapping(config: bytes | None) -> dict[str, object]:
    try:
        return model_config.load(config or b"")
    except model_config.Unreadable:
        return {}
