"""Try random examples for MINUTES: ``python -m tests.fuzz [MINUTES] [SEED]``, or ``make fuzz MINUTES=n SEED=n``.

Each round runs every hypothesis test with a new seed, which is printed before the round. The script stops with status
1 at the first example that fails. Hypothesis prints the simplest form of the example, and the same seed finds the
example again.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time


def main(minutes: float = 10, seed: int | None = None) -> int:
    """Run rounds until the time is over."""
    seed = random.randrange(10**6) if seed is None else seed
    end, rounds = time.monotonic() + 60 * minutes, 0
    command = [sys.executable, "-m", "pytest", "tests", "-n", "auto", "-m", "hypothesis", "--timeout=0"]
    while time.monotonic() < end:
        print(f"seed {seed}", flush=True)
        done = subprocess.run(
            [*command, f"--hypothesis-seed={seed}"], env=os.environ | {"HYPOTHESIS_PROFILE": "fuzz"}, check=False
        )
        if done.returncode:
            print(f"seed {seed} failed; once more with: make fuzz MINUTES=0.01 SEED={seed}")
            return 1
        rounds, seed = rounds + 1, seed + 1
    print(f"{rounds} rounds passed, 0 failed")
    return 0


if __name__ == "__main__":
    given = sys.argv[1:]
    sys.exit(main(float(given[0]) if given else 10, int(given[1]) if len(given) > 1 else None))
