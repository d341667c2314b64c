"""``scoreline trace``."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from click.testing import CliRunner, Result

from scoreline.storage.errors import InvalidRequest
from scoreline.storage.models import signatures
from scoreline.tasks.client import Client
from scoreline.tasks.steps.planner import plan_job
from scoreline.worker.cli.main import cli
from tests.support.gated import OUTPUT, WARNS, Gated

FILE = "s3://scoreline/out/job_id=j/part-00000.parquet"


@pytest.fixture
def client(jobs: Gated) -> Client:
    return Client(jobs.buckets, jobs.client.queue, jobs.client.ledger, submitter="alice")


@pytest.fixture
def run(client: Client, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.setattr(Client, "from_env", lambda: client)
    return lambda *words: CliRunner().invoke(cli, list(words))


def test_a_trace_names_everything_that_made_a_score(jobs: Gated, run: Callable[..., Result]) -> None:
    jobs.run("j", WARNS)
    model = jobs.client.status("j").model
    etag = jobs.main.head("in/a.parquet").etag
    shown = run("trace", FILE, "4", "--show")
    assert shown.exit_code == 0
    lines = shown.output.splitlines()
    assert lines[0] == f"row 4 of {FILE}"
    assert "  input    row 4 of s3://scoreline/in/a.parquet" in lines
    assert f"  etag     {etag}, unchanged since" in lines
    assert "  was      x=4.0 id=4" in lines
    assert "  job      j, part 0" in lines
    assert f"  model    {model}" in lines
    assert "  signed   not checked: MODEL_VERIFY_KEYS is not set" in lines
    assert "  warning  nulls: x has more nulls than before" in lines
    assert any(line.startswith("  decision accepted by checks on 20") for line in lines)
    assert "  latest   readers of the output take this run" in lines
    found = json.loads(run("trace", OUTPUT, "--key", "id=31", "--json").output)
    assert [(item["input_row"], item["part"], item["lineage"]["acceptance"]["decision"]) for item in found] == [
        (31, 3, "accepted")
    ]
    assert "input_values" not in found[0]


def test_the_signature_is_checked_with_the_keys_of_this_process(
    jobs: Gated, client: Client, run: Callable[..., Result]
) -> None:
    jobs.run("j")
    signing, verify = signatures.generate_keys()
    client.verify_keys = (verify,)
    assert f"  signed   {jobs.client.status('j').model} is not signed" in run("trace", FILE, "0").output
    client.registry.sign(jobs.client.status("j").model, signing, sha256=client.trace(FILE, 0).model.manifest_sha256)
    key = signatures.key_id(signatures.check_key("verify", verify))
    assert f"  signed   by trusted key {key}\n" in run("trace", FILE, "0").output
    other = signatures.generate_keys()[1]
    client.verify_keys = (other,)
    assert f"is signed by {key}, but not by any key in MODEL_VERIFY_KEYS" in run("trace", FILE, "0").output
    manifest = next(info.key for info in jobs.main.list("models/line/") if info.key.endswith("/manifest.json"))
    jobs.main.put(manifest, jobs.main.get(manifest).data + b" ")
    assert "was altered after it was pinned" in run("trace", FILE, "0").output
    jobs.main.delete(manifest)
    assert "was deleted" in run("trace", FILE, "0").output


def test_wrong_use_is_explained(jobs: Gated, run: Callable[..., Result]) -> None:
    jobs.run("j")
    for words, says in [
        (("trace", FILE), "name a row by its number, from 0, or by --key COL=VALUE"),
        (("trace", FILE, "0", "--key", "id=1"), "name a row by its number, from 0, or by --key COL=VALUE"),
        (("trace", OUTPUT, "0"), "is no result file, so that its rows have no numbers: use --key"),
        (("trace", OUTPUT, "--key", "id"), "'id' is not of the form COL=VALUE"),
        (("trace", OUTPUT, "--key", "id=1", "--key", "id=2"), "the column 'id' is given twice"),
    ]:
        result = run(*words)
        assert (result.exit_code, says in result.output) == (2, True), result.output
    missing = run("trace", OUTPUT, "--key", "id=99")
    assert missing.exit_code == 1
    assert missing.output == f"no row of {OUTPUT} has id=99\n"
    assert isinstance(run("trace", "nowhere.parquet", "0").exception, InvalidRequest)


def test_many_rows_of_one_key_are_cut_with_a_note(jobs: Gated, run: Callable[..., Result]) -> None:
    uri = jobs.main.uri("in/many.csv")
    jobs.main.put("in/many.csv", b"id,x\n" + b"7,1\n" * 25)
    jobs.client.submit("line", uri, job_id="j", output=OUTPUT)
    plan_job(jobs.at.engine, "j")
    jobs.at.score("j", 0)
    jobs.finalize("j")
    shown = run("trace", "j", "--key", "id=7")
    assert shown.output.count("  input    row ") == 20
    assert shown.stderr == "only the first 20 rows with this key are shown: there may be more\n"
