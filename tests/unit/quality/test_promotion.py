"""The alias champion names only versions that keep its promises, unless a person says why not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from sklearn.linear_model import LinearRegression, LogisticRegression

from scoreline.storage import keys
from scoreline.storage.audit import AuditLine
from scoreline.storage.errors import InvalidRequest, ModelUntrusted, PromotionRefused
from scoreline.storage.models import signatures
from scoreline.storage.models.attachments import CHECKS
from scoreline.storage.models.registry import ModelRegistry
from scoreline.tasks.quality.challengers import promotion
from scoreline.tasks.quality.challengers.promotion import MAX_REASON, Moved, promote
from scoreline.tasks.quality.checks.check_types import PromoteRule, Promotion
from scoreline.testing import EagerClient, eager
from scoreline.worker.cli.main import cli
from tests.support.challengers import Troubled

RULES = "[promote]\n"


@pytest.fixture
def client(tmp_path: Path) -> Iterator[EagerClient]:
    with eager(tmp_path) as client:
        yield client


def data(columns: str, classes: tuple[str, ...] = ("no", "yes")) -> tuple[pd.DataFrame, Any]:
    chance = np.random.default_rng(0)
    x = pd.DataFrame({name: chance.normal(size=200) for name in columns})
    cuts = np.quantile(x["a"] + chance.normal(size=200) / 2, np.linspace(0, 1, len(classes) + 1)[1:-1])
    return x, np.array(classes)[np.searchsorted(cuts, x["a"])]


def publish(
    client: EagerClient,
    columns: str = "ab",
    *,
    promote: str = "",
    model: Any = None,
    classes: tuple[str, ...] = ("no", "yes"),
    target: bool = False,
    baseline: bool = False,
    alias: str | None = None,
) -> str:
    x, y = data(columns, classes)
    fitted = (model or LogisticRegression()).fit(x, y)
    more: dict[str, Any] = {"attachments": {CHECKS: f"{RULES}{promote}".encode()}} if promote else {}
    if target or baseline:
        more["baseline"] = x.assign(y=y)
    if target:
        more["target"] = "y"
    return client.models.publish("churn", fitted, alias=alias, **more).version


def move(client: EagerClient, version: str, alias: str = "champion", **more: Any) -> Moved:
    return promote(client.registry, "churn", alias, version, client.models._find_run, **more)


def current(client: EagerClient) -> str:
    found = client.registry.find_alias("churn", "champion")
    assert found is not None
    return found.version


def refused(client: EagerClient, version: str) -> str:
    before = current(client)
    with pytest.raises(PromotionRefused) as caught:
        move(client, version)
    assert current(client) == before
    assert ". To move the alias anyway: " in str(caught.value)
    assert "--force --reason TEXT" in str(caught.value)
    assert "\n" not in str(caught.value)  # the command line prints an error as one paragraph
    return str(caught.value)


def test_a_version_with_the_same_features_and_columns_becomes_the_champion(client: EagerClient) -> None:
    publish(client, alias="champion", target=True)
    moved = move(client, publish(client, "ba", target=True))
    assert moved.assessment is not None
    lines = dict(moved.assessment.lines)
    assert lines["features"] == "the same 2, in another order"
    assert lines["columns"] == "the same 3"
    assert lines["methods"] == "predict, predict_proba"
    assert lines["metrics"].startswith("accuracy 0.")
    assert "rows" not in lines["metrics"]
    assert "null_targets" not in lines["metrics"]
    assert lines["checks"] == "none"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"columns": "a"}, "it drops the feature 'b'"),
        ({"columns": "abcd"}, "it adds the features 'c', 'd'"),
        ({"classes": ("no", "maybe", "yes")}, "it adds the column of results 'proba_maybe'"),
        ({"classes": ("0", "1")}, "it drops the columns of results 'proba_no', 'proba_yes'"),
    ],
)
def test_a_version_that_changes_features_or_columns_is_refused(options: Any, message: str, client: EagerClient) -> None:
    publish(client, alias="champion")
    assert message in refused(client, publish(client, **options))


def test_a_regressor_does_not_take_the_place_of_a_classifier(client: EagerClient) -> None:
    publish(client, alias="champion")
    x, _ = data("ab")
    version = client.models.publish("churn", LinearRegression().fit(x, x["a"])).version
    assert "'model' is a regressor, and was a classifier" in refused(client, version)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ("auc = {min = 0.999}", "its auc is 0."),
        ("auc = {max = 0.1}", "above max = 0.1"),
        ("accuracy = {drop = 0.0}", "by more than drop = 0"),
        ("log_loss = {rise = 0.0}", "by more than rise = 0"),
        ("r2 = {min = 0.5}", "its r2 is not known: publish it with --baseline and --target"),
        ("require_challenger_run = true", "no job has compared it with"),
        ('max_flips = "5%"', "--challenger churn@"),
    ],
)
def test_a_version_that_breaks_a_rule_is_refused(rules: str, message: str, client: EagerClient) -> None:
    publish(client, target=True, alias="champion")
    worse = LogisticRegression(C=1e-4, intercept_scaling=3.0)
    assert message in refused(client, publish(client, promote=rules, model=worse, target=True))


def test_every_broken_rule_is_named(client: EagerClient) -> None:
    publish(client, alias="champion")
    message = refused(client, publish(client, "abc", promote="require_baseline = true\nauc = {min = 0.5}"))
    assert message.count("; ") == 2
    assert "it has no baseline" in message


def test_a_baseline_meets_the_rule(client: EagerClient) -> None:
    publish(client, alias="champion")
    move(client, publish(client, promote="require_baseline = true\n", baseline=True))


@pytest.mark.parametrize("own", ["", "aliases = ['other']", "require_baseline = false", "auc = {min = 0.1}"])
def test_the_rules_of_the_champion_apply_whatever_the_version_says(own: str, client: EagerClient) -> None:
    publish(client, promote="require_baseline = true", alias="champion")
    assert "it has no baseline" in refused(client, publish(client, promote=own))


def test_a_version_cannot_unguard_the_alias_of_a_champion_without_rules(client: EagerClient) -> None:
    publish(client, alias="champion")
    assert "it drops the feature 'b'" in refused(client, publish(client, "a", promote="aliases = ['other']"))


def test_of_two_limits_the_stricter_one_holds_and_force_relaxes_them(client: EagerClient) -> None:
    # Given a champion whose file allows a fall of the AUC, but asks for a high accuracy
    publish(client, promote="auc = {min = 0.1, drop = 0.9}\naccuracy = {min = 0.999}", target=True, alias="champion")
    # When a version says the contrary
    lax = publish(client, promote="auc = {min = 1.5, drop = 0.0}\naccuracy = {min = 0.2}", target=True)
    # Then the stricter limit of each holds, and is named once
    message = refused(client, lax)
    assert "below min = 1.5" in message
    assert "below min = 0.999" in message
    assert message.count("; ") == 1
    # And a person relaxes the rules by force, after which those of the new champion hold
    moved = move(client, lax, force=True, reason="the accuracy was a mistake")
    assert moved.assessment is not None
    assert dict(moved.assessment.lines)["rules"] == "of both versions, the stricter of each"
    assert "min = 0.999" not in refused(client, publish(client, target=True))


def test_too_few_rows_decide_nothing(client: EagerClient) -> None:
    publish(client, "a", model=Troubled(), alias="champion")
    version = publish(client, "a", model=Troubled(), promote='max_flips = "20%"')
    patient = publish(client, "a", model=Troubled(), promote="require_challenger_run = true\nmin_rows = 2")
    ready = publish(client, "a", model=Troubled(), promote="require_challenger_run = true")
    client.put("in/a.parquet", pd.DataFrame({"a": [0.5]}))
    for challenger in (version, patient, ready):
        client.submit("churn@champion", "s3://scoreline/in/", challenger=f"churn@{challenger}")
    assert "only 1 row was compared, fewer than min_rows = 100: score more rows with" in refused(client, version)
    assert "only 1 row was compared, fewer than min_rows = 2" in refused(client, patient)
    move(client, ready)


def test_too_few_pairs_of_scores_decide_nothing() -> None:
    score = SimpleNamespace(rank_correlation=1.0, pairs=99)
    run: Any = SimpleNamespace(rows=500, champion_only=0, failed_parts=0, scores={"proba_yes": score})
    versions: list[Any] = [SimpleNamespace(ref=f"churn@{name}", version=name) for name in "ab"]
    (message,) = promotion._broken_by_run(Promotion(min_rank_correlation=0.9), run, *versions)
    assert message == "too few rows have 'proba_yes' of both versions (min_rank_correlation), fewer than min_rows = 100"
    score.pairs = 100
    assert not [*promotion._broken_by_run(Promotion(min_rank_correlation=0.9), run, *versions)]


def test_rules_apply_to_the_aliases_that_they_name(client: EagerClient) -> None:
    for alias in ("champion", "live", "trial"):
        publish(client, promote="aliases = ['live']", alias=alias)
    version = publish(client, "a")
    assert move(client, version, "trial").alias.version == version
    with pytest.raises(PromotionRefused, match="drops the feature"):
        move(client, version, "live")
    move(client, version, "champion")


def test_a_job_with_a_challenger_decides_about_flips(client: EagerClient) -> None:
    # Given a version that flips a twentieth of the rows, and one that flips a quarter
    def troubled(above: float, **options: Any) -> str:
        return publish(client, "a", model=Troubled(above=above), **options)

    rules = 'max_flips = "20%"\nmin_rank_correlation = 0.9'
    first = troubled(0.0, alias="champion")
    few, many = troubled(0.1, promote=rules), troubled(0.5, promote=rules)
    frame = pd.DataFrame({"a": np.linspace(-1, 1, 1_001)})
    client.put("in/a.parquet", frame)
    for version in (few, many):
        client.submit("churn@champion", "s3://scoreline/in/", challenger=f"churn@{version}", output="s3://scoreline/o/")
    assert "of the labels flip, more than max_flips = 0.2 allows" in refused(client, many)
    message = refused(client, troubled(0.2, promote=rules))
    assert f"no job has compared it with {first}" in message
    moved = move(client, few)
    assert moved.assessment is not None
    assert "1,001 rows compared" in dict(moved.assessment.lines)["challenger"]
    # And what was compared with an earlier champion does not count
    assert "no job has compared it" in refused(client, many)


def test_a_challenger_that_failed_is_refused(client: EagerClient) -> None:
    publish(client, "a", model=Troubled(), alias="champion")
    version = publish(client, "a", model=Troubled("memory"), promote="require_challenger_run = true")
    client.put("in/a.parquet", pd.DataFrame({"a": [*np.linspace(-1, 1, 200), 1e7]}))
    client.put("in/b.parquet", pd.DataFrame({"a": np.linspace(-1, 1, 200)}))
    client.submit(
        "churn@champion", "s3://scoreline/in/", challenger=f"churn@{version}", part_rows=201, max_rejected="1"
    )
    message = refused(client, version)
    assert "as a challenger, it failed in 2 of 2 parts: MemoryError" in message


def test_a_person_may_force_a_version_with_a_reason(client: EagerClient) -> None:
    first, version = publish(client, alias="champion"), publish(client, "a")
    with pytest.raises(InvalidRequest, match="--force needs --reason"):
        move(client, version, force=True, reason=" ")
    with pytest.raises(InvalidRequest, match="at most 500"):
        move(client, version, reason="x" * (MAX_REASON + 1))
    moved = move(client, version, force=True, reason="b is gone").alias
    change = moved.current
    assert (change.reason, change.forced, bool(change.who), bool(change.where)) == ("b is gone", True, True, True)
    store = client.buckets.main
    lines = [AuditLine.from_json(store.get(info.key).data) for info in store.list(keys.AUDIT)]
    details = next(line.details for line in lines if line.details.get("to") == version)
    assert details == {"from": first, "to": version, "reason": "b is gone", "forced": True}
    assert client.models.alias("churn", "champion", first, force=True, reason="back").current.reason == "back"


def test_publishing_with_an_alias_follows_the_rules(client: EagerClient) -> None:
    first = publish(client, alias="champion")
    with pytest.raises(PromotionRefused, match="is published, but churn@champion still names"):
        publish(client, "a", alias="champion")
    assert current(client) == first
    assert len(client.registry.versions("churn")) == 2


def test_the_rules_apply_to_the_version_that_the_alias_names_at_that_moment(
    client: EagerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(client, alias="champion")
    wide, same = publish(client, "abc"), publish(client)
    store = client.buckets.main
    put = store.put
    moved: list[str] = []

    def overtaken(key: str, body: bytes, **options: Any) -> Any:
        if key == keys.alias("churn", "champion") and not moved:
            moved.append(key)
            client.registry.alias("churn", "champion", wide)
        return put(key, body, **options)

    monkeypatch.setattr(store, "put", overtaken)
    assert "it drops the feature 'c'" in refused_by_race(client, same)
    assert current(client) == wide


def refused_by_race(client: EagerClient, version: str) -> str:
    with pytest.raises(PromotionRefused) as caught:
        move(client, version)
    return str(caught.value)


def test_an_unreadable_champion_can_be_replaced(client: EagerClient) -> None:
    first = publish(client, alias="champion")
    version = publish(client, "a")
    client.buckets.main.put(keys.manifest("churn", first), b"{}")
    moved = move(client, version)
    assert moved.assessment is not None
    assert "cannot be read" in dict(moved.assessment.lines)["before"]


def test_changes_are_signed_and_an_altered_history_is_found(client: EagerClient) -> None:
    signing, verifying = signatures.generate_keys()
    first = publish(client, alias="champion")
    store = client.buckets.main
    signer = ModelRegistry(store, signing_key=signing)
    signer.alias("churn", "champion", publish(client), reason="better")
    signer.rollback("churn", "champion", "worse")
    registry = ModelRegistry(store, verify_keys=[verifying])
    found = registry.find_alias("churn", "champion")
    assert found is not None
    assert found.version == first
    signers = registry.alias_signers("churn", found)
    assert [bool(item) for item in signers] == [False, True, True]
    # Keys that are not trusted are no error, because keys are replaced
    other = ModelRegistry(store, verify_keys=[signatures.generate_keys()[1]])
    assert other.alias_signers("churn", found) == ["", "", ""]
    assert client.registry.alias_signers("churn", found) == ["", "", ""]
    # When somebody alters the history
    key = keys.alias("churn", "champion")
    raw = json.loads(store.get(key).data)
    for name, value in (("reason", "other"), ("who", "eve"), ("at", "2020-01-01T00:00:00+00:00"), ("rollback", True)):
        altered = json.loads(json.dumps(raw))
        altered["history"][1][name] = value
        store.put(key, json.dumps(altered).encode())
        found = registry.find_alias("churn", "champion")
        assert found is not None
        with pytest.raises(ModelUntrusted, match="change 2 of churn@champion does not match its signature"):
            registry.alias_signers("churn", found)


def test_a_history_of_an_earlier_release_is_read(client: EagerClient) -> None:
    publish(client, alias="champion")
    key = keys.alias("churn", "champion")
    store = client.buckets.main
    raw = json.loads(store.get(key).data)
    for name in ("who", "where"):
        del raw["history"][0][name]
    store.put(key, json.dumps(raw).encode())
    moved = move(client, publish(client)).alias
    assert moved.history[0].who == ""
    assert set(json.loads(store.get(key).data)["history"][0]) == {
        *("seq", "version", "manifest_sha256", "at", "rollback", "token")
    }


def test_a_signed_change_that_was_moved_in_the_history_is_found(client: EagerClient) -> None:
    # Given a worse version, whose signed change is copied behind that of the better one
    signing, verifying = signatures.generate_keys()
    signer = ModelRegistry(client.buckets.main, signing_key=signing)
    for version in (publish(client), publish(client)):
        signer.alias("churn", "champion", version)
    store = client.buckets.main
    registry = ModelRegistry(store, verify_keys=[verifying])
    key = keys.alias("churn", "champion")
    raw = json.loads(store.get(key).data)
    raw["history"].append(raw["history"][0])
    store.put(key, json.dumps(raw | {name: raw["history"][0][name] for name in ("version", "seq")}).encode())
    found = registry.find_alias("churn", "champion")
    assert found is not None
    with pytest.raises(ModelUntrusted, match="change 1 of churn@champion comes after change 2"):
        registry.alias_signers("churn", found)


def test_rules_that_cannot_be_read_are_an_obstacle_that_a_person_may_overrule(client: EagerClient) -> None:
    first = publish(client, promote="require_baseline = true", alias="champion")
    client.buckets.main.put(keys.artifact("churn", first, CHECKS), b"something else")
    version = publish(client)
    assert f"the rules in checks.toml of churn@{first} cannot be read" in refused(client, version)
    move(client, version, force=True, reason="the rules are lost")
    assert current(client) == version


def test_a_damaged_comparison_does_not_lock_an_alias(client: EagerClient) -> None:
    publish(client, alias="champion")
    version = publish(client, promote="require_challenger_run = true")
    client.put("in/a.parquet", pd.DataFrame({"a": [0.0, 1.0], "b": [0.0, 1.0]}))
    found = client.submit("churn@champion", "s3://scoreline/in/", challenger=f"churn@{version}")
    store = client.buckets.main
    (key,) = (info.key for info in store.list("") if info.key.endswith("_comparison.json"))
    assert found.job_id in key
    store.put(key, b"{}")
    assert "no job has compared it" in refused(client, version)
    move(client, version, force=True, reason="compared by hand")


def test_a_row_that_the_challenger_could_not_score_counts_as_a_flip(client: EagerClient) -> None:
    publish(client, "a", model=Troubled(), alias="champion")
    version = publish(client, "a", model=Troubled("row"), promote='max_flips = "20%"')
    frame = pd.DataFrame({"a": [*np.linspace(-1, 1, 300), *np.full(100, 1e7)]})
    client.put("in/a.parquet", frame)
    client.submit("churn@champion", "s3://scoreline/in/", challenger=f"churn@{version}")
    message = refused(client, version)
    assert "25.00% of the labels flip (100 rows without a score counted), more than max_flips = 0.2" in message


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ({"a": {"auc": 0.9}, "b": {"auc": 0.9}}, {"a": {"auc": 0.9}}, "its auc of 'b' is not known"),
        ({"a": {"auc": 0.9}}, {"a": {"auc": float("nan")}}, "its auc is not known"),
        ({}, {"a": {"auc": 0.7}}, "its auc is 0.7, below min = 0.8"),
        ({"a": {"auc": float("nan")}}, {"a": {"auc": 0.9}}, ""),
    ],
)
def test_a_metric_that_is_no_longer_known_breaks_its_rule(before: Any, after: Any, message: str) -> None:
    rule = PromoteRule(metric="auc", limits={"min": 0.8})
    versions: list[Any] = [SimpleNamespace(metrics=metrics) for metrics in (before, after)]
    found = "".join(promotion._broken(rule, *versions))
    assert found.startswith(message)
    assert bool(found) == bool(message)


def test_showing_a_version_says_whether_its_aliases_are_signed(client: EagerClient) -> None:
    signing, verifying = signatures.generate_keys()
    version = publish(client, alias="champion")
    ModelRegistry(client.buckets.main, signing_key=signing).alias("churn", "live", version)
    sha256 = client.registry.resolve(f"churn@{version}").manifest_sha256
    assert run(client, "sign", f"churn@{version}", "--sha256", sha256, MODEL_SIGNING_KEY=signing).exit_code == 0

    def shown(**more: str) -> str:
        found = run(client, "show", f"churn@{version}", **more)
        assert found.exit_code == 0, found.output
        return " ".join(found.output.split())

    assert "aliases champion, live" in shown()
    text = shown(MODEL_VERIFY_KEYS=verifying)
    assert "champion (its last change is not signed by a trusted key), live (signed by " in text
    key = keys.alias("churn", "live")
    store = client.buckets.main
    store.put(key, store.get(key).data.replace(b'"who": "', b'"who": "not '))
    assert "live (its history was altered: `scoreline models verify churn`)" in shown(MODEL_VERIFY_KEYS=verifying)


def run(client: EagerClient, *arguments: str, **more: str) -> Any:
    environ = {"ENVIRONMENT": "development", "R2_BUCKET": "scoreline", "STORE_DIR": str(client.folder)} | more
    return CliRunner().invoke(cli, ["models", *arguments], env=environ)


def test_the_command_compares_refuses_and_shows_the_history(client: EagerClient) -> None:
    signing, verifying = signatures.generate_keys()
    publish(client, alias="champion")
    version = publish(client, "a")
    found = run(client, "alias", "churn", "champion", version)
    assert isinstance(found.exception, PromotionRefused)
    assert "it drops the feature 'b'" in str(found.exception)
    assert run(client, "alias", "churn", "champion", version, "--force").exit_code != 0
    found = run(
        client, "alias", "churn", "champion", version, "--force", "--reason", "b is gone", MODEL_SIGNING_KEY=signing
    )
    assert found.exit_code == 0, found.output
    assert f"churn@champion -> {version} (change 2)" in found.output
    assert "drops 'b'" in found.output
    assert all(len(line) <= 80 for line in found.output.splitlines())
    found = run(client, "alias", "churn", "champion", MODEL_VERIFY_KEYS=verifying)
    assert found.exit_code == 0, found.output
    text = " ".join(found.output.split())
    assert "forced" in text
    assert "b is gone" in text
    assert "signed by" in text
    for arguments in (("--reason", "x"), ("--force",), (version, "--rollback")):
        assert run(client, "alias", "churn", "champion", *arguments).exit_code == 2
    found = run(client, "alias", "churn", "champion", "--rollback", "--reason", "b is back")
    assert found.exit_code == 0, found.output
