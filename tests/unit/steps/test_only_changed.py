"""With ``only_changed``, a job has the results of a full run, bit for bit, and scores only rows that have changed."""

from __future__ import annotations

import importlib.metadata
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OrdinalEncoder

from scoreline.storage import keys
from scoreline.storage.errors import InvalidRequest
from scoreline.storage.models import row_order
from scoreline.tasks.job.documents import Outcome, read_outcome
from scoreline.tasks.steps.unchanged import accepted_run, carrier
from scoreline.tasks.steps.unchanged.accepted_run import environment_of
from scoreline.tasks.steps.unchanged.row_hashes import RowHasher
from scoreline.tasks.steps.unchanged.stored_scores import sketched
from scoreline.testing import EagerClient, eager
from tests.support.estimators import Centred

OUTPUT = "s3://scoreline/out/"
FIELDS = pa.schema([("id", pa.int64()), ("a", pa.float64()), ("b", pa.int32()), ("note", pa.string())])


def forest(seed: int = 0) -> Any:
    chance = np.random.default_rng(seed)
    x = pd.DataFrame({"a": chance.normal(size=200), "b": chance.integers(0, 9, 200)})
    return RandomForestClassifier(5, random_state=seed).fit(x, np.where(x.a + x.b > 4, "yes", "no"))


class Work:
    """An output whose jobs score what `put` has written last."""

    def __init__(self, client: EagerClient) -> None:
        self.client = client
        self.jobs = 0
        client.models.publish("forest", forest())

    def put(self, rows: Any, key: str = "in/a.parquet", group: int = 7) -> None:
        table = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(rows, schema=FIELDS)
        sink = io.BytesIO()
        pq.write_table(table, sink, row_group_size=group)
        self.client.put(key, sink.getvalue())

    def run(self, output: str = OUTPUT, model: str = "forest", **options: Any) -> Outcome:
        self.jobs += 1
        given: dict[str, Any] = {
            "only_changed": True,
            "part_rows": 10,
            "max_rejected": "100%",
            "job_id": f"j{self.jobs}",
        } | options
        self.client.submit(model, "s3://scoreline/in/", output=output, **given)
        found = read_outcome(self.client.buckets.main, str(given["job_id"]))
        assert found is not None
        assert found.state in ("succeeded", "partial"), found.error
        return found

    def full(self, **options: Any) -> pa.Table:
        """Score everything into another output, and return its results."""
        self.run(f"s3://scoreline/full{self.jobs}/", only_changed=None, **options)
        return self.results(f"full{self.jobs - 1}/")

    def results(self, output: str = "out/") -> pa.Table:
        """Return the results of the last job, in order."""
        return pa.concat_tables([pq.read_table(io.BytesIO(data)) for _, data in self.files(output)])

    def files(self, output: str = "out/") -> list[tuple[str, bytes]]:
        store, folder = self.client.buckets.main, f"{output}job_id=j{self.jobs}/"
        return [
            (info.key, store.get(info.key).data)
            for info in store.list(folder)
            if keys.part_number(info.key) is not None and "/" not in info.key.removeprefix(folder)
        ]

    def rejects(self) -> list[dict[str, Any]]:
        """Return the rejected rows of the last job."""
        store = self.client.buckets.main
        found = [info.key for info in store.list("") if f"job_id=j{self.jobs}/_rejected/" in info.key]
        return [row for key in found for row in pq.read_table(io.BytesIO(store.get(key).data)).to_pylist()]

    def folder(self, job: str = "") -> str:
        return f"out/job_id={job or f'j{self.jobs}'}/"


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Work]:
    with eager(tmp_path) as client:
        yield Work(client)


def rows(count: int, first: int = 0) -> list[dict[str, Any]]:
    chance = np.random.default_rng(first)
    numbers = chance.normal(size=count) * 4
    return [{"id": first + n, "a": float(numbers[n]), "b": n % 9, "note": f"n{n}"} for n in range(count)]


def same(one: pa.Table, other: pa.Table) -> bool:
    """Return whether two tables are equal bit for bit."""
    if one.schema.remove_metadata() != other.schema.remove_metadata() or one.num_rows != other.num_rows:
        return False
    written = []
    for table in (one, other):
        sink = io.BytesIO()
        with pa.ipc.new_file(sink, table.schema.remove_metadata()) as out:
            out.write_table(table.combine_chunks().replace_schema_metadata())
        written.append(sink.getvalue())
    return written[0] == written[1]


def test_only_rows_that_are_new_or_differ_are_scored(work: Work) -> None:
    before = rows(60)
    work.put(before)
    first = work.run()
    assert (first.carried, first.not_carried) == (0, "no other run of s3://scoreline/out/ is accepted yet")
    # When two rows differ, one is gone and one is new
    after = [dict(row) for row in before if row["id"] != 7]
    after[20]["a"] += 1
    after[30]["b"] += 1
    after[40]["note"] = "another note"
    work.put([*after, *rows(1, 100)])
    second = work.run()
    assert (second.rows, second.carried, second.not_carried) == (60, 57, "")
    found = work.results()
    assert found["note"][40].as_py() == "another note"
    assert same(found, work.full())
    manifest = json.loads(work.client.buckets.main.get(keys.results_manifest(work.folder("j2"))).data)
    assert (manifest["carried"], manifest["carried_from"], sum(p["carried"] for p in manifest["parts"])) == (
        57,
        "j1",
        57,
    )


CELLS: dict[str, Any] = {
    "id": st.one_of(st.none(), st.integers(0, 20)),
    "a": st.one_of(st.none(), st.sampled_from([0.0, -0.0, float("nan"), float("inf")]), st.floats(-5, 5, width=16)),
    "b": st.integers(0, 9),
    "note": st.one_of(st.none(), st.sampled_from(["", "x", "é"])),
}
TABLES = st.lists(st.fixed_dictionaries(CELLS), min_size=1, max_size=40)
EDITS = st.lists(
    st.tuples(st.sampled_from(["change", "delete", "add", "move"]), st.integers(0, 99), st.fixed_dictionaries(CELLS)),
    max_size=8,
)


def edited(table: list[dict[str, Any]], edits: list[tuple[str, int, dict[str, Any]]]) -> list[dict[str, Any]]:
    table = [dict(row) for row in table]
    for what, place, row in edits:
        place %= len(table) + 1
        if what == "add":
            table.insert(place, row)
        elif place < len(table):
            if what == "change":
                table[place] |= {name: row[name] for name in list(row)[: place % 4 + 1]}
            elif what == "delete" and len(table) > 1:
                del table[place]
            elif what == "move":
                table.append(table.pop(place))
    return table


@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # each example runs three jobs: shrinking takes minutes
)
@given(before=TABLES, edits=EDITS, key=st.sampled_from([None, ["id"], ["id", "note"]]), part_rows=st.integers(3, 30))
def test_results_are_those_of_a_full_run_whatever_has_changed(
    work: Work, before: Any, edits: Any, key: Any, part_rows: int
) -> None:
    sound = {"id": -1, "a": 0.5, "b": 1, "note": "sound"}  # at least one row can be scored
    after = edited(before, edits)
    output = f"s3://scoreline/out{work.jobs}/"
    work.put([sound, *before])
    work.run(output, key=key)
    # When the same job runs again after some edits, with other parts
    work.put([*after, sound], group=part_rows)
    done = work.run(output, key=key, part_rows=part_rows)
    assert done.not_carried == ""
    found, rejected = work.results(output.removeprefix("s3://scoreline/")), work.rejects()
    assert same(found, work.full(part_rows=part_rows))
    assert rejected == work.rejects()
    # Then exactly the rows are scored whose features and key were not scored before
    known = {identity(row, key) for row in [sound, *before]}
    assert done.carried == sum(identity(row, key) in known for row in [*after, sound] if is_scored(row))


def identity(row: dict[str, Any], key: Any) -> str:
    return repr([row[name] for name in ["a", "b", *(key or [])]])


def is_scored(row: dict[str, Any]) -> bool:
    return row["a"] is None or not np.isinf(row["a"])  # a forest takes missing values, and refuses infinity


def test_another_model_other_outputs_and_other_types_score_all_rows_and_say_so(work: Work) -> None:
    work.put(rows(30))
    work.run()
    done = work.run(method="predict")
    assert (done.carried, done.not_carried) == (
        0,
        "the accepted run j1 has other outputs, columns, types, rules or library versions",
    )
    assert same(work.results(), work.full(method="predict"))
    work.put(pa.Table.from_pylist(rows(30), schema=FIELDS.set(2, pa.field("b", pa.int64()))))
    assert work.run(method="predict").carried == 0
    assert work.run(method="predict").carried == 30
    work.client.models.publish("forest", forest(1))
    done = work.run(method="predict")
    assert done.carried == 0
    assert done.not_carried.startswith("the accepted run j5 has another model version, forest@")
    assert same(work.results(), work.full(method="predict"))


def test_a_rule_of_rows_rejects_a_row_whose_kept_value_breaks_it_now(work: Work) -> None:
    rule, before = "[columns.note]\npattern = 'n.*'\n", rows(30)
    work.put(before)
    work.run(checks=rule)
    before[3]["note"], before[4]["note"] = "x", "n"
    work.put(before)
    done = work.run(checks=rule)
    assert (done.rows, done.rejected, done.carried) == (29, 1, 28)
    assert [row["note"] for row in work.rejects()] == ["x"]
    assert same(work.results(), work.full(checks=rule))


def test_results_that_are_gathered_carry_their_scores_too(work: Work) -> None:
    work.put(rows(30))
    work.run(gather=True)
    assert work.run(gather=True).carried == 30
    assert same(work.results(), work.full())


def test_rows_in_another_order_and_in_more_parts_than_are_read_are_found_or_scored(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = rows(100)
    work.put(before)
    work.run()
    shuffled = [before[n] for n in np.random.default_rng(0).permutation(100)]
    work.put(shuffled)
    assert work.run().carried == 100
    monkeypatch.setattr(carrier, "MAX_LOADS", 3)
    monkeypatch.setattr(carrier, "KEPT_BYTES", 1)
    work.put(before)
    done = work.run()
    assert done.carried is not None
    assert 0 < done.carried < 100
    assert same(work.results(), work.full())


@pytest.mark.parametrize("lost", ["scores", "damaged", "manifest"])
def test_scores_that_are_gone_are_computed_and_the_outcome_says_so(work: Work, lost: str) -> None:
    work.put(rows(30), group=10)
    work.run()
    store = work.client.buckets.main
    key, other = (
        info.key for info in store.list(work.folder()) if "/_carry/" in info.key and "-00000-" not in info.key
    )
    if lost == "scores":
        store.delete(key)
    elif lost == "damaged":
        store.put(key, store.get(other).data)
    else:
        manifest = keys.results_manifest(work.folder())
        store.put(manifest, store.get(manifest).data + b"\n")
    done = work.run()
    what = {
        "scores": "the object with the scores of its part 1 is missing",
        "damaged": "the object with the scores of its part 1 is damaged",
        "manifest": "its manifest was removed or replaced",
    }[lost]
    assert (done.carried, done.not_carried) == (0 if lost == "manifest" else 20, f"run j1: {what}")
    assert same(work.results(), work.full())


def test_a_model_whose_scores_depend_on_the_other_rows_scores_all_of_them(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_order, "ORDERLY", {*row_order.ORDERLY, "tests"})
    work.client.models.publish("centred", Centred().fit(pd.DataFrame(rows(9))[["a", "b"]], range(9)))
    work.put(rows(30))
    for _ in range(2):
        done = work.run(model="centred")
        assert done.carried == 0
        assert done.not_carried.startswith("the score of a row depends on the other rows")


def test_a_worker_with_other_libraries_than_the_planner_scores_all_rows(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    work.put(rows(30))
    work.run()
    monkeypatch.setattr(carrier, "environment_of", lambda: "other")
    done = work.run()
    assert (done.carried, done.not_carried) == (
        0,
        "a worker has other versions of the libraries than the one that planned the job",
    )
    monkeypatch.undo()
    assert work.run().carried == 0  # its scores were not kept, because they are those of other libraries
    assert work.run().carried == 30


def test_what_only_changed_does_not_go_with_is_refused(work: Work) -> None:
    work.put(rows(3))
    with pytest.raises(InvalidRequest, match="only_changed 'yes' is neither true nor false"):
        work.run(only_changed="yes")
    with pytest.raises(InvalidRequest, match="key without into: name the table with --into"):
        work.run(only_changed=None, key=["id"])
    job = work.client.submit("forest", "s3://scoreline/in/", only_changed=True, key=["a", "none"]).job_id
    assert "the key 'none' is neither a feature nor a kept column" in work.client.status(job).error


def test_integers_beside_a_null_are_scored_again_because_they_are_scored_as_floats(work: Work) -> None:
    x = pd.DataFrame({"n": np.arange(50), "m": np.arange(50) % 3})
    work.client.models.publish("whole", RandomForestClassifier(3, random_state=0).fit(x, x.n % 2))
    fields = pa.schema([("n", pa.int64()), ("m", pa.int64())])
    before: list[dict[str, Any]] = [{"n": n, "m": 1} for n in (*range(20), 2**53 + 1)]
    work.put(pa.Table.from_pylist(before, schema=fields))
    work.run(model="whole")
    assert work.run(model="whole").carried == 21
    # When a single null makes the job score all of them as float64, which cannot hold the last one
    work.put(pa.Table.from_pylist([*before, {"n": None, "m": 1}], schema=fields))
    done = work.run(model="whole")
    assert (done.rows, done.rejected, done.carried) == (21, 1, 0)
    assert same(work.results(), work.full(model="whole"))


@pytest.mark.parametrize("name", ["key", "feature"])
def test_bytes_of_a_fixed_size_are_not_compared(work: Work, name: str) -> None:
    fields = pa.schema([("uuid", pa.binary(2)), ("a", pa.float64()), ("b", pa.int32())])
    work.put(pa.Table.from_pylist([{"uuid": bytes([250, n]), "a": 1.0, "b": n} for n in range(9)], schema=fields))
    named: dict[str, Any] = {"key": ["uuid"]}
    if name == "feature":
        x = pd.DataFrame({"uuid": [b"ab", b"cd"] * 9})
        work.client.models.publish("uuids", make_pipeline(OrdinalEncoder(), forest()).fit(x, [0, 1] * 9))
        fields = pa.schema([("uuid", pa.binary(2))])
        work.put(pa.Table.from_pylist([{"uuid": b"ab"}, {"uuid": b"cd"}], schema=fields))
        named = {"model": "uuids"}
    done = work.run(**named)
    assert done.not_carried == "a feature, the key or a rule is fixed_size_binary[2], and is not compared"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (pa.array([1.0]), pa.array([1.0]).view(pa.int64())),
        (pa.array([7], pa.timestamp("s")), pa.array([7], pa.timestamp("ns"))),
        (pa.array(["1.50"]), pa.array(["1.50"]).cast(pa.decimal128(5, 2))),
    ],
    ids=["number", "time", "text"],
)
def test_values_of_different_types_differ(one: Any, other: Any) -> None:
    hasher = RowHasher(["x"], "0" * 64)
    found = [hasher.hashes(pa.record_batch([values], names=["x"])) for values in (one, other)]
    assert all(left[0] != right[0] for left, right in zip(*found, strict=True))


@pytest.mark.parametrize("name", ["scipy", "pandas", "scikit-learn", "numpy", "pyarrow", "scoreline"])
def test_another_release_of_a_library_scores_all_rows(work: Work, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    work.put(rows(30))
    work.run()
    version = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda asked: "0.1" if asked == name else version(asked))
    environment_of.cache_clear()
    done = work.run()
    environment_of.cache_clear()
    assert (done.carried, done.not_carried) == (
        0,
        "the accepted run j1 has other outputs, columns, types, rules or library versions",
    )


def shouted(text: str) -> list[str]:
    """Stands for a function of a user, which a later release of the user's code may change."""
    return text.upper().split()


def test_a_model_that_uses_code_of_the_user_scores_all_rows(work: Work) -> None:
    words = CountVectorizer(tokenizer=shouted, token_pattern=None)
    work.client.models.publish("words", make_pipeline(words, forest()).fit(["a b", "b c"] * 9, ["x", "y"] * 9))
    work.client.models.publish("centred", Centred().fit(pd.DataFrame(rows(9))[["a", "b"]], range(9)))
    work.put(rows(30))
    why = "the model uses code of another library or of your own, and nothing shows whether that code has changed"
    for options in ({"model": "words", "features": ["note"]}, {"model": "centred"}):
        work.run(**options)
        done = work.run(**options)
        assert (done.carried, done.not_carried) == (0, why)


def test_a_run_that_is_removed_while_a_job_is_planned_carries_nothing(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    work.put(rows(30))
    work.run()
    manifest, head = keys.results_manifest(work.folder()), type(work.client.buckets.main).head

    def head_of_removed(store: Any, key: str) -> Any:
        if key == manifest:
            store.delete(key)
        return head(store, key)

    monkeypatch.setattr(type(work.client.buckets.main), "head", head_of_removed)
    done = work.run()
    assert (done.rows, done.carried, done.not_carried) == (
        30,
        0,
        "the manifest of the accepted run j1 cannot be read",
    )


def test_a_run_without_rows_keeps_no_scores(work: Work) -> None:
    work.put([])
    work.run()
    work.put(rows(3))
    assert work.run().not_carried == (
        "the accepted run j1 has no scores to carry over, because it was submitted without --only-changed or had none"
    )


def test_the_sketches_of_a_run_are_decoded_once_for_all_parts(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    work.put(rows(40), group=10)
    work.run()
    decoded: list[str] = []

    def noted(text: str) -> Any:
        decoded.append(text)
        return sketched(text)

    monkeypatch.setattr(accepted_run, "sketched", noted)
    done = work.run()
    assert (done.parts, done.carried, len(decoded)) == (4, 40, 4)


def test_the_time_of_carried_rows_is_not_compared_with_that_of_a_challenger(work: Work) -> None:
    work.client.models.publish("other", forest(1))
    work.put(rows(30))
    store = work.client.buckets.main
    for carried in (0, 30):
        assert work.run(challenger="other").carried == carried
        found = json.loads(store.get(f"{work.folder()}_challenger/_comparison.json").data)
        assert (found["rows"], "champion_seconds_per_row" in found) == (30, not carried)
        assert found["challenger_seconds_per_row"] > 0
