"""Autoscalers read the backlog as JSON; an unknown backlog is an error and not an empty one."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner
from prometheus_client import CollectorRegistry

from scoreline.storage.errors import InvalidSettings, LedgerUnavailable
from scoreline.tasks.backlog.reader import Backlog, JobBacklog
from scoreline.tasks.backlog.settings import HireFireSettings
from scoreline.tasks.client import Client
from scoreline.worker.cli.main import cli
from scoreline.worker.exporter import listen
from scoreline.worker.metrics import _work_metrics

TOKEN = "0d3f-secret"
WORK = Backlog(
    jobs=(
        JobBacklog(job_id="a", group="churn", next_step="score", rows=40, seconds=511.2, since=0.0),
        JobBacklog(job_id="b", group="churn", next_step="plan", rows=0, seconds=0.0, since=0.0),
    )
)


class Served:
    """A running server, and what its backlog is."""

    def __init__(self) -> None:
        self.answer: Any = [{"name": "worker", "value": 512}]
        deployment: Any = SimpleNamespace(registry=CollectorRegistry)
        self.server = listen(deployment, "127.0.0.1", 0, self._backlog, TOKEN)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def _backlog(self) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def get(self, path: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.server_address[1], timeout=30)
        connection.request("GET", path)
        answer = connection.getresponse()
        found = answer.status, answer.read().decode()
        connection.close()
        return found


@pytest.fixture
def served() -> Iterator[Served]:
    served = Served()
    yield served
    served.server.shutdown()
    served.server.server_close()
    served.thread.join()


@pytest.mark.parametrize("path", ["/metrics.json", f"/hirefire/{TOKEN}/info"])
def test_an_autoscaler_reads_the_backlog(served: Served, path: str) -> None:
    status, body = served.get(path)
    assert (status, json.loads(body)) == (200, [{"name": "worker", "value": 512}])


def test_hirefire_needs_its_token(served: Served) -> None:
    assert [served.get(path)[0] for path in ("/hirefire/wrong/info", "/hirefire//info", "/hirefire/info")] == [404] * 3


def test_an_unknown_backlog_is_no_empty_backlog(served: Served) -> None:
    served.answer = LedgerUnavailable("cannot reach Redis at 10.0.0.1:6379")
    status, body = served.get("/metrics.json")
    assert status == 503
    assert "10.0.0.1" not in body
    assert served.get("/metrics")[0] == 200


def test_the_metrics_of_the_backlog_have_a_label_for_the_group() -> None:
    found = {sample.name: (sample.labels, sample.value) for metric in _work_metrics(WORK) for sample in metric.samples}
    assert found == {
        "scoreline_backlog_seconds": ({"group": "churn"}, 511.2),
        "scoreline_backlog_rows": ({"group": "churn"}, 40),
        "scoreline_backlog_jobs": ({"group": "churn"}, 2),
    }


def test_the_command_prints_what_hirefire_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Client, "from_env", lambda: SimpleNamespace(backlog=lambda: WORK))
    done = CliRunner().invoke(cli, ["metrics", "--json", "--worker-type", "scorer"])
    assert json.loads(done.output) == [{"name": "scorer", "value": 513}]  # a job that is not planned counts a second


@pytest.mark.parametrize("token", ["short", "a/../../metrics", "with space in it"])
def test_a_token_that_is_no_part_of_an_address_is_refused_and_not_shown(token: str) -> None:
    with pytest.raises(InvalidSettings, match="HIREFIRE_TOKEN") as refused:
        HireFireSettings.from_env({"HIREFIRE_TOKEN": token})
    assert token not in str(refused.value)
