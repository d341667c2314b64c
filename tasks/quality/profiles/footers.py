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
from functools import partial
from typing import Any

from scoreline.storage.errors import DocumentCorrupt
from scoreline.storage.typed_json import MALFORMED_GZIP, decode_object
from scoreline.tasks.quality.profiles.group_sums import GroupSum, Read
from scoreline.tasks.quality.profiles.histogram_sums import pack_histogram
from scoreline.tasks.quality.profiles.profile import EMPTY_COLUMN, EMPTY_SEGMENT_COLUMN, MAX_SEGMENTS, Profile

KEY = "scoreline.profile"
"""Key of the profile in the metadata of a footer."""
MAX_BYTES = 64 << 20
"""Maximum size of what is unpacked. A damaged footer must not fill the memory."""
_FORMAT = 1


def pack(profile: Profile) -> str:
    """Return a profile as a text of ASCII characters."""
    arrays: list[bytes] = []
    return pack_document(profile.to_dict(derived=False, describe=partial(pack_histogram, arrays)), arrays)


def pack_document(document: dict[str, Any], arrays: list[bytes]) -> str:
    """Return a profile as `pack` does.

    Parameters
    ----------
    document : dict
        What `Profile.to_dict` returns, with the description of each packed histogram.
    arrays : list of bytes
        The arrays of the histograms, in the order of their columns; that of the lengths after that of the values.
    """
    document["format"] = _FORMAT
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


class ProfileSum:
    """Adds up packed profiles. The memory does not grow with their number."""

    def __init__(self) -> None:
        self._whole = GroupSum(EMPTY_COLUMN)
        self._segment = ""
        self._segments: dict[str, GroupSum] = {}
        self._others = GroupSum(EMPTY_SEGMENT_COLUMN)
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
            segment, read = self._read(decompressed(text))
        except (*MALFORMED_GZIP, binascii.Error, struct.error) as error:
            raise DocumentCorrupt(f"{where} is damaged: {type(error).__name__}: {error}") from None
        self.profiles += 1
        if read[0][2].is_empty:
            return
        self._segment = segment
        for name, group, found in read:
            group.add(found)
            if name is not None:
                self._segments[name] = group
        for name in sorted(self._segments)[MAX_SEGMENTS:]:  # the first in order of their values are kept
            self._others.add_sum(self._segments.pop(name))

    def _read(self, data: bytes) -> tuple[str, list[tuple[str | None, GroupSum, Read]]]:
        """Read and check a packed profile. Return its segment column, and its groups: the whole is the first.

        Each group has its name, if it is a segment, and the sum to which it will be added.
        """
        (size,) = struct.unpack_from("<I", data)
        document = decode_object(data[4 : 4 + size])
        if document.get("format") != _FORMAT:
            raise ValueError("its format is unknown")
        whole, at = self._whole.read(document, data, 4 + size)
        segment, named = document.get("segment", ""), document.get("segments", {})
        if not isinstance(segment, str) or not isinstance(named, dict) or len(named) > MAX_SEGMENTS:
            raise TypeError("the segments are malformed")
        if not self._whole.is_empty and not whole.is_empty and segment != self._segment:
            raise ValueError("profiles with different samples or segments cannot be merged")
        read: list[tuple[str | None, GroupSum, Read]] = [(None, self._whole, whole)]
        groups: list[tuple[str | None, Any]] = [*named.items()]
        if document.get("other_segments") is not None:
            groups.append((None, document["other_segments"]))
        for name, raw in groups:
            if raw.get("segment") or raw.get("segments") or raw.get("other_segments"):
                raise TypeError("a segment has segments")
            known = self._others if name is None else self._segments.get(name)
            group = GroupSum(EMPTY_SEGMENT_COLUMN) if known is None else known
            found, at = group.read(raw, data, at)
            if found.one_in != 1 or {key for key, _ in found.columns} - {*whole.order}:
                raise ValueError("a segment has other columns than all rows, or another sample")
            read.append((name, group, found))
        if at != len(data):
            raise ValueError("its histograms have another size than its columns say")
        return segment, read

    @property
    def columns(self) -> int:
        """Number of columns so far, those of segments included."""
        return sum(len(group.columns) for group in (self._whole, self._others, *self._segments.values()))

    def profile(self) -> Profile:
        """Return the sum of all profiles so far."""
        segments = {name: self._segments[name].profile() for name in sorted(self._segments)}
        others = None if self._others.is_new else self._others.profile()
        return self._whole.profile(self._segment, segments, others)
