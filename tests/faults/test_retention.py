"""A removal of old results that is killed finishes later, and removes nothing else."""

from __future__ import annotations

import subprocess
import sys

from scoreline.storage import keys
from scoreline.tasks.job.documents import read_tombstone
from scoreline.tasks.job.uris import parse_uri
from tests.support.rig import HASTE, Rig
from tests.support.waiting import HANG_S


def test_a_removal_that_is_killed_at_its_deletions_finishes_later(rig_at_work: Rig) -> None:
    rig = rig_at_work
    rig.publish(refuses_from=395.0)
    # Given an old job with rejected rows, and another one in the same output that latest.json names
    old, named = (rig.end(rig.submit(4, max_rejected="100%", job_id=job_id)) for job_id in ("old", "older"))
    rig.verify(named, state="partial", rejected=tuple(range(395, 400)))
    rig.wait_until_idle()  # a report is written, and a marker removed, when a job has ended
    output = parse_uri(named.output)[1].removesuffix("job_id=older/")
    rig.store.put(f"{output}latest.json", b'{"job": "older"}')
    folder = parse_uri(old.output)[1]
    own = (folder, "jobs/old/", "jobs/_", keys.JOBS_INDEX)  # an entry of the index is written when its job has ended
    others = {info.key: info.etag for info in rig.store.list("") if not info.key.startswith(own)}
    environ = rig.stack.environ | HASTE | {"PATH": "/usr/bin:/bin", "RESULTS_KEEP": "1d"}

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    command = [sys.executable, "-m", "tests.support.hasty_gc"]
    # When it is killed before each kind of deletion, one after another
    for hold in ("_SUCCESS? DELETE", "?delete", "outcome.json? DELETE"):
        rig.chaos(hold=hold)
        process = start()
        try:
            rig.wait(rig.held, f"a removal at {hold}")
        finally:
            process.kill()
            process.communicate(timeout=HANG_S)
        assert read_tombstone(rig.store, "old") is not None
        rig.chaos(hold="_nothing")  # the request of the dead process arrives
        rig.wait(lambda: not rig.held(), "the last request")
    rig.chaos()
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=HANG_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    # Then the job is gone but for its tombstone, and nothing else has changed
    assert [info.key for info in rig.store.list(folder)] == []
    assert [info.key for info in rig.store.list("jobs/old/")] == [keys.job("old")]
    left = {info.key: info.etag for info in rig.store.list("")}
    assert {key: left.get(key) for key in others} == others
    listed = {info.key.rpartition("~")[2] for info in rig.store.list(keys.JOBS_INDEX)}
    assert {"old", "older"} & listed == {"older"}
    rig.verify(named, state="partial", rejected=tuple(range(395, 400)))
