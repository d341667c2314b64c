"""The baseline of a model version: the profile of its training data, small enough to be an attachment.

This module works with `requirements.txt` alone. `scoreline.tasks.steps.profile_baseline` makes baselines.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Collection
from dataclasses import dataclass, replace

from scoreline.storage.errors import DocumentCorrupt, InvalidRequest, describe
from scoreline.storage.models.attachments import MAX_ATTACHMENT_BYTES
from scoreline.storage.typed_json import MALFORMED_GZIP, convert, decode_object
from scoreline.tasks.quality.profiles.profile import ColumnProfile, Histogram, Profile

FORMAT = 1
FEW_VALUES = 200
"""A column with more distinct values than this lists only those of at least `COMMON_ROWS` rows."""
COMMON_ROWS = 10
"""In a column with many distinct values, such as names, a rarer value would identify a row of the training data."""
_MAX_JSON_BYTES = 32 << 20
"""Maximum size of a decompressed baseline. A damaged attachment must not fill the memory."""
_SIZES = ((512, 200), (256, 200), (128, 100), (64, 50), (32, 30), (24, 20), (16, 10), (8, 5), (4, 3), (1, 0))
"""Maximum numbers of buckets and values of each column. The first pair with which the baseline is small enough is
used."""

_MANY_COLUMNS = 1_000
"""With more columns, only the last sizes can be small enough, because less than 100 bytes are left for each column."""
_SIGNS = 1
"""With so few buckets, a histogram counts only how many numbers are negative, zero and positive."""


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """The profile of the training data of a model version, and of its scores."""

    profile: Profile
    rejected: int = 0
    """Number of rows that could not be scored."""
    hidden: tuple[str, ...] = ()
    """Columns of which no value is kept."""
    buckets: int = 0
    """Maximum number of buckets of each histogram."""
    values: int = 0
    """Maximum number of values that a column lists."""

    def encode(self) -> bytes:
        """Return the baseline as an attachment. Equal baselines give the same bytes.

        Raises
        ------
        InvalidRequest
            The model has so many features that even their counts are too large.
        """
        many = len(self.profile.columns) > _MANY_COLUMNS
        for buckets, values in _SIZES[-3:] if many else _SIZES:
            profile = _fitted(self.profile, set(self.hidden), buckets, values)
            document = {"format": FORMAT, "rejected": self.rejected, "hidden": list(self.hidden)}
            document |= {"buckets": buckets, "values": values} | profile.to_dict()
            data = gzip.compress(json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode(), 9, mtime=0)
            if len(data) <= MAX_ATTACHMENT_BYTES:
                return data
        raise InvalidRequest(
            f"the baseline of {len(self.profile.columns):,} columns has {len(data):,} bytes, even without histograms; "
            f"it may have at most {MAX_ATTACHMENT_BYTES:,}: publish without a baseline"
        )

    @classmethod
    def decode(cls, data: bytes, where: str = "the baseline") -> Baseline:
        """Read an attachment.

        Parameters
        ----------
        where : str
            The version to which the baseline belongs, for error messages.

        Raises
        ------
        DocumentCorrupt
            The data are not a baseline, or one in the format of a later release.
        """
        try:
            unpacker = zlib.decompressobj(wbits=31)
            text = unpacker.decompress(data, _MAX_JSON_BYTES)
            if not unpacker.eof:
                raise ValueError("it is cut off or too large")
            raw = decode_object(text)
            found = convert(raw["format"], int, "format")
            numbers = {name: convert(raw[name], int, name) for name in ("rejected", "buckets", "values")}
            hidden = convert(raw["hidden"], tuple[str, ...], "hidden")
        except MALFORMED_GZIP as error:
            raise DocumentCorrupt(f"{where} is damaged: {describe(error)}. Publish the model again") from None
        if found != FORMAT:
            raise DocumentCorrupt(f"{where} has format {found}, but this release reads format {FORMAT}: upgrade")
        return cls(profile=Profile.from_dict(raw, where), hidden=hidden, **numbers)


def _fitted(profile: Profile, hidden: Collection[str], buckets: int, values: int) -> Profile:
    """Return the profile with at most so many buckets and values in each column, and without rare values."""
    columns = {
        key: _hide(column) if column.name in hidden and column.kind != "score" else _shrink(column, buckets, values)
        for key, column in profile.columns.items()
    }
    return replace(profile, columns=columns)


def _shrink(column: ColumnProfile, buckets: int, values: int) -> ColumnProfile:
    kept = column.values
    if kept.distinct > FEW_VALUES:
        common = sum(count >= COMMON_ROWS for count in kept.counts.values())
        values = min(values, common)
    return replace(
        column,
        histogram=column.histogram.coarsened(buckets),
        lengths=column.lengths.coarsened(min(buckets, 64)),
        values=kept.shortened(values),
    )


def _hide(column: ColumnProfile) -> ColumnProfile:
    """Return the profile of a column without values: counts, mean and deviation, and how many numbers are negative."""
    return replace(
        column,
        minimum=None,
        maximum=None,
        histogram=column.histogram.coarsened(_SIGNS),
        lengths=Histogram(),
        values=column.values.shortened(0),
    )
