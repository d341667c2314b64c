"""The tables of typical inputs say whether limits are reached, and compare timings with those of another commit."""

from __future__ import annotations

from typing import Any

from benchmarks import shapes_report
from benchmarks.shapes_report import Entry


def job(work: float, **changed: Any) -> dict[str, Any]:
    stages = {"plan": 0.1, "queue": 0.0, "decode": 1.0, "align": 0.2, "predict": 0.3, "encode": 0.1, "upload": 0.1}
    return {"work": work, "cpu": 1.0, "parts": 3, "memory_mb": 300.0, "stages": stages} | changed


def entry(*works: float, **changed: Any) -> Entry:
    runs = {"job": [job(work) for work in works], "byhand": [{"work": 1.0, "cpu": 1.0} for _ in works]}
    return {"commit": "abc", "share": 1.0, "way": "units"} | runs | changed


def cells(text: str, first: str) -> list[str]:
    """Return the cells of the table row that begins with a text."""
    (row,) = (line for line in text.splitlines() if line.startswith(f"| {first} |"))
    return [cell.strip() for cell in row.strip("|").split("|")]


def test_the_median_of_the_ratios_is_compared_with_the_limit() -> None:
    took = {"groups linear directory": entry(1.2, 1.69, 2.0)}
    found = cells(shapes_report.tables(took), "groups")
    assert found[8:11] == ["1.69 (1.20 to 2.00)", "1.3", "missed by 30%"]
    took = {"groups linear s3": entry(1.2, 1.4, 2.0)}
    assert cells(shapes_report.tables(took), "groups")[8:11] == ["1.40 (1.20 to 2.00)", "1.5", "reached"]


def test_the_memory_of_the_largest_round_is_compared_with_the_limit() -> None:
    took = {
        "groups linear s3": entry(
            1.0, job=[job(1.0), job(1.0, memory_mb=495.0)], byhand=[{"work": 1.0, "cpu": 1.0}] * 2
        ),
    }
    assert cells(shapes_report.tables(took), "groups")[13:16] == ["495", "450", "missed by 10%"]


def test_a_shape_that_is_not_scored_by_hand_has_no_ratio() -> None:
    took = {"widest linear s3": entry(9.0, byhand=[], way="")}
    found = cells(shapes_report.tables(took), "widest")
    assert (found[3], found[4], found[8]) == ("9.00", "", "")
    assert "9.00" in shapes_report.line(took["widest linear s3"])


def test_shapes_stand_in_their_order_and_partial_ones_are_marked() -> None:
    took = {"csv linear s3": entry(1.0, share=0.5), "groups linear s3": entry(1.0)}
    text = shapes_report.tables(took)
    assert text.index("| groups |") < text.index("| csv, 50% of it |")
    assert "CSV" not in shapes_report.short(took)
    assert "| 2,200,000 rows x 18, Parquet, row groups of 1,048,576 |" in shapes_report.short(took)


def counted(**changed: Any) -> Entry:
    traffic = {
        "read_requests": 60,
        "read_mb": 357.0,
        "plan_requests": 4,
        "plan_mb": 10.0,
        "other_requests": 50,
        "other_mb": 1.0,
        "group_requests": 40,
    }
    found = {"commit": "abc", "share": 1.0, "needed_mb": 340.0, "objects": 1, "largest_group_mb": 157.0}
    return found | {"traffic": traffic} | changed


def test_requests_are_those_of_a_row_group_and_bytes_those_of_parts() -> None:
    found = cells(shapes_report.tables({"groups counts": counted()}), "groups")
    assert found[3:10] == ["1.05", "1.02", "missed by 3%", "a row group", "40", "24", "missed by 67%"]


def test_a_larger_row_group_may_have_more_requests() -> None:
    assert shapes_report.requests(counted(largest_group_mb=320.0)) == ("160 MB of a row group", 20.0)


def test_requests_of_small_files_include_planning() -> None:
    assert shapes_report.requests(counted(objects=32)) == ("a file", 2.0)


def test_stages_stand_below_those_of_another_commit() -> None:
    slow = entry(4.0, commit="old")
    rows = list(shapes_report.stages({"groups linear s3": entry(1.0)}, {"groups linear s3": slow}))
    assert [row.split(" | ")[3:5] for row in rows if row.startswith("| groups")] == [["old", "4.00"], ["abc", "1.00"]]
    # And the column of idle time is the time in which the processes computed nothing
    assert [row.split(" | ")[12] for row in rows if row.startswith("| groups")] == ["7.00", "1.00"]


def test_figures_of_several_runs_name_their_machines_and_commits() -> None:
    took = {
        "groups linear s3": entry(1.0, machine="2 cores; commit abc"),
        "groups linear directory": entry(1.0, machine="2 cores; commit old", commit="old"),
        "csv linear s3": entry(1.0, machine="2 cores; commit old", commit="old"),
    }
    text = shapes_report.tables(took)
    assert [line for line in text.splitlines() if line.startswith("- ")] == [
        "- 2 cores; commit abc",
        "- 2 cores; commit old",
    ]
    rows = [line for line in shapes_report.short(took).splitlines() if line.startswith("| 2,200,000 rows")]
    assert [row.split(" | ")[-1] for row in rows] == ["old |", "abc |"]
    assert [row.split(" | ")[4] for row in rows] == ["units"] * 2


def test_figures_of_an_unknown_machine_are_dropped() -> None:
    assert shapes_report.with_machines({"groups linear s3": entry(1.0)}) == {}
    kept = {"machine": {"described": "2 cores"}, "csv counts": counted(), "groups counts": counted(machine="8 cores")}
    assert {key: found["machine"] for key, found in shapes_report.with_machines(kept).items()} == {
        "csv counts": "2 cores",
        "groups counts": "8 cores",
    }
