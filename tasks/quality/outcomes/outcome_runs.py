"""Compares the results of one accepted run with the labels of its output, in one pass over its files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from scoreline.storage.errors import ModelError, ModelNotFound
from scoreline.storage.models.manifest import Outputs, PinnedModel
from scoreline.storage.models.registry import ModelRegistry
from scoreline.storage.wording import listed
from scoreline.tasks.quality.gate.latest import RunEntry
from scoreline.tasks.quality.outcomes.outcome_scorers import Scorer, scorers_of
from scoreline.tasks.quality.outcomes.outcome_store import Labels
from scoreline.tasks.quality.outcomes.outcome_sums import MAX_SEGMENTS, ScorerSums, Segments
from scoreline.tasks.quality.outcomes.run_outcomes import RunOutcomes
from scoreline.tasks.quality.results.key_texts import joined_keys, key_hashes, key_texts
from scoreline.tasks.quality.results.reading import Results


@dataclass(frozen=True, kw_only=True)
class Compared:
    """What became of a run."""

    outcomes: Sequence[RunOutcomes] = ()
    """One for each model of the bundle whose scores can be compared; empty if there is none."""
    skipped: str = ""
    """Why the run was not compared."""
    lacks_key: bool = False
    """Whether the run was not compared because it has not the columns of the key."""
    misfits: Sequence[str] = ()
    """For each model that was not compared, which values of the target it cannot predict."""
    contradicts: bool = False
    """Whether a model can predict some values of the target, but not all of them."""


def compare(
    results: Results,
    entry: RunEntry,
    labels: Labels,
    used: Any,
    *,
    key: Sequence[str],
    outputs: Mapping[str, Outputs] | None,
    segment: str | None,
) -> Compared:
    """Compare a run with labels.

    Parameters
    ----------
    used : ndarray of bool, shape (len(labels),)
        Set to True for each label whose key the run has.
    segment : str, optional
        The kept column with the segments of the job.
    """
    if not results.rows:
        return Compared(skipped="it has no rows")
    schema = results.schema
    if lost := [name for name in key if name not in schema.names]:
        return Compared(skipped=f"its results have no column {listed(lost)}", lacks_key=True)
    scorers = scorers_of(schema, outputs)
    if not scorers:
        return Compared(skipped="its results have no prediction that can be compared with a target")
    segment = segment if segment in schema.names else None
    all_sums, segments, rows, repeated = _read(results, scorers, labels, used, key, segment)
    misfits = [_misfit(sums, entry) for sums in all_sums if sums.misfits]
    if any(sums.misfits and sums.labels.any() for sums in all_sums):
        return Compared(misfits=misfits, contradicts=True)
    found = []
    for sums in all_sums:
        if not sums.misfits:
            scorer = sums.scorer
            found.append(
                RunOutcomes(
                    job_id=entry.job_id,
                    model=entry.model,
                    scorer=scorer.name,
                    kind=scorer.kind,
                    at=entry.place.at.isoformat(),
                    groups=sums.groups(segments.names, rows),
                    segment=segment or "",
                    positive=scorer.classes[1] if len(scorer.classes) == 2 else "",
                    one_in=sums.one_in,
                    repeated=repeated,
                )
            )
    return Compared(outcomes=tuple(found), misfits=misfits)


def _read(
    results: Results, scorers: Sequence[Scorer], labels: Labels, used: Any, key: Sequence[str], segment: str | None
) -> tuple[list[ScorerSums], Segments, Any, int]:
    """Return the sums of each model, the segments and their rows, and the number of rows with a repeated key."""
    columns = [*key, *(name for scorer in scorers for name in scorer.columns)]
    if segment is not None:
        columns.append(segment)
    columns = list(dict.fromkeys(columns))
    found = [ScorerSums(scorer, labels.texts, min(results.rows, len(labels))) for scorer in scorers]
    segments, rows = Segments(), np.zeros(MAX_SEGMENTS + 1, np.int64)
    own = np.zeros(len(labels), bool)
    repeated = 0
    for batch in results.batches(columns):
        numbers = segments.numbers(None if segment is None else batch.column(segment), batch.num_rows)
        rows += np.bincount(numbers, minlength=MAX_SEGMENTS + 1)
        keys = joined_keys([key_texts(batch.column(name), name) for name in key])
        places = labels.find(keys)
        known = np.flatnonzero(places >= 0)
        if not len(known):
            continue
        places = places[known]
        distinct = np.unique(places)
        repeated += len(places) - int((~own[distinct]).sum())
        own[distinct] = True
        some = batch.take(pa.array(known))
        hashes = key_hashes(keys.take(pa.array(known)))[1]
        target = np.asarray(labels.value[places])
        for sums in found:
            sums.add(some, target, numbers[known], hashes)
    used |= own
    return found, segments, rows, repeated


def _misfit(sums: ScorerSums, entry: RunEntry) -> str:
    counts = sorted(sums.misfits.items(), key=lambda item: -item[1])
    total = sum(count for _, count in counts)
    examples = ", ".join(f"{text!r} ({count:,})" for text, count in counts[:5]) + (" …" if len(counts) > 5 else "")
    what = f"model {sums.scorer.name!r} of {entry.model}" if sums.scorer.name else entry.model
    predicts = listed(sums.scorer.classes) if sums.scorer.classes else "numbers"
    values = "1 label is a value" if total == 1 else f"{total:,} labels are values"
    return f"{values} that {what} does not predict, such as {examples}: it predicts {predicts}"


def outputs_of(registry: ModelRegistry, entry: RunEntry) -> Mapping[str, Outputs] | None:
    """Return the outputs of the models of a run; None if the version cannot be read any more."""
    name, _, version = entry.model.partition("@")
    try:
        pinned = PinnedModel(name=name, version=version, manifest_sha256=entry.model_sha256).check()
        return registry.manifest(pinned).outputs
    except (ModelNotFound, ModelError, ValueError):
        return None
