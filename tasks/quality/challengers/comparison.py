"""The comparison of two model versions on the same rows: ``_challenger/_comparison.json``.

Comparisons of different rows can be merged in any order, and the result is the same to the bit. This module works with
`requirements.txt` alone; `scoreline.tasks.quality.challengers.comparing` makes comparisons.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from scoreline.storage import keys
from scoreline.storage.errors import DocumentCorrupt, ObjectNotFound, describe
from scoreline.storage.objects.base import ObjectStore
from scoreline.storage.typed_json import MALFORMED, build, convert, decode_object
from scoreline.tasks.job.documents import Job
from scoreline.tasks.job.uris import parse_uri
from scoreline.tasks.quality.challengers.compared_columns import LabelComparison, ScoreComparison, SegmentComparison
from scoreline.tasks.quality.profiles.profile import MAX_SEGMENTS

__all__ = [
    "ChallengerFailure",
    "Comparison",
    "LabelComparison",
    "ScoreComparison",
    "SegmentComparison",
    "read_comparison",
]

FORMAT = 1
MAX_FAILURES = 20
"""Maximum number of failures of the challenger that a document lists: those of the first parts."""


@dataclass(frozen=True, kw_only=True)
class ChallengerFailure:
    """Why the challenger has not scored a part, or some rows of it."""

    part: int
    reason: str
    rows: int = 0
    """Number of rows that the challenger could not score although the champion did; 0 if it has not scored the part."""

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON object. Without rows, they are left out."""
        return {"part": self.part, "reason": self.reason} | ({"rows": self.rows} if self.rows else {})


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What two model versions said about the same rows."""

    champion: str
    """The model version that the job scores with, ``name@version``."""
    challenger: str
    """The model version that is compared with it."""
    champion_sha256: str
    """Digest of the champion's manifest."""
    challenger_sha256: str
    rows: int = 0
    """Number of rows that both have scored. All counts are of these rows."""
    champion_only: int = 0
    """Number of rows that only the champion has scored, in parts that both have scored."""
    challenger_only: int = 0
    """Number of rows that only the challenger has scored, in parts that both have scored."""
    labels: Mapping[str, LabelComparison] = field(default_factory=dict)
    """The columns with predicted classes, by name."""
    scores: Mapping[str, ScoreComparison] = field(default_factory=dict)
    """The columns with numbers, by name."""
    only_of_champion: tuple[str, ...] = ()
    """Columns of results that only the champion has. They are not compared."""
    only_of_challenger: tuple[str, ...] = ()
    segment: str = ""
    """The column by whose values the rows are divided into segments; empty if they are not."""
    segments: Mapping[str, SegmentComparison] = field(default_factory=dict)
    other_segments: SegmentComparison | None = None
    """All further segments together, if there are more than `MAX_SEGMENTS`."""
    champion_us: int = 0
    """Microseconds that the champion took to score the compared parts."""
    challenger_us: int = 0
    parts: int = 0
    """Number of parts that the challenger has scored."""
    failed_parts: int = 0
    """Number of parts that the challenger has not scored."""
    failures: tuple[ChallengerFailure, ...] = ()
    """Why, for the first of these parts, and of the parts of which it has not scored some rows."""

    @property
    def is_complete(self) -> bool:
        """Whether the challenger has scored every part."""
        return not self.failed_parts

    @property
    def agreement(self) -> float | None:
        """Share of rows with equal labels, in the column where it is smallest; None without labels or rows."""
        shares = [label.agreement for label in self.labels.values() if label.agreement is not None]
        return min(shares, default=None)

    @property
    def champion_seconds_per_row(self) -> float | None:
        """Seconds that the champion took for a row; None without rows, or if the time is not known."""
        rows = self.rows + self.champion_only
        return self.champion_us / 1e6 / rows if rows and self.champion_us else None

    @property
    def challenger_seconds_per_row(self) -> float | None:
        """Seconds that the challenger took for a row; None without rows."""
        rows = self.rows + self.challenger_only
        return self.challenger_us / 1e6 / rows if rows else None

    def merge(self, other: Comparison) -> Comparison:
        """Return the comparison of the rows of both; raises `ValueError` if versions or segment columns differ."""
        if self._versions != other._versions:
            raise ValueError("comparisons of different versions or segments cannot be merged")
        failures = sorted((*self.failures, *other.failures), key=lambda failure: failure.part)[:MAX_FAILURES]
        return replace(
            self,
            **{name: getattr(self, name) + getattr(other, name) for name in _COUNTS},
            labels=_merged(self.labels, other.labels),
            scores=_merged(self.scores, other.scores),
            only_of_champion=_union(self.only_of_champion, other.only_of_champion),
            only_of_challenger=_union(self.only_of_challenger, other.only_of_challenger),
            segments=_merged(self.segments, other.segments),
            other_segments=_either(self.other_segments, other.other_segments),
            failures=tuple(failures),
        )._with_few_segments()

    @property
    def _versions(self) -> tuple[str, ...]:
        sha256s = self.champion_sha256, self.challenger_sha256
        return self.champion, self.challenger, *sha256s, self.segment

    def _with_few_segments(self) -> Comparison:
        """Return the comparison with at most `MAX_SEGMENTS` segments, as `Profile` has them."""
        names = sorted(self.segments)
        rest = self.other_segments
        for name in names[MAX_SEGMENTS:]:
            rest = _either(rest, self.segments[name])
        kept = {name: self.segments[name] for name in names[:MAX_SEGMENTS]}
        return replace(self, segments=kept, other_segments=rest)

    def to_dict(self, *, derived: bool = True) -> dict[str, Any]:
        """Return the comparison as a JSON object. Unset fields are left out.

        Parameters
        ----------
        derived : bool
            Whether shares, correlations and measures of drift are included, which `from_dict` does not need.
        """
        document: dict[str, Any] = {name: getattr(self, name) for name in _TEXTS}
        document |= {name: getattr(self, name) for name in _COUNTS}
        if derived:
            document |= {
                "agreement": self.agreement,
                "champion_seconds_per_row": self.champion_seconds_per_row,
                "challenger_seconds_per_row": self.challenger_seconds_per_row,
            }
        document["labels"] = {name: item.to_dict(derived) for name, item in self.labels.items()}
        document["scores"] = {name: item.to_dict(derived) for name, item in self.scores.items()}
        for name in ("only_of_champion", "only_of_challenger"):
            if getattr(self, name):
                document[name] = list(getattr(self, name))
        if self.segment:
            document["segment"] = self.segment
            document["segments"] = {name: item.to_dict(derived) for name, item in self.segments.items()}
        if self.other_segments is not None:
            document["other_segments"] = self.other_segments.to_dict(derived)
        if self.failures:
            document["failures"] = [item.to_dict() for item in self.failures]
        return {name: value for name, value in document.items() if value is not None}

    @classmethod
    def from_dict(cls, raw: Any, where: str = "the comparison") -> Comparison:
        """Read what `to_dict` returned.

        Parameters
        ----------
        where : str
            Where the document is stored, for the error message.

        Raises
        ------
        DocumentCorrupt
            The document is not a comparison.
        """
        try:
            return cls._from_dict(raw)
        except MALFORMED as error:
            raise DocumentCorrupt(f"{where} is damaged: {describe(error)}. Finalize the job again to make it") from None

    @classmethod
    def _from_dict(cls, raw: Any) -> Comparison:
        counts = {name: convert(raw[name], int, name) for name in _COUNTS}
        if min(counts.values()) < 0:
            raise ValueError("a count is negative")
        segments = convert(raw.get("segments", {}), Mapping[str, Any], "segments")
        failures = convert(raw.get("failures", ()), tuple[Any, ...], "failures")
        if len(segments) > MAX_SEGMENTS or len(failures) > MAX_FAILURES:
            raise ValueError("it has too many segments or failures")
        other = raw.get("other_segments")
        return cls(
            **{name: convert(raw[name], str, name) for name in _TEXTS},
            **counts,
            labels={name: LabelComparison.from_dict(item) for name, item in _objects(raw, "labels")},
            scores={name: ScoreComparison.from_dict(item) for name, item in _objects(raw, "scores")},
            only_of_champion=convert(raw.get("only_of_champion", ()), tuple[str, ...], "only_of_champion"),
            only_of_challenger=convert(raw.get("only_of_challenger", ()), tuple[str, ...], "only_of_challenger"),
            segment=convert(raw.get("segment", ""), str, "segment"),
            segments={name: SegmentComparison.from_dict(item) for name, item in sorted(segments.items())},
            other_segments=None if other is None else SegmentComparison.from_dict(other),
            failures=tuple(build(ChallengerFailure, item, "a failure") for item in failures),
        )


def read_comparison(store: ObjectStore, job: Job) -> Comparison | None:
    """Return the comparison of a job's model with its challenger; None if the job has none, or has not ended.

    Parameters
    ----------
    store : ObjectStore
        The store of the job's output.

    Raises
    ------
    DocumentCorrupt
        The document is not a comparison.
    """
    key = keys.comparison(keys.output_folder(parse_uri(job.spec.output)[1], job.spec.job_id))
    try:
        data = store.get(key).data
    except ObjectNotFound:
        return None
    try:
        raw = decode_object(data)
        found = convert(raw["format"], int, "format")
    except MALFORMED as error:
        raise DocumentCorrupt(f"{store.uri(key)} is damaged: {describe(error)}") from None
    if found != FORMAT:
        raise DocumentCorrupt(f"{store.uri(key)} has format {found}, but this release reads format {FORMAT}: upgrade")
    return Comparison.from_dict(raw, store.uri(key))


def encode(comparison: Comparison) -> bytes:
    """Return the document. Equal comparisons give equal bytes."""
    document = {"format": FORMAT, **comparison.to_dict()}
    return json.dumps(document, ensure_ascii=False).encode("utf-8", "surrogatepass")


_TEXTS = ("champion", "challenger", "champion_sha256", "challenger_sha256")
_COUNTS = (
    *("rows", "champion_only", "challenger_only", "champion_us", "challenger_us"),
    *("parts", "failed_parts"),
)


def _objects(raw: Any, name: str) -> Iterable[tuple[str, Any]]:
    return sorted(convert(raw[name], Mapping[str, Any], name).items())


def _merged[T: (LabelComparison, ScoreComparison, SegmentComparison)](
    one: Mapping[str, T], other: Mapping[str, T]
) -> dict[str, T]:
    merged = dict(one)
    for name, item in other.items():
        merged[name] = merged[name].merge(item) if name in merged else item
    return dict(sorted(merged.items()))


def _either(one: SegmentComparison | None, other: SegmentComparison | None) -> SegmentComparison | None:
    return other if one is None else one if other is None else one.merge(other)


def _union(one: tuple[str, ...], other: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sorted({*one, *other}))
