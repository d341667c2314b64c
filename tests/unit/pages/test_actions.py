"""What people do on the pages: by POST, after a confirmation, and under their name."""

from __future__ import annotations

import re
from typing import Any

import pandas as pd
import pytest
from django.test import Client as Browser
from sklearn.linear_model import LogisticRegression

from scoreline.storage.audit import AuditLine
from scoreline.tasks.audit.reading import AuditFilter, read_audit
from scoreline.tasks.django.process import overview
from scoreline.tasks.overview import trial
from scoreline.tasks.schedules.scheduler import Scheduler
from scoreline.testing import EagerClient, eager
from tests.support.pages import log_in, serving, text_of, token_in


def audit(client: EagerClient, action: str) -> AuditLine:
    return next(read_audit(client.buckets.main, AuditFilter(action=action), 1))


def hidden(answer: Any) -> dict[str, str]:
    """Return the hidden fields of the first form below the header, as a browser sends them."""
    form = answer.content.decode().partition("<main")[2].partition("</form>")[0]
    return dict(re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', form))


def test_a_job_is_tried_first_and_then_submitted_once(client: EagerClient) -> None:
    browser = log_in("oscar")
    given = {"model": "churn@champion", "input": "s3://scoreline/in/", "max_rejected": "50%", "labels": "team=risk"}
    # Given a form that was sent to be submitted without a trial
    answer = browser.post("/submit/", {**given, "step": "submit"})
    # Then the trial is shown, and nothing is stored
    assert "This is what the job would do" in text_of(answer)
    assert "1 object" in text_of(answer)
    assert list(client.jobs(10)) == []
    # When the form of the trial is sent twice
    fields = {**hidden(answer), "step": "submit"}
    first, second = browser.post("/submit/", fields), browser.post("/submit/", fields)
    # Then there is one job, of the user, and its page says so
    (found,) = client.jobs(10)
    assert first["Location"].partition("?")[0] == second["Location"].partition("?")[0] == f"/jobs/{found.job_id}/"
    assert (found.state, found.labels) == ("partial", {"team": "risk"})
    assert found.submitter is not None
    assert found.submitter.who == "oscar"
    assert "The job is submitted." in text_of(browser.get(first["Location"]))
    # And a form that was changed after its trial is tried again
    changed = browser.post("/submit/", {**fields, "max_rejected": "60%"})
    assert changed.status_code == 200
    assert len(list(client.jobs(10))) == 1


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"model": "chrun"}, "chrun"),
        ({"model": ""}, "This field is required."),
        ({"input": "s3://scoreline/nothing/"}, "nothing"),
        ({"input": "nonsense"}, "s3://bucket/key"),
        ({"input": "s3://elsewhere/in/"}, "ALLOWED_BUCKETS"),
        ({"max_rejected": "many"}, "neither a count nor a percentage"),
        ({"types": "age"}, "is not of the form name=value"),
        ({"part_rows": "0"}, "greater than or equal to 1"),
        ({"method": "sing"}, "Select a valid choice"),
    ],
)
def test_a_wrong_form_says_what_is_wrong_and_keeps_what_was_given(
    client: EagerClient, change: dict[str, str], expected: str
) -> None:
    given = {"model": "churn@champion", "input": "s3://scoreline/in/", "labels": "team=risk", "step": "try"} | change
    answer = log_in("oscar").post("/submit/", given)
    assert answer.status_code == 400
    assert expected in text_of(answer)
    assert 'value="team=risk"' in answer.content.decode()


def test_a_reason_is_needed_to_reject_and_to_accept_and_the_audit_has_the_name(client: EagerClient, job: str) -> None:
    browser, address = log_in("paula"), f"/jobs/{job}/do/reject/"
    assert "Reject the results" in text_of(browser.get(address))
    assert client.status(job).state == "partial"  # a GET changes nothing
    assert browser.post(address, {"reason": " "}).status_code == 400
    assert client.status(job).state == "partial"
    answer = browser.post(address, {"reason": "too high <b>"})
    assert client.status(job).state == "blocked"
    page = browser.get(answer["Location"])
    assert "The results are withdrawn." in text_of(page)
    assert "paula withdrew the results" in text_of(page)
    assert "too high &lt;b&gt;" in page.content.decode()
    assert audit(client, "job.reject").who == "paula"
    browser.post(f"/jobs/{job}/do/accept/", {"reason": "they are right"})
    assert client.status(job).state == "partial"
    assert audit(client, "job.accept").who == "paula"


def test_an_action_that_cannot_be_done_says_why(client: EagerClient, job: str) -> None:
    browser = log_in("paula")
    answer = browser.post(f"/jobs/{job}/do/resume/", {})
    assert answer.status_code == 400
    assert job in text_of(answer)
    assert browser.post(f"/jobs/{job}/do/explode/", {}).status_code == 404
    assert browser.get("/results/rollback/?output=s3://elsewhere/x/").status_code >= 400


def test_rejected_rows_are_scored_again_in_a_new_job(client: EagerClient, job: str) -> None:
    answer = log_in("oscar").post(f"/jobs/{job}/do/resume-rejected/", {"model": ""})
    assert answer["Location"].startswith(f"/jobs/{job}-rejected-1/")
    found = client.status(f"{job}-rejected-1")
    assert found.submitter is not None
    assert found.submitter.who == "oscar"


def test_readers_go_back_to_an_earlier_run(client: EagerClient, job: str) -> None:
    client.submit("churn@champion", "s3://scoreline/in/", job_id="later", max_rejected="50%")
    address = "/results/rollback/?output=s3://scoreline/results/churn/"
    browser = log_in("paula")
    assert "later (latest)" in text_of(browser.get(address))
    answer = browser.post(address, {"reason": "later is wrong", "job_id": ""})
    assert answer["Location"].startswith(f"/jobs/{job}/")
    assert audit(client, "results.rollback").who == "paula"


def test_an_alias_moves_to_a_version_of_its_model(client: EagerClient) -> None:
    before, now = client.registry.versions("churn")
    browser, address = log_in("paula"), "/models/churn/aliases/champion/"
    assert browser.post(address, {"version": "20200101T000000Z-00000"}).status_code == 400
    browser.post(address, {"version": before})
    alias = client.registry.find_alias("churn", "champion")
    assert alias is not None
    assert (alias.version, [change.version for change in alias.history]) == (before, [before, now, before])
    assert audit(client, "alias.set").who == "paula"
    assert browser.get("/models/churn/aliases/nothing/").status_code == 404


def test_the_page_moves_an_alias_only_by_the_rules_of_promotion(client: EagerClient) -> None:
    now = client.registry.versions("churn")[-1]
    rows = pd.DataFrame({"age": [1.0, 2.0, 3.0, 4.0]})
    other = client.models.publish("churn", LogisticRegression().fit(rows, ["stays", "leaves", "stays", "leaves"]))
    answer = log_in("paula").post("/models/churn/aliases/champion/", {"version": other.version})
    assert answer.status_code == 400
    assert "it drops the feature 'plan'" in text_of(answer)
    alias = client.registry.find_alias("churn", "champion")
    assert alias is not None
    assert alias.version == now


def test_a_schedule_runs_a_slot_pauses_and_resumes(client: EagerClient) -> None:
    browser, address = log_in("oscar"), "/schedules/nightly/do/"
    slot = re.findall(r'<option value="([^"]+)"', browser.get(f"{address}run/").content.decode())[0]
    answer = browser.post(f"{address}run/", {"slot": slot})
    assert "submitted nightly-" in text_of(browser.get(answer["Location"]))
    assert audit(client, "schedule.run").who == "oscar"
    browser.post(f"{address}pause/", {"reason": "the input is late"})
    page = text_of(browser.get("/schedules/nightly/"))
    assert "Paused by oscar: the input is late" in page
    assert audit(client, "schedule.pause").who == "oscar"
    browser.post(f"{address}resume/", {})
    assert "Paused" not in text_of(browser.get("/schedules/nightly/"))
    assert audit(client, "schedule.resume").who == "oscar"


def test_a_backfill_runs_the_slots_of_a_period(client: EagerClient) -> None:
    Scheduler(client, overview().scheduler._file).tick()
    answer = log_in("oscar").post("/schedules/nightly/do/backfill/", {"first": "2026-01-01", "last": "2026-01-02"})
    assert answer.status_code == 302
    assert audit(client, "schedule.backfill").details["slots"] == 2
    answer = log_in("oscar").post("/schedules/nightly/do/backfill/", {"first": "2020-01-01", "last": "2026-01-02"})
    assert "shorten it" in text_of(answer)


def test_a_form_from_elsewhere_is_refused(client: EagerClient, job: str) -> None:
    browser: Browser = log_in("paula", enforce_csrf_checks=True)
    for path in (f"/jobs/{job}/do/reject/", "/submit/", "/schedules/nightly/do/pause/", "/log-out/", "/log-in/"):
        answer = browser.post(path, {"reason": "forged"})
        assert answer.status_code == 403, path
        assert "The form is out of date" in text_of(answer)
    assert client.status(job).state == "partial"
    given = {"reason": "real", "csrfmiddlewaretoken": token_in(browser.get(f"/jobs/{job}/do/reject/"))}
    assert browser.post(f"/jobs/{job}/do/reject/", given).status_code == 302


def test_a_job_under_way_is_cancelled_and_resumed(tmp_path: Any) -> None:
    with serving(tmp_path / "other") as outer, eager(tmp_path / "waits", run=False) as client:
        del outer
        import pandas as pd
        from sklearn.linear_model import LinearRegression

        client.models.publish("m", LinearRegression().fit(pd.DataFrame({"x": [1.0, 2.0]}), [1.0, 2.0]))
        client.put("in/a.csv", "x\n1\n")
        client.submit("m", "s3://scoreline/in/", job_id="waits")
        browser = log_in("oscar")
        page = browser.get("/jobs/waits/")
        assert "The job waits for a worker" in text_of(page)
        assert 'data-every="2"' in page.content.decode()
        done = browser.post("/jobs/waits/do/cancel/", {}, follow=True)
        assert "The job is cancelled." in text_of(done)
        assert client.status("waits").state == "cancelled"
        assert audit(client, "job.cancel").who == "oscar"
        browser.post("/jobs/waits/do/resume/", {"max_rejected": ""})
        assert client.status("waits").state in ("submitted", "running")
        assert audit(client, "job.resume").who == "oscar"


def test_a_second_trial_does_not_wait_for_the_first_one_for_long(
    client: EagerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "stand_in_client", lambda: None)
    monkeypatch.setattr(trial, "_TURN_S", 0.01)
    given = {"model": "churn@champion", "input": "s3://scoreline/in/", "max_rejected": "50%", "step": "try"}
    with trial._one_at_a_time:
        answer = log_in("oscar").post("/submit/", given)
    assert answer.status_code == 400
    assert "another job is being tried out" in text_of(answer)
