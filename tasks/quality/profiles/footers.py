"""Packs the profile of a part into a text for the footer of its results, and adds up the profiles of many parts.

The text is base64 of a zlib stream: the length of a JSON object, the object, and the buckets and counts of all
histograms as arrays of integers of the fewest bytes. Most of a profile are histograms, and adding up ten thousand
profiles with a dictionary for each histogram would take minutes.
"""

from __future__ import annotations

import base64
import binascii
import json
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from scoreline.storage.errors import DocumentCorrupt
from scoreline.storage.typed_json import MALFORMED_GZIP, decode_object
from scoreline.tasks.quality.profiles.histograms import MAX_BUCKETS, MAX_LEVEL, MIN_LEVEL, Histogram
from scoreline.tasks.quality.profiles.number_counts import ArrayCounts, arrays_of, coarsened, join_buckets
from scoreline.tasks.quality.profiles.profile import EMPTY_COLUMN, EMPTY_SEGMENT_COLUMN, Profile

KEY = "scoreline.profile"
"""Key of the profile in the metadata of a footer."""
MAX_BYTES = 64 << 20
"""Maximum size of what is unpacked. A damaged footer must not fill the memory."""
_FIELDS = ("histogram", "lengths")
_WIDTHS = (1, 2, 4, 8)
_FORMAT = 1

type Arrays = tuple[int, Any, Any]
"""The level of a histogram, its buckets in ascending order, and their counts."""

type Path = tuple[str, str, str, str, str]
"""The place of a histogram in a profile: group (``whole``, ``segment`` or ``others``), segment, kind and name of the
column, and field."""


def pack(profile: Profile) -> str:
    """Return a profile as a text of ASCII characters."""
    arrays: list[bytes] = []  # of each histogram in the order in which `_all_columns` finds it
    document = profile.to_dict(derived=False, describe=partial(_pack_histogram, arrays)) | {"format": _FORMAT}
    head = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
    data = b"".join([struct.pack("<I", len(head)), head, *arrays])
    return base64.b64encode(zlib.compress(data, 1)).decode()


def unpack(text: str | bytes) -> Profile:
    """Return the profile that was packed; raises `DocumentCorrupt`."""
    added = ProfileSum()
    added.add(text)
    return added.profile()


def decompressed(text: str | bytes) -> bytes:
    """Return what base64 of a zlib stream contains, up to `MAX_BYTES`.

    Raises
    ------
    ValueError, zlib.error
        The text is damaged, or too large.
    """
    stream = zlib.decompressobj()
    data = stream.decompress(base64.b64decode(text, validate=True), MAX_BYTES)
    if not stream.eof or stream.unused_data:
        raise ValueError("it is cut, or too large")
    return data


class HistogramSum:
    """Adds up histograms.

    Parameters
    ----------
    limit : int
        Maximum number of buckets.
    """

    def __init__(self, limit: int) -> None:
        self.limit, self._level = limit, MAX_LEVEL
        self._buckets = self._counts = np.empty(0, np.int64)

    @property
    def arrays(self) -> Arrays:
        """The sum so far."""
        return self._level, self._buckets, self._counts

    def add(self, arrays: Arrays) -> None:
        """Add a histogram."""
        level, buckets, counts = arrays
        if not len(self._buckets):
            self._level, self._buckets, self._counts = level, buckets, counts.copy()
            return
        if level > self._level:
            buckets = coarsened(buckets, level - self._level)
        elif level < self._level:
            self._level, self._buckets = level, coarsened(self._buckets, self._level - level)
            self._level, self._buckets, self._counts = join_buckets(level, self._buckets, self._counts, self.limit)
        places = np.searchsorted(self._buckets, buckets)
        if (self._buckets.take(places, mode="clip") == buckets).all():
            self._counts += np.bincount(places, counts, len(self._counts)).astype(np.int64)
            return
        self._level, self._buckets, self._counts = join_buckets(
            self._level,
            np.concatenate([self._buckets, buckets]),
            np.concatenate([self._counts, counts]),
            self.limit,
        )

    def histogram(self) -> Histogram:
        """Return the histogram of all values so far."""
        counts = ArrayCounts(self._buckets.copy(), self._counts.copy())
        return Histogram(level=self._level, counts=counts, limit=self.limit)


class ProfileSum:
    """Adds up packed profiles. The memory does not grow with their number."""

    def __init__(self) -> None:
        self._rest = Profile()
        """The sum without histograms."""
        self._histograms: dict[Path, HistogramSum] = {}
        self.profiles = 0
        """Number of profiles so far."""

    def add(self, text: str | bytes, where: str = "the profile") -> None:
        """Add a profile that `pack` returned.

        Parameters
        ----------
        where : str
            Where the text is stored, for the error message.

        Raises
        ------
        DocumentCorrupt
            The text is damaged, or its columns or its sample are not those of the other profiles. Nothing is added.
        """
        try:
            rest, histograms = _unpacked(text)
            merged = self._rest.merge(rest)
        except (*MALFORMED_GZIP, binascii.Error, struct.error, DocumentCorrupt) as error:
            raise DocumentCorrupt(f"{where} is damaged: {type(error).__name__}: {error}") from None
        self._rest = merged
        self.profiles += 1
        for path, (limit, arrays) in histograms.items():
            self._add_histogram(self._place(path), limit, arrays)
        for path in [path for path in self._histograms if self._place(path) != path]:
            found = self._histograms.pop(path)
            self._add_histogram(self._place(path), found.limit, found.arrays)

    def _place(self, path: Path) -> Path:
        """Return where a histogram is added. Segments that are no longer kept belong to the others."""
        return path if path[0] != "segment" or path[1] in self._rest.segments else ("others", "", *path[2:])

    def _add_histogram(self, path: Path, limit: int, arrays: Arrays) -> None:
        if path not in self._histograms:
            self._histograms[path] = HistogramSum(limit)
        self._histograms[path].add(arrays)

    @property
    def columns(self) -> int:
        """Number of columns so far, those of segments included."""
        whole, others = self._rest, self._rest.other_segments
        groups = [whole, *whole.segments.values(), *([] if others is None else [others])]
        return sum(len(group.columns) for group in groups)

    def profile(self) -> Profile:
        """Return the sum of all profiles so far."""
        others = self._rest.other_segments
        return replace(
            self._with_histograms(self._rest, "whole", ""),
            segments={
                name: self._with_histograms(profile, "segment", name) for name, profile in self._rest.segments.items()
            },
            other_segments=None if others is None else self._with_histograms(others, "others", ""),
        )

    def _with_histograms(self, profile: Profile, group: str, segment: str) -> Profile:
        columns = {}
        for key, column in profile.columns.items():
            histogram, lengths = (
                self._histograms.get((group, segment, column.kind, column.name, name)) for name in _FIELDS
            )
            columns[key] = replace(
                column,
                histogram=column.histogram if histogram is None else histogram.histogram(),
                lengths=column.lengths if lengths is None else lengths.histogram(),
            )
        return replace(profile, columns=columns)


def _unpacked(text: str | bytes) -> tuple[Profile, dict[Path, tuple[int, Arrays]]]:
    """Return a profile without its histograms, and the histograms with their limits."""
    data = decompressed(text)
    (size,) = struct.unpack_from("<I", data)
    document = decode_object(data[4 : 4 + size])
    if document.get("format") != _FORMAT:
        raise ValueError("its format is unknown")
    at, histograms = 4 + size, {}
    for group, raw in _all_columns(document):
        empty = EMPTY_COLUMN if group[0] == "whole" else EMPTY_SEGMENT_COLUMN
        for name in _FIELDS:
            if name in raw:
                limit, arrays, at = _unpack_histogram(raw.pop(name), data, at)
                if limit != empty.histogram.limit:
                    raise ValueError("a histogram has another limit")
                histograms[(*group, raw["kind"], raw["name"], name)] = limit, arrays
    if at != len(data):
        raise ValueError("its histograms have another size than its columns say")
    return Profile.from_dict(document), histograms


def _all_columns(document: dict[str, Any]) -> Iterator[tuple[tuple[str, str], dict[str, Any]]]:
    """Yield every column of a profile as `Profile.to_dict` returns it, each with its group and segment."""
    groups = [(("whole", ""), document)]
    groups += [(("segment", name), segment) for name, segment in document.get("segments", {}).items()]
    if "other_segments" in document:
        groups.append((("others", ""), document["other_segments"]))
    for group, raw in groups:
        for column in raw["columns"]:
            yield group, column


def _pack_histogram(arrays: list[bytes], histogram: Histogram) -> dict[str, int]:
    """Append the buckets, each as the distance to the one before, and the counts. Return what describes them."""
    buckets, counts = arrays_of(histogram.counts)
    distances = buckets[1:] - buckets[:-1]
    widths = [_width(array) for array in (distances, counts)]
    for array, width in zip((distances, counts), widths, strict=True):
        arrays.append(array.astype(f"<u{width}").tobytes())
    described = {"level": histogram.level, "size": len(buckets), "first": int(buckets[0])}
    described |= {"distance_bytes": widths[0], "count_bytes": widths[1]}
    return described if histogram.limit == MAX_BUCKETS else described | {"limit": histogram.limit}


def _unpack_histogram(raw: Mapping[str, Any], data: bytes, at: int) -> tuple[int, Arrays, int]:
    """Return the limit of a histogram, the histogram, and where its arrays end."""
    numbers = [raw[name] for name in ("level", "size", "first", "distance_bytes", "count_bytes")]
    limit = raw.get("limit", MAX_BUCKETS)
    if any(type(number) is not int for number in (*numbers, limit)):
        raise TypeError("what describes a histogram is not a whole number")
    level, size, first, *widths = numbers
    if not (MIN_LEVEL <= level <= MAX_LEVEL and 1 <= size <= limit <= MAX_BUCKETS and {*widths} <= {*_WIDTHS}):
        raise ValueError("what describes a histogram is out of range")
    stop = at + (size - 1) * widths[0]
    distances = np.frombuffer(data, f"<u{widths[0]}", size - 1, at)
    counts = np.frombuffer(data, f"<u{widths[1]}", size, stop).astype(np.int64)
    buckets = np.empty(size, np.int64)
    buckets[0] = first
    buckets[1:] = distances
    np.cumsum(buckets, out=buckets)
    most = 1 << (MAX_LEVEL + 12)
    if not (-most <= first <= buckets[-1] <= most and (size == 1 or distances.min() > 0) and counts.min() > 0):
        raise ValueError("the buckets of a histogram are out of range")
    return limit, (level, buckets, counts), stop + size * widths[1]


def _width(array: Any) -> int:
    """Return the fewest bytes that hold every number of an array."""
    largest = int(array.max()) if len(array) else 0
    return next(width for width in _WIDTHS if largest < 1 << (8 * width))
