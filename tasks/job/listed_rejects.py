"""Remembers which objects in ``_rejected/`` belong to which part, with few bytes for each object."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterator
from heapq import merge

from scoreline.storage import keys
from scoreline.tasks.job.layout import ResultsLayout


class ListedRejects:
    """The keys of the objects with rejected rows in a job's folder, by part.

    A million keys take 16 MB, because only the number of the part and the digest in each key are kept.
    """

    def __init__(self, layout: ResultsLayout) -> None:
        self._folder = layout.folder
        numbers, digests = array("Q"), array("Q")
        self._others: dict[int, list[str]] = {}
        """Keys without a digest, which only earlier releases wrote."""
        for info in layout.store.list(layout.rejected_folder):
            if (number := keys.part_number(info.key)) is None:
                continue
            digest = keys.rejects_digest(info.key)
            if digest is None or keys.rejected_part(self._folder, number, digest) != info.key:
                self._others.setdefault(number, []).append(info.key)
            else:
                numbers.append(number)
                digests.append(int(digest, 16))
        # A store lists names in the order of their characters, in which 100000 comes before 10001
        order = sorted(range(len(numbers)), key=numbers.__getitem__)
        self._numbers = array("Q", (numbers[place] for place in order))
        self._digests = array("Q", (digests[place] for place in order))

    def of_part(self, number: int) -> set[str]:
        """Return the keys of the objects with rejected rows of a part."""
        found = set(self._others.get(number, ()))
        place = bisect_left(self._numbers, number)
        while place < len(self._numbers) and self._numbers[place] == number:
            found.add(keys.rejected_part(self._folder, number, f"{self._digests[place]:016x}"))
            place += 1
        return found

    def parts(self) -> Iterator[int]:
        """Yield the numbers of the parts that have such objects, in order."""
        last = -1
        for number in merge(self._numbers, sorted(self._others)):
            if number > last:
                last = number
                yield number
