"""How jobs share the processes: the terms of a job, and the rule by which the next part is chosen.

A message of a part is a permit: the process that receives it scores the part that is due, whichever job that part
belongs to. The number of messages equals the number of parts that wait, so no process is idle while any part waits, and
a lost or doubled message is harmless. When the message of the chosen part itself arrives, it serves another part that
waits.

The part that is due belongs to the group that has used the least time of processes, divided by the weight of the group.
When a part starts, its group is charged with the seconds that the last parts of the job took. When the part ends, the
group is charged with the difference. A group that had no part waiting begins at the least time of the other groups, so
that it can neither save up time nor be kept waiting for time that it used alone. Within the group, jobs with a high
priority come first, and then those that were submitted first.
"""

from __future__ import annotations

from dataclasses import dataclass

EXPECTED_S = 20.0
"""Seconds that a part is expected to take if no part of its job has ended; `part_sizes` aims at this length."""
LONGEST_S = 600.0
"""Maximum number of seconds with which a group is charged for a part. No part takes as long, but it may seem so if a
clock is set or a computer sleeps."""
MAX_WEIGHT = 1_000
"""Maximum weight of a group. The weight of groups that are not listed is 1."""
_RANK_OF = {"high": 0, "normal": 1, "low": 2}
_BETWEEN_PRIORITIES = 1e11
"""Difference in rank between two priorities. It is larger than any time in seconds since 1970."""


@dataclass(frozen=True, kw_only=True)
class Terms:
    """The terms on which a job shares the processes with other jobs."""

    group: str = ""
    """Name of the group; jobs of earlier releases belong to the group without a name."""
    priority: str = "normal"
    """``low``, ``normal`` or ``high``, among the jobs of the group."""
    submitted_s: float = 0.0
    """Time of submission, in seconds since 1970. Among jobs of equal priority, the oldest comes first."""
    max_parts: int | None = None
    """Maximum number of parts in flight, and so of processes that score parts of the job; None for no maximum."""
    deadline_s: float | None = None
    """Time in seconds since 1970 after which no part is started; None if there is no deadline."""

    @property
    def rank(self) -> float:
        """The rank of the job in its group. Jobs of a lower rank come first."""
        return _RANK_OF[self.priority] * _BETWEEN_PRIORITIES + self.submitted_s


NO_TERMS = Terms()
"""The terms of a job that sets none."""
