"""The documents of loads: which results are loaded into which table of a database, how far, and how the load ended.

A job names its first load in its spec. Any further load is a document of its own, and `Outcome.loads` lists them. No
document has the address of a database, which only workers know.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal, cast, get_args

from scoreline.storage import keys
from scoreline.storage.errors import DocumentCorrupt, InvalidRequest, ObjectNotFound
from scoreline.storage.hashing import sha256_hex
from scoreline.storage.objects.base import ObjectStore
from scoreline.storage.typed_json import MALFORMED, build, decode_object
from scoreline.tasks.job.load_options import Mode, check_load
from scoreline.tasks.job.spec import JobSpec

LoadState = Literal["waiting", "loading", "loaded", "failed", "superseded"]
"""``waiting``: the database or another load has to be waited for. ``superseded``: a newer job was loaded into the
table."""
ENDED: frozenset[LoadState] = frozenset({"loaded", "failed", "superseded"})


@dataclass(frozen=True, kw_only=True)
class LoadRequest:
    """What is loaded into which table, and how: ``load-<id>.json`` of a job."""

    table: str
    """``schema.table``."""
    key: tuple[str, ...]
    columns: tuple[str, ...]
    """``name`` or ``column=name``, where the first is a column of the table and the second one of the results."""
    mode: Mode
    create: bool
    database: str | None
    number: int = 1
    """How many times this load was requested."""
    again: int = 0
    """The number of the last request that loads all parts again. Receipts of earlier requests do not count."""
    older: int = 0
    """The number of the last request that may replace the values of newer jobs."""

    @classmethod
    def of(cls, spec: JobSpec) -> LoadRequest | None:
        """Return the load that a job names in its spec, if any."""
        if spec.into is None:
            return None
        return cls.of_options(
            into=spec.into,
            key=spec.key,
            columns=spec.into_columns,
            mode=spec.mode,
            create=spec.create,
            database=spec.database,
        )

    @classmethod
    def of_options(
        cls,
        *,
        into: str,
        key: Sequence[str] | None,
        columns: Sequence[str] | None,
        mode: str | None,
        create: bool | None,
        database: str | None,
    ) -> LoadRequest:
        """Return the load that checked options ask for, with the defaults of those that are not given."""
        return cls(
            table=into if "." in into else f"public.{into}",
            key=tuple(key or ()),
            columns=tuple(columns or ()),
            mode=cast(Mode, mode or "upsert"),
            create=bool(create),
            database=database,
        )

    @property
    def load_id(self) -> str:
        """The id of the load among those of its job. Equal requests have equal ids."""
        fixed = [self.table, self.key, self.columns, self.mode, self.database]
        return sha256_hex(json.dumps(fixed).encode())[:12]

    @property
    def schema(self) -> str:
        """The schema of the table."""
        return self.table.partition(".")[0]

    @property
    def name(self) -> str:
        """The name of the table within its schema."""
        return self.table.partition(".")[2]

    def to_json(self) -> bytes:
        """Encode."""
        return json.dumps(asdict(self), sort_keys=True, ensure_ascii=False).encode()


@dataclass(frozen=True, kw_only=True)
class LoadProgress:
    """How far a load is, or how it ended: ``load-<id>-progress.json`` and ``load-<id>-ended.json`` of a job."""

    number: int
    """The number of the request."""
    state: LoadState
    parts: int = 0
    parts_done: int = 0
    rows: int = 0
    set_aside: int = 0
    """Number of rows that the table refused."""
    error: str = ""

    def to_json(self) -> bytes:
        """Encode."""
        return json.dumps(asdict(self), sort_keys=True, ensure_ascii=False).encode()


@dataclass(frozen=True, kw_only=True)
class LoadStatus(LoadProgress):
    """The status of a load, as ``scoreline status`` shows it."""

    load_id: str
    table: str
    mode: Mode

    @property
    def ended(self) -> bool:
        """Whether the load has ended."""
        return self.state in ENDED


def read_request(store: ObjectStore, job_id: str, load_id: str, first: LoadRequest | None) -> LoadRequest:
    """Return a load of a job. `first` is the load in the spec of the job."""
    key = keys.load(job_id, load_id)
    with _decoding(store, key):
        try:
            request = build(LoadRequest, decode_object(store.get(key).data))
        except ObjectNotFound:
            if first is None or first.load_id != load_id:
                raise DocumentCorrupt(f"{store.uri(key)} is gone: request the load again") from None
            return first
        check_load(request.table, request.key, request.columns, request.mode)
        if request.load_id != load_id:
            raise ValueError(f"it is load {request.load_id}")
        return request


def read_progress(store: ObjectStore, job_id: str, load_id: str, *, ended: bool = False) -> LoadProgress | None:
    """Return how far a load is, or how it ended; None if that is not known."""
    key = keys.load_ended(job_id, load_id) if ended else keys.load_progress(job_id, load_id)
    with _decoding(store, key), contextlib.suppress(ObjectNotFound):
        found = build(LoadProgress, decode_object(store.get(key).data))
        if found.state not in get_args(LoadState):
            raise ValueError(f"state {found.state!r} is unknown")
        return found
    return None


def load_ids(spec: JobSpec, listed: Sequence[str]) -> list[str]:
    """Return the ids of all loads of a job: that of its spec, and those that its outcome lists."""
    first = LoadRequest.of(spec)
    return list(dict.fromkeys([*([first.load_id] if first else []), *listed]))


def pending(store: ObjectStore, spec: JobSpec, listed: Sequence[str]) -> list[LoadRequest]:
    """Return the loads of a job that have not ended."""
    found = []
    for load_id in load_ids(spec, listed):
        request = read_request(store, spec.job_id, load_id, LoadRequest.of(spec))
        ended = read_progress(store, spec.job_id, load_id, ended=True)
        if ended is None or ended.number < request.number:
            found.append(request)
    return found


def load_statuses(store: ObjectStore, spec: JobSpec, listed: Sequence[str]) -> tuple[LoadStatus, ...]:
    """Return the status of each load of a job."""
    return tuple(_status(store, spec, load_id) for load_id in load_ids(spec, listed))


def _status(store: ObjectStore, spec: JobSpec, load_id: str) -> LoadStatus:
    request = read_request(store, spec.job_id, load_id, LoadRequest.of(spec))
    found = read_progress(store, spec.job_id, load_id, ended=True)
    if found is None or found.number < request.number:
        found = read_progress(store, spec.job_id, load_id)
    if found is None or found.number < request.number:
        found = LoadProgress(number=request.number, state="waiting")
    return LoadStatus(**asdict(found), load_id=load_id, table=request.table, mode=request.mode)


def requested_again(request: LoadRequest, known: LoadRequest | None, *, again: bool, older: bool) -> LoadRequest:
    """Return a request with the next number after a known one."""
    number = 1 if known is None else known.number + 1
    return replace(
        request,
        number=number,
        again=number if again else 0 if known is None else known.again,
        older=number if older else 0,
    )


@contextlib.contextmanager
def _decoding(store: ObjectStore, key: str) -> Iterator[None]:
    try:
        yield
    except (*MALFORMED, InvalidRequest) as error:
        raise DocumentCorrupt(f"{store.uri(key)} is not what Scoreline writes there: {error}") from error
