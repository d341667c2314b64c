"""Formats numbers and facts of a report for people."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from scoreline.storage.wording import cut, plural
from scoreline.tasks.backlog.time_left import duration
from scoreline.tasks.job.documents import WITH_RESULTS
from scoreline.tasks.quality.checks.column_checks import percent
from scoreline.tasks.quality.profiles.column_profile import Type
from scoreline.tasks.quality.report.facts import Column, Compared, Report
from scoreline.tasks.quality.report.pictures import Bars

_MINUS, _TIMES = "\u2212", "\u00d7"
_RAISED = str.maketrans("-0123456789", "\u207b\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079")
NONE = "\u2013"
"""Stands for a number that there is not."""
_LARGE = ((1e12, "trillion"), (1e9, "billion"), (1e6, "million"))
_DAY_S = 86_400
_DATES_S = (-62e9, 253_402_300_799)
"""Seconds since 1970 of the first and the last date that can be shown."""
_SHORT = 40
Tone = Literal["good", "warn", "bad", "plain"]


def number(value: float | None) -> str:
    """Return a number with four significant digits; a dash if there is none.

    >>> [number(value) for value in (0.0, 12.0, 3.14159, 0.0000123, 45678.9, 2.5e6)]
    ['0', '12', '3.142', '0.0000123', '45,679', '2.5 million']
    """
    if value is None:
        return NONE
    if value < 0:
        return _MINUS + number(-value)
    if value == 0:
        return "0"
    if not math.isfinite(value):
        return "∞"
    if value >= 1e15 or value < 1e-6:
        digits, _, power = f"{value:.2e}".partition("e")
        return f"{digits.rstrip('0').rstrip('.')}{_TIMES}10{str(int(power)).translate(_RAISED)}"
    for size, word in _LARGE:
        if value >= size:
            return f"{_digits(value / size, 3)} {word}"
    return f"{value:,.0f}" if value >= 1e4 else _digits(value, 4)


def _digits(value: float, significant: int) -> str:
    decimals = max(0, significant - 1 - math.floor(math.log10(value)))
    text = f"{value:,.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def quantity(value: float | None, type_: Type) -> str:
    """Return a value of a column: a number, or a time in UTC.

    >>> quantity(1_780_000_000.0, "time"), quantity(3_600.0, "time"), quantity(5.0, "number")
    ('2026-05-28 20:26', '01:00:00', '5')
    """
    if value is None or type_ != "time":
        return number(value)
    if 0 <= value < _DAY_S:
        return f"{int(value) // 3600:02}:{int(value) // 60 % 60:02}:{int(value) % 60:02}"
    if not _DATES_S[0] < value < _DATES_S[1]:
        return number(value)
    return f"{datetime.fromtimestamp(value, UTC):%Y-%m-%d %H:%M}"


def spread(value: float | None, type_: Type) -> str:
    """Return a standard deviation."""
    return duration(value) if value is not None and type_ == "time" else number(value)


def share(value: float | None) -> str:
    """Return a share as a percentage; a dash if there is none.

    >>> share(0.031)
    '3.1%'
    """
    return NONE if value is None else percent(value)


def size(value: float) -> str:
    """Return a number of bytes.

    >>> size(900), size(1_500_000)
    ('900 bytes', '1.5 MB')
    """
    for unit, length in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= length:
            return f"{_digits(value / length, 3)} {unit}"
    return plural(int(value), "byte")


def elapsed(seconds: float) -> str:
    """Return a duration; below a second in milliseconds.

    >>> elapsed(0.0123), elapsed(0.0), elapsed(90.0)
    ('12 ms', '0 ms', '1 min 30 s')
    """
    return f"{seconds * 1000:.0f} ms" if seconds < 0.9995 else duration(seconds)


def moment(text: str) -> str:
    """Return a time of a document for people.

    >>> moment("2026-11-29T04:05:06.789+00:00"), moment("")
    ('29 November 2026, 04:05 UTC', '')
    """
    if not text:
        return ""
    found = datetime.fromisoformat(text).astimezone(UTC)
    return f"{found.day} {found:%B %Y, %H:%M} UTC"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether readers get the results, in a few words and in sentences."""

    tone: Tone
    title: str
    text: str


def verdict_of(report: Report) -> Verdict:
    """Return what the page says first."""
    review, blocking = report.review, sum(finding.level == "block" for finding in report.findings)
    if report.state == "failed":
        return Verdict(tone="bad", title="Failed", text=_sentence(report.error or "The job failed"))
    if report.state not in WITH_RESULTS:
        text = "The job was cancelled before all rows were scored, so readers do not get its results."
        return Verdict(tone="bad", title="Cancelled", text=text)
    if review is not None:
        when = moment(review.at)
        if review.decision == "accepted":
            text = f"{review.who} gave these results to readers on {when}: {_sentence(review.reason)}"
            return Verdict(tone="good", title="Accepted by a person", text=text)
        text = f"{review.who} withdrew these results from readers on {when}: {_sentence(review.reason)}"
        return Verdict(tone="bad", title="Withdrawn", text=text)
    if report.state == "blocked":
        text = (
            f"{_findings(blocking)} {'blocks' if blocking == 1 else 'block'} these results: readers do not get them, "
            "unless a person accepts the job."
        )
        return Verdict(tone="bad", title="Blocked by its checks", text=text)
    if not report.checked:
        text = (
            "No checks were run on these results: the job was submitted without checks, or cannot become the latest "
            "run of its output, or an earlier release scored it."
        )
        return Verdict(tone="plain", title="Not checked", text=text)
    if report.findings:
        text = (
            f"The checks found {_findings(len(report.findings))}, but nothing that blocks: readers get these results."
        )
        warnings = plural(len(report.findings), "warning")
        return Verdict(tone="warn", title=f"Accepted with {warnings}", text=text)
    return Verdict(tone="good", title="Accepted", text="The checks found nothing unusual: readers get these results.")


def _findings(count: int) -> str:
    return plural(count, "finding")


def _sentence(text: str) -> str:
    text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "…", "!", "?")) else f"{text}."


def story(report: Report) -> str:
    """Return in sentences what was scored by what, when, and by whom."""
    began = f"on {moment(report.submitted)}"
    if report.schedule:
        by = f"by the schedule {report.schedule}"
    else:
        by = f"by {report.submitter}" if report.submitter else ""
    name, _, version = report.model.partition("@")
    source = report.input[0] + (f" and {len(report.input) - 1:,} more" if len(report.input) > 1 else "")
    what = (
        f"The model {name}, version {version}, scored {report.scored:,} of {plural(report.rows, 'row')} from {source}"
    )
    if report.rejected and report.rows:
        rejected = f"{plural(report.rejected, 'row')} ({share(report.rejected / report.rows)})"
        what += f"; {rejected} {'was' if report.rejected == 1 else 'were'} rejected"
    return f"{what}. The job was submitted {' '.join(filter(None, (by, began)))}, and took {elapsed(report.seconds)}."


def other_of(compared: Compared | None) -> str:
    """Return how the page calls what the job is compared with, in a heading of a column.

    >>> other_of(Compared(kind="job", name="nightly-1", rows=1, counted=1))
    'Job nightly-1'
    """
    if compared is None:
        return ""
    return {"baseline": "Baseline", "first": "First run", "job": f"Job {compared.name}"}[compared.kind]


def comparison_text(compared: Compared) -> str:
    """Return in a sentence what the columns are compared with."""
    rows = plural(compared.rows, "row")
    if compared.kind == "baseline":
        return f"Compared with the baseline of {compared.name}: the {rows} on which it was trained or measured."
    if compared.kind == "first":
        return f"Compared with the first accepted run of this output, job {compared.name} with {rows}."
    return f"Compared with job {compared.name}, which has {rows}."


def changed_text(report: Report, kind: str, noun: str) -> Iterator[str]:
    """Yield sentences about the columns of a kind: how many have changed, and which have changed most."""
    columns = [column for column in report.columns if column.kind == kind]
    known = [column for column in columns if column.change != "unknown"]
    changed = [column for column in known if column.change == "changed"]
    if not known:
        return
    verb = "has" if len(changed) == 1 else "have"
    if changed:
        yield f"{len(changed):,} of {plural(len(columns), noun)} {verb} changed."
    else:
        yield f"No {noun} has changed." if len(columns) > 1 else f"The {noun} has not changed."


def stability(index: float) -> str:
    """Return a population stability index, with two decimals.

    >>> stability(0.0003), stability(0.123)
    ('below 0.01', '0.12')
    """
    return "below 0.01" if index < 0.01 else f"{index:,.2f}"


def moved(column: Column) -> Iterator[str]:
    """Yield in sentences how a column differs from what it is compared with, as people would say it."""
    now, before = column.now, column.before
    if before is None:
        return
    if isinstance(column.picture, Bars):
        known = [bar for bar in column.picture.bars if bar.before is not None]
        far = max(known, key=lambda bar: abs(bar.now - (bar.before or 0.0)), default=None)
        if far is not None:
            value = cut(far.value, _SHORT)
            yield f"{share(far.now)} of the values are \u201c{value}\u201d instead of {share(far.before)}."
    elif now.mean is not None and before.mean is not None:
        means = quantity(now.mean, column.type), quantity(before.mean, column.type)
        if means[0] != means[1]:
            yield f"The mean is {means[0]} instead of {means[1]}."
    missing = share(now.null_share), share(before.null_share)
    if missing[0] != missing[1]:
        yield f"{missing[0]} of the values are missing instead of {missing[1]}."
