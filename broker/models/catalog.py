"""The registered models in memory: a mirror of the registry, changed only by changes that are durable.

Pure. Error texts are TorchServe's.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from torchrelay.broker.models import records
from torchrelay.broker.models.origins import file_of
from torchrelay.broker.models.records import VersionRecord
from torchrelay.shared import errors
from torchrelay.shared.quoting import quoted
from torchrelay.shared.settings import StartupModel
from torchrelay.shared.wire import messages

#: Model name and version.
Key = tuple[str, str]


class Catalog:
    """Models, their versions, and which version is the default."""

    def __init__(self, snapshot: records.Snapshot) -> None:
        self._versions: dict[Key, VersionRecord] = {v.key: v for v in snapshot.versions}
        #: Has exactly the models of `_versions`.
        self._defaults = dict(snapshot.defaults)
        #: The defaults as `page` shows them. PERF: with 10,000 models, sorting them for each page took 5 ms.
        self._listed: list[Key] | None = None
        self._workflows = {workflow.name: workflow for workflow in snapshot.workflows}
        #: Models of the start that could not be registered, by the name that their callers know.
        self._not_loaded: dict[str, messages.NotLoaded] = {}

    def __iter__(self) -> Iterator[VersionRecord]:
        return iter(self._versions.values())

    @property
    def versions(self) -> Mapping[Key, VersionRecord]:
        """All versions by their keys."""
        return self._versions

    def get(self, key: Key) -> VersionRecord | None:
        """Return a version, or None."""
        return self._versions.get(key)

    def resolve(self, model: str, version: str | None) -> VersionRecord:
        """Return the version that a request means; None means the default.

        Raises ModelNotFound or ModelVersionNotFound, or ServiceUnavailable where the start should have
        brought it.
        """
        default = self._defaults.get(model)
        record = self._versions.get((model, (default or "") if version is None else version))
        if record is None and (missing := self._not_loaded.get(model)):
            raise errors.ServiceUnavailable(
                f"Model {quoted(model)} could not be loaded at start.", f"{missing.url}: {missing.reason}"
            )
        if default is None:
            raise errors.ModelNotFound(f"Model not found: {quoted(model)}")
        if record is None:
            raise errors.ModelVersionNotFound(
                f"Model version: {quoted(version)} does not exist for model: {model}"
            )
        return record

    def knows(self, model: str, version: str | None) -> bool:
        """Tell whether `resolve` would find a version."""
        return (model, self._defaults.get(model) if version is None else version) in self._versions

    def versions_of(self, model: str) -> list[VersionRecord]:
        """Return all versions of a model in the order that TorchServe lists them in.

        Raises ModelNotFound.
        """
        self.resolve(model, None)
        found = [record for record in self._versions.values() if record.model == model]
        return sorted(found, key=lambda record: (_java_bucket(record.version), record.version))

    @property
    def not_loaded(self) -> tuple[messages.NotLoaded, ...]:
        """The models of the start that could not be registered, and have not been since."""
        return tuple(self._not_loaded.values())

    def could_not_load(self, missing: messages.NotLoaded) -> None:
        """Take note that a model of the start can't be registered: it is missing, not unknown."""
        self._not_loaded[missing.model] = missing

    def forget_not_loaded(self, model: str) -> None:
        """Let a model be unknown again that could not be loaded: nobody expects it any more."""
        self._not_loaded.pop(model, None)

    def is_default(self, record: VersionRecord) -> bool:
        """Tell whether the version answers when none is named."""
        return self._defaults.get(record.model) == record.version

    def is_archive_used(self, archive: str) -> bool:
        """Tell whether any version needs the archive."""
        return any(record.archive == archive for record in self)

    def page(self, limit: int, offset: int) -> tuple[list[messages.ModelEntry], int | None]:
        """Return `limit` models from `offset` on in code point order, and the next page's offset.

        As in TorchServe there is a next page whenever the page is full, even if it will be empty, and
        functions of workflows are left out.
        """
        if self._listed is None:
            shown = (key for key in self._defaults.items() if not self._versions[key].is_function)
            self._listed = sorted(shown)
        page = self._listed[offset : offset + limit]
        entries = [messages.ModelEntry(key[0], self._versions[key].url) for key in page]
        return entries, offset + limit if offset + limit <= len(self._listed) else None

    @property
    def workflows(self) -> Mapping[str, records.WorkflowRecord]:
        """All workflows by their names."""
        return self._workflows

    def workflow(self, name: str) -> records.WorkflowRecord:
        """Return a workflow. Raises WorkflowNotFound."""
        record = self._workflows.get(name)
        if record is None:
            raise errors.WorkflowNotFound(f"Workflow not found: {quoted(name)}")
        return record

    def steps_of(self, workflow: str) -> list[VersionRecord]:
        """Return the versions that are a workflow's steps."""
        return [record for record in self if record.workflow == workflow]

    def workflow_page(self, limit: int, offset: int) -> tuple[list[messages.WorkflowEntry], int | None]:
        """Return `limit` workflows from `offset` on, and the next page's offset; as `page` does."""
        names = sorted(self._workflows)
        entries = [
            messages.WorkflowEntry(name, self._workflows[name].url) for name in names[offset : offset + limit]
        ]
        return entries, offset + limit if offset + limit <= len(names) else None

    def as_startup_models(self) -> tuple[StartupModel, ...]:
        """Return what a snapshot keeps: the models by name, their versions as they are now.

        An archive with a whole path may lie outside of the model store, and keeps it. Steps of workflows are
        left out: TorchServe's snapshots know no workflows.
        """
        return tuple(
            StartupModel(
                name=record.model,
                version=record.version,
                archive_name=record.url if record.url.startswith("/") else file_of(record.url),
                is_default=self.is_default(record),
                min_workers=record.min_workers,
                max_workers=record.max_workers,
                batch_size=record.batch_size,
                max_batch_delay_ms=record.max_batch_delay_ms,
                response_timeout_s=record.response_timeout_s,
                startup_timeout_s=record.startup_timeout_s,
                runtime=record.runtime,
            )
            for record in sorted(self, key=lambda record: record.key)
            if not record.workflow
        )

    def apply(self, change: records.Change) -> None:
        """Make a durable change visible. A change to a version that has gone since is without effect."""
        self._listed = None
        match change:
            case records.PutVersion(record):
                self._versions[record.key] = record
                self._not_loaded.pop(record.model, None)
                self._defaults.setdefault(record.model, record.version)
            case records.RemoveVersion(model, version):
                self._remove(model, version)
            case records.PutWorkflow(workflow, versions):
                self._workflows[workflow.name] = workflow
                for step in versions:
                    self.apply(records.PutVersion(step))
            case records.RemoveWorkflow(name):
                self._workflows.pop(name, None)
                for step in self.steps_of(name):
                    self._remove(*step.key)
            case records.SetTargets(model, version, min_workers, max_workers):
                if old := self._versions.get((model, version)):
                    self._versions[model, version] = replace(
                        old, min_workers=min_workers, max_workers=max_workers
                    )
            case records.SetDefaultVersion(model, version):
                if (model, version) in self._versions:
                    self._defaults[model] = version
            case records.RememberNodes() | records.PutKeys():
                pass

    def _remove(self, model: str, version: str) -> None:
        self._versions.pop((model, version), None)
        left = [record.version for record in self if record.model == model]
        if not left:
            self._defaults.pop(model, None)
        elif self._defaults[model] == version:
            self._defaults[model] = left[0]


def _java_bucket(text: str) -> int:
    """Return where a text lies in a Java hash map of 16 buckets, which gives TorchServe's lists their order.

    It puts 1.2.1 before 1.11, and there are clients that take the first.
    """
    code = 0
    for character in text:
        code = (31 * code + ord(character)) & 0xFFFF_FFFF
    return (code ^ code >> 16) & 15
