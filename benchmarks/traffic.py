"""Counts the requests of a job that `benchmarks.counting_relay` recorded, and separates the requests for the input.

The plan is written before any part is dispatched, so all requests before the plan is written belong to planning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow.parquet as pq

from benchmarks.counting_relay import Request


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where the columns are in the input objects. A job needs all these columns."""

    needed: int
    """Bytes of the columns, or of objects that have no columns."""
    objects: int
    groups: Mapping[str, Sequence[tuple[int, int]]]
    """First and last byte of each row group, by the name of the file."""

    @property
    def largest_group(self) -> int:
        """Size of the largest row group in bytes; 0 if there is none."""
        return max((last + 1 - first for found in self.groups.values() for first, last in found), default=0)


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """Numbers of requests, and the MB that the server sent in response."""

    read_requests: int
    """Requests of the parts for input objects."""
    read_mb: float
    plan_requests: int
    """Requests of the planner for input objects."""
    plan_mb: float
    other_requests: int
    """Requests for listings, documents and results."""
    other_mb: float
    group_requests: int
    """Requests of the parts for the row group with the most requests; 0 if there are no row groups."""

    def to_dict(self) -> dict[str, float]:
        """Return the figures by name."""
        return asdict(self)


def layout_of(folder: Path) -> Layout:
    """Read the layout of the files of a folder from the footers of Parquet files. Other files have no row groups."""
    needed, files, groups = 0, sorted(folder.iterdir()), {}
    for file in files:
        if file.suffix != ".parquet":
            needed += file.stat().st_size
            continue
        footer = pq.read_metadata(file)
        groups[file.name] = [_extent(footer.row_group(number)) for number in range(footer.num_row_groups)]
        needed += sum(last + 1 - first for first, last in groups[file.name])
    return Layout(needed=needed, objects=len(files), groups=groups)


def _extent(group: pq.RowGroupMetaData) -> tuple[int, int]:
    chunks = [group.column(number) for number in range(group.num_columns)]
    starts = [chunk.dictionary_page_offset or chunk.data_page_offset for chunk in chunks]
    return min(starts), max(
        start + chunk.total_compressed_size - 1 for start, chunk in zip(starts, chunks, strict=True)
    )


def traffic(requests: Sequence[Request], prefix: str, layout: Layout) -> Traffic:
    """Divide the requests of a job into planning, reading by parts, and others. The job's input is below `prefix`."""
    planned = next((place for place, item in enumerate(requests) if _writes_plan(item)), len(requests))
    of_input = [item.method in ("GET", "HEAD") and item.key.startswith(prefix) for item in requests]
    plan = [item for item, is_input in zip(requests[:planned], of_input[:planned], strict=True) if is_input]
    read = [item for item, is_input in zip(requests[planned:], of_input[planned:], strict=True) if is_input]
    other = [item for item, is_input in zip(requests, of_input, strict=True) if not is_input]
    most = max(
        (
            sum(item.method == "GET" and item.key == prefix + name and _within(item, group) for item in read)
            for name, groups in layout.groups.items()
            for group in groups
        ),
        default=0,
    )
    return Traffic(
        read_requests=len(read),
        read_mb=_mb(read),
        plan_requests=len(plan),
        plan_mb=_mb(plan),
        other_requests=len(other),
        other_mb=_mb(other),
        group_requests=most,
    )


def _writes_plan(item: Request) -> bool:
    return item.method == "PUT" and item.key.endswith("/plan.json.gz")


def _within(item: Request, group: tuple[int, int]) -> bool:
    """Return whether a request is for bytes of a row group."""
    return (item.first or 0) <= group[1] and (item.last is None or item.last >= group[0])


def _mb(items: Sequence[Request]) -> float:
    return sum(item.sent for item in items) / 1e6
