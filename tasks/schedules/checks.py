"""Checks schedules against the deployment: whether the models, aliases and buckets that they name exist."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from scoreline.storage import keys
from scoreline.storage.errors import InvalidRequest, ScorelineError, describe
from scoreline.storage.models.manifest import PinnedModel
from scoreline.storage.models.registry import ModelRegistry
from scoreline.storage.objects.buckets import Buckets
from scoreline.tasks.client import Client
from scoreline.tasks.job.places import check_places
from scoreline.tasks.job.spec import check_apart
from scoreline.tasks.job.uris import parse_uri
from scoreline.tasks.schedules.file import Fault, Parsed, line_of, render, spec_of
from scoreline.tasks.schedules.schedule import Schedule


def faults_now(
    schedule: Schedule, registry: ModelRegistry, buckets: Buckets, output: str
) -> Iterator[tuple[str, ScorelineError]]:
    """Yield each key that would make the next job of a schedule fail or be refused, with the error.

    Parameters
    ----------
    registry : ModelRegistry
        The models of the deployment. If the name of a model contains the slot, the model is not checked, because it may
        be published later.
    buckets : Buckets
        The buckets that jobs may read and write.
    output : str
        The output if the schedule sets none.

    Raises
    ------
    StoreUnavailable
        Transient: the bucket cannot be reached.
    """
    slot = schedule.following(datetime.now(UTC))
    pinned: PinnedModel | None = None
    places = [("input", uri) for uri in schedule.inputs] + [("output", schedule.options.get("output") or "")]
    if "{" not in schedule.model:
        try:
            pinned, method = registry.resolve(schedule.model), schedule.options.get("method")
            for name, offered in registry.manifest(pinned).outputs.items() if method else ():
                if method not in offered.methods:
                    yield (
                        "method",
                        InvalidRequest(
                            f"model {name!r} of {pinned.ref} has no {method}: it offers {', '.join(offered.methods)}"
                        ),
                    )
        except ScorelineError as error:
            yield "model", _lasting(error)
    challenger = schedule.options.get("challenger") or ""
    if challenger:
        try:
            found = registry.resolve(challenger)
            registry.manifest(found)
            if found == pinned:
                yield "challenger", InvalidRequest(f"it is {found.ref}, and so is the model: name another version")
        except ScorelineError as error:
            yield "challenger", _lasting(error)
    for key, place in places:
        try:
            if place:
                store = buckets[parse_uri(render(schedule, place, slot))[0]]
                next(iter(store.list(keys.PROBES)), None)  # fast: this prefix has few objects
        except ScorelineError as error:
            yield key, _lasting(error)
    try:
        spec = spec_of(schedule, slot, output)
        check_apart(spec)
        check_places(spec, buckets.main.bucket, buckets.allowed_outputs)
    except ScorelineError as error:
        yield "output" if "output" in schedule.options and describe(error).startswith("output") else "input", error


def deployment_faults(parsed: Parsed, text: str, client: Client) -> list[Fault]:
    """Check the enabled schedules of a text with `faults_now`. Return the faults with their lines."""
    faults = []
    for item in parsed.schedules:
        output = client.default_output(item.model)
        for key, error in faults_now(item, client.registry, client.buckets, output) if item.enabled else ():
            value = getattr(item, key, item.options.get(key))
            message = f"{key} = {value!r}: {describe(error)}"
            faults.append(Fault(line=line_of(text, item.name, key), message=message, schedule=item.name))
    return faults


def _lasting(error: ScorelineError) -> ScorelineError:
    """Return an error that is not transient. Raise a transient error."""
    if error.transient:
        raise error
    return error
