"""The durable registry: what survives the broker. The only module that knows SQL.

It is kept in any database SQLAlchemy Core speaks, tuned here for SQLite in one file. A change is on disk when
`apply` returns. Called from one thread at a time.
"""

import contextlib
import sqlite3
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert

from torchrelay.broker.models import records
from torchrelay.shared import private_files
from torchrelay.shared.archives.model_config import ModelConfig
from torchrelay.shared.archives.workflow_spec import WorkflowSpec
from torchrelay.shared.errors import StoreFailed

#: Kept in the file; a database of a newer layout is refused rather than misread.
LAYOUT = 5

_metadata = sa.MetaData()
_facts = sa.Table(
    "facts",
    _metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("value", sa.Integer, nullable=False),
)
_models = sa.Table(
    "models",
    _metadata,
    sa.Column("model", sa.Text, primary_key=True),
    sa.Column("default_version", sa.Text, nullable=False),
)
_versions = sa.Table(
    "versions",
    _metadata,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("model", sa.Text, sa.ForeignKey("models.model"), nullable=False),
    *(sa.Column(name, sa.Text, nullable=False) for name in ("version", "url", "archive")),
    sa.Column("archive_bytes", sa.BigInteger, nullable=False),
    *(sa.Column(name, sa.Text, nullable=False) for name in ("handler", "runtime")),
    *(sa.Column(name, sa.Integer, nullable=False) for name in ("min_workers", "max_workers", "batch_size")),
    sa.Column("max_batch_delay_ms", sa.Integer, nullable=False),
    *(sa.Column(name, sa.Integer, nullable=False) for name in ("response_timeout_s", "startup_timeout_s")),
    sa.Column("loaded_at_startup", sa.Boolean, nullable=False),
    #: JSON, which takes new keys without a new layout.
    sa.Column("config", sa.Text, nullable=False, server_default="{}"),
    sa.Column("has_requirements", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("archive_path", sa.Text, nullable=False, server_default=""),
    sa.Column("registration", sa.Text, nullable=False, server_default=""),
    sa.Column("workflow", sa.Text, nullable=False, server_default=""),
    sa.UniqueConstraint("model", "version"),
)
_workflows = sa.Table(
    "workflows",
    _metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("url", sa.Text, nullable=False),
    #: JSON, as `config` of versions.
    sa.Column("spec", sa.Text, nullable=False),
)
_keys = sa.Table(
    "access_keys",
    _metadata,
    sa.Column("sha256", sa.Text, primary_key=True),
    sa.Column("api", sa.Text, nullable=False),
    sa.Column("expires_at_ms", sa.BigInteger),
)
_nodes = sa.Table("nodes", _metadata, sa.Column("name", sa.Text, primary_key=True))
_draining = sa.Table("draining_nodes", _metadata, sa.Column("name", sa.Text, primary_key=True))


def _table_of_keys(name: str, *columns: sa.Column[Any]) -> sa.Table:
    """Make a table by public keys of curve, which keeps the order in which they came."""
    return sa.Table(
        name,
        _metadata,
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("public_key", sa.Text, nullable=False, unique=True),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        *columns,
    )


_invitations = _table_of_keys(
    "invitations",
    sa.Column("models", sa.Text, nullable=False),
    sa.Column("made_at_ms", sa.BigInteger, nullable=False),
    sa.Column("expires_at_ms", sa.BigInteger),
    sa.Column("uses_left", sa.BigInteger),
    sa.Column("is_ephemeral", sa.Boolean, nullable=False),
    sa.Column("may_manage", sa.Boolean, nullable=False),
)
_members = _table_of_keys(
    "members",
    sa.Column("models", sa.Text, nullable=False),
    sa.Column("since_ms", sa.BigInteger, nullable=False),
    sa.Column("is_ephemeral", sa.Boolean, nullable=False),
    sa.Column("may_manage", sa.Boolean, nullable=False),
)
_ended_keys = _table_of_keys(
    "ended_keys",
    sa.Column("was_member", sa.Boolean, nullable=False),
    sa.Column("why", sa.Text, nullable=False),
    sa.Column("at_ms", sa.BigInteger, nullable=False),
)

#: What leads from the layout of a number to the next.
_MIGRATIONS = {
    1: (
        "ALTER TABLE versions ADD COLUMN config TEXT DEFAULT '{}' NOT NULL",
        "ALTER TABLE versions ADD COLUMN has_requirements BOOLEAN DEFAULT 0 NOT NULL",
    ),
    2: (
        "ALTER TABLE versions ADD COLUMN archive_path TEXT DEFAULT '' NOT NULL",
        "ALTER TABLE versions ADD COLUMN registration TEXT DEFAULT '' NOT NULL",
    ),
    3: (),  # only tables are new, and made where they are missing
    4: ("ALTER TABLE versions ADD COLUMN workflow TEXT DEFAULT '' NOT NULL",),
}

#: What may lie beside the file: its write-ahead log, and the index of that.
_FILES = ("", "-wal", "-shm")
#: What to do about SQLite's errors, by their primary codes; anything else is a broken file.
_ADVICE = {
    sqlite3.SQLITE_FULL: "free some space on its disk",
    sqlite3.SQLITE_IOERR: "see whether its disk is full or broken",
    sqlite3.SQLITE_CANTOPEN: "let the broker's user read and write it and its folder",
    sqlite3.SQLITE_READONLY: "let the broker's user read and write it and its folder",
    sqlite3.SQLITE_BUSY: "end what uses it",
}
_BROKEN = "bring back a copy of it, or move the file away to start with an empty registry"

_RECORD_COLUMNS = [column for column in _versions.columns if column.name != "number"]


class Registry:
    """The registry in SQLite: write-ahead log, every commit synced to disk."""

    def __init__(self, path: Path) -> None:
        """Open it, made if need be. Raises StoreFailed, and then nothing of it was changed."""
        self._path = path
        _require_writable(path)
        _require_whole(path)
        self._engine = sa.create_engine(f"sqlite:///{path}", connect_args={"check_same_thread": False})
        sa.event.listen(self._engine, "connect", _tune)
        with _opening(path), self._engine.begin() as connection:
            _metadata.create_all(connection)
            if _has_lost_its_layout(connection):
                raise StoreFailed(f"The registry {path} doesn't say its layout", _BROKEN)
            layout = _migrate(connection, _layout(connection))
        if layout != LAYOUT:
            self.close()
            raise StoreFailed(
                f"The registry {path} has layout {layout}, this version reads {LAYOUT}",
                "run the torchrelay version that wrote it, or another --state-dir",
            )

    def begin_epoch(self) -> int:
        """Count this start of the broker and return its number, which only grows. Raises StoreFailed."""
        with _opening(self._path), self._engine.begin() as connection:
            return _increment(connection, "epoch", by=1, first=1)

    def load(self) -> records.Snapshot:
        """Read everything, versions in the order they were registered. Raises StoreFailed."""
        with _opening(self._path), self._engine.begin() as connection:
            rows = connection.execute(sa.select(*_RECORD_COLUMNS).order_by(_versions.c.number)).mappings()
            versions = tuple(
                records.VersionRecord(
                    **{**row, "config": msgspec.json.decode(row["config"], type=ModelConfig)}
                )
                for row in rows
            )
            defaults = connection.execute(sa.select(_models.c.model, _models.c.default_version))
            nodes = connection.execute(sa.select(_nodes.c.name).order_by(_nodes.c.name)).scalars()
            keys = connection.execute(sa.select(_keys.c.api, _keys.c.sha256, _keys.c.expires_at_ms))
            return records.Snapshot(
                versions,
                tuple((row[0], row[1]) for row in defaults),
                tuple(nodes),
                tuple(records.KeyRecord(*row) for row in keys),
                tuple(records.InvitationRecord(**row) for row in _rows(connection, _invitations)),
                tuple(records.MemberRecord(**row) for row in _rows(connection, _members)),
                tuple(records.EndedKey(**row) for row in _rows(connection, _ended_keys)),
                tuple(connection.execute(sa.select(_draining.c.name)).scalars()),
                tuple(
                    records.WorkflowRecord(row[0], row[1], msgspec.json.decode(row[2], type=WorkflowSpec))
                    for row in connection.execute(sa.select(_workflows))
                ),
            )

    def apply(self, change: records.Change) -> None:
        """Make a change durable. Raises StoreFailed, and then nothing of it happened."""
        try:
            with self._engine.begin() as connection:
                _apply(connection, change)
        except sa.exc.DBAPIError as error:
            raise StoreFailed("The registry could not be written", str(error.orig)) from error

    def close(self) -> None:
        """Let go of the file."""
        self._engine.dispose()


def _require_writable(path: Path) -> None:
    """Raise StoreFailed where a file is another user's, before SQLite leaves files of ours beside it."""
    try:
        private_files.make_folder(path.parent)
        for ending in _FILES:
            if not ending or Path(f"{path}{ending}").exists():
                private_files.make_file(Path(f"{path}{ending}"))
    except OSError as error:
        raise StoreFailed(
            f"The registry {path} can't be opened: {error.strerror}: {error.filename}",
            _ADVICE[sqlite3.SQLITE_CANTOPEN],
        ) from error


def _require_whole(path: Path) -> None:
    """Raise StoreFailed for a file that is damaged, or something else, and leave it as it is.

    A connection that may write doesn't: when it is closed, SQLite moves what its log has into the file.
    """
    if not path.exists() or not path.stat().st_size:
        return
    try:
        with contextlib.closing(
            sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
        ) as connection:
            (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.DatabaseError as error:
        advice = _ADVICE.get(error.sqlite_errorcode & 0xFF, _BROKEN)
        raise StoreFailed(f"The registry {path} can't be opened: {error}", advice) from error
    if found != "ok":
        raise StoreFailed(f"The registry {path} can't be opened: it is damaged: {found}", _BROKEN)


@contextlib.contextmanager
def _opening(path: Path) -> Iterator[None]:
    """Raise StoreFailed for whatever a file that can't be used, or holds something else, makes us see."""
    try:
        yield
    except sa.exc.DBAPIError as error:
        code = error.orig.sqlite_errorcode & 0xFF if isinstance(error.orig, sqlite3.Error) else 0
        raise StoreFailed(
            f"The registry {path} can't be opened: {error.orig}", _ADVICE.get(code, _BROKEN)
        ) from error
    except (msgspec.MsgspecError, sa.exc.SQLAlchemyError) as error:
        raise StoreFailed(f"The registry {path} can't be opened: {error}", _BROKEN) from error


def _apply(connection: sa.Connection, change: records.Change) -> None:
    match change:
        case records.PutVersion(record):
            _put_version(connection, record)
        case records.RemoveVersion(model, version):
            _remove_version(connection, model, version)
        case records.PutWorkflow() | records.RemoveWorkflow():
            _apply_of_workflows(connection, change)
        case records.SetTargets(model, version, min_workers, max_workers):
            connection.execute(
                sa.update(_versions)
                .where(*_is_version(model, version))
                .values(min_workers=min_workers, max_workers=max_workers)
            )
        case records.SetDefaultVersion(model, version):
            is_there = sa.exists().where(*_is_version(model, version))
            update = sa.update(_models).where(_models.c.model == model, is_there)
            connection.execute(update.values(default_version=version))
        case records.RememberNodes(names):
            connection.execute(sa.delete(_nodes))
            if names:
                connection.execute(sa.insert(_nodes), [{"name": name} for name in names])
        case records.PutKeys(keys):
            connection.execute(sa.delete(_keys))
            if keys:
                connection.execute(sa.insert(_keys), [asdict(key) for key in keys])
        case (
            records.PutInvitation()
            | records.PutMember()
            | records.EndKeys()
            | records.ForgetKeys()
            | records.SetDraining()
        ):
            _apply_of_members(connection, change)


def _apply_of_workflows(
    connection: sa.Connection, change: records.PutWorkflow | records.RemoveWorkflow
) -> None:
    match change:
        case records.PutWorkflow(workflow, versions):
            spec = msgspec.json.encode(workflow.spec).decode()
            put = sa.insert(_workflows).values(name=workflow.name, url=workflow.url, spec=spec)
            connection.execute(put)
            for step in versions:
                _put_version(connection, step)
        case records.RemoveWorkflow(name):
            connection.execute(sa.delete(_workflows).where(_workflows.c.name == name))
            steps = sa.select(_versions.c.model, _versions.c.version).where(_versions.c.workflow == name)
            for model, version in connection.execute(steps).all():
                _remove_version(connection, model, version)


def _put_version(connection: sa.Connection, record: records.VersionRecord) -> None:
    model = insert(_models).values(model=record.model, default_version=record.version)
    connection.execute(model.on_conflict_do_nothing())
    values = {column.name: getattr(record, column.name) for column in _RECORD_COLUMNS}
    values["config"] = msgspec.json.encode(record.config).decode()
    version = insert(_versions).values(**values)
    connection.execute(version.on_conflict_do_update(index_elements=["model", "version"], set_=values))


def _remove_version(connection: sa.Connection, model: str, version: str) -> None:
    connection.execute(sa.delete(_versions).where(*_is_version(model, version)))
    is_empty = ~sa.exists().where(_versions.c.model == model)
    connection.execute(sa.delete(_models).where(_models.c.model == model, is_empty))
    oldest = sa.select(_versions.c.version).where(_versions.c.model == model)
    oldest = oldest.order_by(_versions.c.number).limit(1)
    was_default = (_models.c.model == model, _models.c.default_version == version)
    connection.execute(
        sa.update(_models).where(*was_default).values(default_version=oldest.scalar_subquery())
    )


def _apply_of_members(connection: sa.Connection, change: records.MemberChange) -> None:
    match change:
        case records.PutInvitation(invitation):
            connection.execute(sa.insert(_invitations).values(**asdict(invitation)))
        case records.PutMember(member, invitation_key, ended):
            use = sa.update(_invitations).where(_invitations.c.public_key == invitation_key)
            connection.execute(use.values(uses_left=_invitations.c.uses_left - 1))  # NULL stays NULL
            put = insert(_members).values(**asdict(member))
            connection.execute(put.on_conflict_do_update(index_elements=["public_key"], set_=asdict(member)))
            _end(connection, ended)
        case records.EndKeys(ended):
            _end(connection, ended)
        case records.ForgetKeys(public_keys, nodes):
            connection.execute(sa.delete(_draining).where(_draining.c.name.in_(nodes)))
            for table in (_invitations, _members, _ended_keys):
                connection.execute(sa.delete(table).where(table.c.public_key.in_(public_keys)))
        case records.SetDraining(node, is_draining):
            connection.execute(sa.delete(_draining).where(_draining.c.name == node))
            if is_draining:
                connection.execute(sa.insert(_draining).values(name=node))


def _end(connection: sa.Connection, ended: tuple[records.EndedKey, ...]) -> None:
    """Let nobody in by these keys; of those that have ended the latest are kept."""
    for one in ended:
        for table in (_invitations, _members, _ended_keys):
            connection.execute(sa.delete(table).where(table.c.public_key == one.public_key))
        connection.execute(sa.insert(_ended_keys).values(**asdict(one)))
    latest = (
        sa.select(_ended_keys.c.number).order_by(_ended_keys.c.number.desc()).limit(records.ENDED_KEYS_LIMIT)
    )
    connection.execute(sa.delete(_ended_keys).where(_ended_keys.c.number.not_in(latest)))


def _rows(connection: sa.Connection, table: sa.Table) -> sa.MappingResult:
    columns = [column for column in table.columns if column.name != "number"]
    return connection.execute(sa.select(*columns).order_by(table.c.number)).mappings()


def _is_version(model: str, version: str) -> tuple[sa.ColumnElement[bool], sa.ColumnElement[bool]]:
    return _versions.c.model == model, _versions.c.version == version


def _has_lost_its_layout(connection: sa.Connection) -> bool:
    """Tell whether there are versions without what is written before the first: its epoch is gone as well."""
    has_layout = sa.exists().where(_facts.c.name == "layout")
    has_versions = sa.exists().select_from(_versions)
    return bool(connection.execute(sa.select(~has_layout & has_versions)).scalar_one())


def _migrate(connection: sa.Connection, layout: int) -> int:
    """Lead a database of an older layout to ours; return the layout it has then."""
    while layout in _MIGRATIONS:
        for statement in _MIGRATIONS[layout]:
            connection.execute(sa.text(statement))
        layout = _increment(connection, "layout", by=1, first=LAYOUT)
    return layout


def _layout(connection: sa.Connection) -> int:
    """Return a database's layout, noting it in a new one; one that has it already is not written to."""
    known = connection.execute(sa.select(_facts.c.value).where(_facts.c.name == "layout")).scalar()
    return int(known) if known is not None else _increment(connection, "layout", by=0, first=LAYOUT)


def _increment(connection: sa.Connection, name: str, *, by: int, first: int) -> int:
    new = insert(_facts).values(name=name, value=first)
    connection.execute(
        new.on_conflict_do_update(index_elements=["name"], set_={"value": _facts.c.value + by})
    )
    return int(connection.execute(sa.select(_facts.c.value).where(_facts.c.name == name)).scalar_one())


def _tune(connection: Any, _record: object) -> None:  # Any: the driver's own connection
    """Write ahead (readers never block the writer) and sync at every commit: "ok" must mean on disk."""
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")
