"""Run a worker under this Python, and the client under another Python, where the package is installed without extras.

``python -m tests.e2e.client_elsewhere .cache/versions/client-3.13/bin/python`` starts embedded services and a worker.
The given Python then submits a job and watches it to its end. `scripts/test-versions` runs this module.
"""

from __future__ import annotations

import io
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd
from sklearn.linear_model import LinearRegression

from scoreline import Client, ModelStorageManager
from scoreline.worker.dev.stack import Stack

ROWS = 1000
SUBMIT = """
import importlib.util, platform
import scoreline

assert not importlib.util.find_spec("sklearn"), "this interpreter has what a worker needs: it shows nothing"
client = scoreline.Client.from_env()
client.submit("doubled@champion", "s3://scoreline/in/", job_id="elsewhere")
*_, last = client.watch("elsewhere", timeout_s=300)
job = client.submit_records("doubled@champion", [{"x": 2.0}])
predictions = [round(row["prediction"], 6) for row in job.wait(timeout_s=300)]
print(platform.python_version(), last.state, last.rows, predictions)
"""


def main(python: Path) -> None:
    """Have `python` submit a job; exit with an error unless the job is scored."""
    with tempfile.TemporaryDirectory() as folder, Stack(Path(folder)) as stack:
        model = LinearRegression().fit(pd.DataFrame({"x": [0.0, 1.0]}), [0.0, 2.0])
        ModelStorageManager.from_env(stack.environ).publish("doubled", model, alias="champion")
        sink = io.BytesIO()
        pd.DataFrame({"x": [0.5] * ROWS}).to_parquet(sink, index=False)
        Client.from_env(stack.environ).buckets.main.put("in/all.parquet", sink.getvalue())
        stack.start_worker(1)
        # With -I, Python imports nothing from PYTHONPATH or from the working directory, which is a checkout
        done = subprocess.run(
            [python, "-I", "-c", SUBMIT], env=stack.environ, capture_output=True, text=True, timeout=600, check=False
        )
    sys.stderr.write(done.stderr)
    sys.stdout.write(done.stdout)
    if done.returncode or f"succeeded {ROWS} [4.0]" not in done.stdout:
        raise SystemExit(f"error: the client did not work under {python}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
