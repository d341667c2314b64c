"""Run random jobs through random faults: ``python -m tests.faults.soak [MINUTES [SEED]]``, or ``make soak MINUTES=n``.

Each round prints its seed, draws a kind of job and some faults from the seed, and checks every invariant at its end.
After the last round, the script prints the number of rounds of each kind. The script stops with status 1 at the first
invariant that does not hold, and keeps the logs. ``SEED`` is the seed of the first round, so a round can be repeated.
"""

from __future__ import annotations

import argparse
import logging
import random
import shutil
import sys
import tempfile
import textwrap
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from scoreline.storage.errors import ScorelineError
from scoreline.worker.dev.stack import make_bucket
from tests.faults.soak.fleet import NEIGHBOUR, Fleet, faults_of, older_revision
from tests.faults.soak.kinds import KINDS, Scene
from tests.faults.soak.place import Place
from tests.support.rig import Rig

ROUND_S = 300.0
"""Seconds after which a round counts as hanging. On an idle machine, a round takes ten seconds."""
_CALM_S = 120.0
_STEP_S = 0.2
_FLEETING = ("second", "older", "blind")
"""Workers that some faults start, and that end with the round."""


def main(words: Sequence[str] | None = None) -> int:
    """Run rounds until the time is over."""
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("minutes", nargs="?", type=float, default=10.0)
    parser.add_argument("seed", nargs="?", type=int, default=random.randrange(10**6))
    parser.add_argument("--kinds", default=",".join(KINDS), help="kinds of jobs, separated by commas")
    parser.add_argument("--without", default="", help="faults to leave out, separated by commas")
    parser.add_argument("--older", default=older_revision(), help="revision of the older worker; empty for none")
    options = parser.parse_args(words)
    kinds = [kind for kind in options.kinds.split(",") if kind]
    if unknown := set(kinds) - KINDS.keys():
        parser.error(f"no kind {', '.join(sorted(unknown))}: choose from {', '.join(KINDS)}")
    end = time.monotonic() + 60 * options.minutes
    rounds, happened, seed = Counter[str](), Counter[str](), options.seed
    Path(".scoreline").mkdir(exist_ok=True)
    logging.getLogger().addHandler(logging.NullHandler())  # hide the logs of the clients in this process
    with tempfile.TemporaryDirectory(prefix="soak-", dir=".scoreline") as name, Rig(Path(name).resolve()) as rig:
        folder = Path(name).resolve()
        soak = Soak(rig, Fleet(rig, folder, options.older), set(options.without.split(",")))
        while time.monotonic() < end:
            started = time.monotonic()
            chance = random.Random(seed)
            kind = chance.choice(kinds)
            faults: list[str] = []
            try:
                soak.play(kind, f"{seed}-{sum(rounds.values())}", chance, faults)
            except Exception as error:  # noqa: BLE001  # whatever it is, the seed has to be said
                _say(f"seed {seed}: {kind}: FAILED after {', '.join(faults)}: {error!r}")
                kept = Path(f".scoreline/soak-failed-{seed}")
                shutil.rmtree(kept, ignore_errors=True)
                shutil.copytree(rig.stack.folder, kept, ignore=shutil.ignore_patterns("s3"))
                (kept / "error.txt").write_text(traceback.format_exc())
                _say(f"The logs are in {kept}. To repeat it: make soak SEED={seed}")
                _say(_summary(rounds, happened) + ", 1 failed")
                return 1
            _say(f"seed {seed}: {kind}: ok in {time.monotonic() - started:.1f} s: {', '.join(faults)}")
            rounds[kind] += 1
            happened.update(faults)
            seed += 1
    _say(_summary(rounds, happened) + ", 0 failed")
    return 0


class Soak:
    """Two deployments that share services, together with the processes of both.

    Parameters
    ----------
    without : set of str
        Faults that are not drawn.
    """

    def __init__(self, rig: Rig, fleet: Fleet, without: set[str]) -> None:
        self._rig, self._fleet, self._without = rig, fleet, without
        port = int(rig.environ["R2_ENDPOINT_URL"].rpartition(":")[2])
        rig.stack.wait("the other bucket", lambda: make_bucket(port, NEIGHBOUR))
        self._ours = Place(environ=rig.environ)
        self._neighbour = Place(environ=rig.environ | {"R2_BUCKET": NEIGHBOUR})
        for place in (self._ours, self._neighbour):
            place.publish()
        rig.start_beat(R2_TIMEOUT_SECONDS="2")
        rig.start_beat(R2_TIMEOUT_SECONDS="2", R2_BUCKET=NEIGHBOUR)
        for kind in ("ours", NEIGHBOUR):
            fleet.start(kind)

    def play(self, kind: str, name: str, chance: random.Random, happened: list[str]) -> None:
        """Play one round; add the names of the faults to `happened`.

        Raises
        ------
        AssertionError
            An invariant does not hold, or the round hangs.
        """
        scene = Scene(ours=self._ours, neighbour=self._neighbour, chance=chance, name=name)
        jobs = KINDS[kind](scene)
        faults = faults_of(self._fleet, chance, self._ours.under_way)
        left = [name for name in faults if name not in self._without]
        times = [chance.uniform(0, 8) for _ in range(chance.randrange(1, 7))]
        begun, deadline = time.monotonic(), time.monotonic() + ROUND_S
        try:
            while True:
                try:
                    next(jobs)
                except StopIteration:
                    break
                elapsed = time.monotonic() - begun
                if times and elapsed > min(times):
                    times.remove(min(times))
                    happened.append(chance.choice(left))
                    try:
                        faults[happened[-1]]()
                    except ScorelineError as error:
                        if not error.transient:
                            raise
                    if not times:
                        self._rig.chaos()
                self._fleet.wake()
                if self._fleet.restart_ended():
                    happened.append("a worker had ended")
                assert time.monotonic() < deadline, f"the round hangs: {self._state()}"
                time.sleep(_STEP_S)
        finally:
            self._rig.chaos()
            self._fleet.wake(all_=True)
        self._check_calm()
        self._fleet.end(*_FLEETING)
        for place in (self._ours, self._neighbour):
            place.clear()

    def _check_calm(self) -> None:
        """Check that no work is left, and that documents do not contradict each other."""
        deadline = time.monotonic() + _CALM_S
        while any(place.under_way() for place in (self._ours, self._neighbour)) or self._rig.messages():
            self._fleet.restart_ended()
            assert time.monotonic() < deadline, f"not calm: {self._state()}"
            time.sleep(_STEP_S)
        assert self._rig.open_uploads() == []
        for place in (self._ours, self._neighbour):
            place.check_ends()

    def _state(self) -> str:
        jobs = [str(status) for place in (self._ours, self._neighbour) for status in place.client.jobs()]
        return f"jobs {jobs}, {len(self._rig.messages())} messages, under way {self._ours.under_way()}"


def _summary(rounds: Counter[str], happened: Counter[str]) -> str:
    lines = ["", "Rounds by kind"]
    lines += [f"  {count:4} {kind}" for kind, count in rounds.most_common()]
    lines += ["Faults"] + [f"  {count:4} {name}" for name, count in happened.most_common()]
    return "\n".join([*lines, f"{sum(rounds.values())} passed"])


def _say(text: str) -> None:
    for line in text.split("\n"):
        sys.stdout.write(textwrap.fill(line, 80, subsequent_indent="    ", drop_whitespace=True) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
