"""Only bytes that are signed with a trusted key are signed again or unpickled."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from scoreline.storage import keys
from scoreline.storage.errors import InvalidRequest, InvalidSettings, ModelCorrupt, ModelUntrusted
from scoreline.storage.hashing import sha256_hex
from scoreline.storage.models import signatures
from scoreline.storage.models.local_cache import LocalCache
from scoreline.storage.models.manager import ModelStorageManager
from scoreline.storage.models.manifest import Artifact
from scoreline.storage.models.registry import ModelRegistry
from scoreline.storage.models.settings import ModelSettings
from scoreline.storage.objects.base import StoredObject
from scoreline.storage.objects.directory import DirectoryStore
from scoreline.worker.cli.main import cli
from tests.support.one_model import LINE

OLD, NEW, STRANGER = (signatures.generate_keys() for _ in range(3))


class Bucket:
    """A folder as an object store, used with the signing and the trusted keys that a test chooses."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = DirectoryStore(folder, "scoreline")

    def models(self, signing: str = "", *verifying: str) -> ModelStorageManager:
        settings = ModelSettings(signing_key=signing, verify_keys=verifying)
        return ModelStorageManager(self.store, cloud_only=False, use_r2=False, settings=settings)

    def sign(self, *words: str, signing: str = NEW[0], verifying: str = OLD[1], typed: str = "") -> Result:
        environ = {"ENVIRONMENT": "development", "STORE_DIR": str(self.folder)}
        keys_set = {"MODEL_SIGNING_KEY": signing, "MODEL_VERIFY_KEYS": verifying}
        return CliRunner(env=environ | keys_set).invoke(cli, ["models", "sign", *words], input=typed)


@pytest.fixture
def bucket(tmp_path: Path) -> Bucket:
    return Bucket(tmp_path / "store")


def sha256_of(bucket: Bucket, ref: str) -> str:
    return sha256_hex(bucket.store.get(keys.manifest(*ref.split("@"))).data)


def trusted_by_new(bucket: Bucket, ref: str) -> bool:
    try:
        bucket.models("", NEW[1]).registry.show(ref)
    except ModelUntrusted:
        return False
    return True


def test_a_version_that_a_trusted_key_signed_is_signed_again_at_once(bucket: Bucket) -> None:
    ref = bucket.models(OLD[0]).publish("m", LINE).ref
    assert not trusted_by_new(bucket, ref)
    assert bucket.sign(ref).stdout == f"signed {ref}\n"
    assert trusted_by_new(bucket, ref)
    assert bucket.models("", OLD[1]).registry.show(ref).ref == ref


def test_a_version_that_the_same_key_signed_stays_as_it_is(bucket: Bucket) -> None:
    ref = bucket.models(NEW[0]).publish("m", LINE).ref
    before = bucket.store.get(keys.signature(*ref.split("@"))).data
    assert bucket.sign(ref, verifying="").exit_code == 0
    assert bucket.store.get(keys.signature(*ref.split("@"))).data == before


@pytest.mark.parametrize("signed_by", ["", STRANGER[0]], ids=["unsigned", "by a stranger"])
@pytest.mark.parametrize("verifying", ["", OLD[1]], ids=["no keys", "keys"])
def test_a_version_without_a_trusted_signature_is_signed_only_by_its_digest(
    bucket: Bucket, signed_by: str, verifying: str
) -> None:
    ref = bucket.models(signed_by).publish("m", LINE).ref
    done = bucket.sign(ref, verifying=verifying)
    assert isinstance(done.exception, ModelUntrusted)
    assert "needs the SHA-256 of its manifest" in str(done.exception)
    done = bucket.sign(ref, "--sha256", "0" * 64, verifying=verifying)
    assert isinstance(done.exception, ModelUntrusted)
    assert not trusted_by_new(bucket, ref)
    assert bucket.sign(ref, "--sha256", sha256_of(bucket, ref), verifying=verifying).exit_code == 0
    assert trusted_by_new(bucket, ref)


def test_an_altered_version_with_the_signature_of_a_trusted_key_is_not_signed(bucket: Bucket) -> None:
    ref = bucket.models(OLD[0]).publish("m", LINE).ref
    key = keys.manifest(*ref.split("@"))
    altered = json.loads(bucket.store.get(key).data) | {"metadata": {"by": "a stranger"}}
    bucket.store.put(key, json.dumps(altered).encode())
    assert isinstance(bucket.sign(ref).exception, ModelUntrusted)


@pytest.mark.parametrize(
    ("typed", "signed"),
    [
        ("{version}\n{sha256}\n", True),
        ("20200101T000000Z-00000\n{sha256}\n", False),
        ("{version}\n" + "0" * 64 + "\n", False),
        ("{version}\n", False),
        ("y\ny\n", False),
    ],
)
def test_version_and_digest_can_be_typed(bucket: Bucket, typed: str, signed: bool) -> None:
    ref = bucket.models().publish("m", LINE).ref
    done = bucket.sign(ref, typed=typed.format(version=ref.partition("@")[2], sha256=sha256_of(bucket, ref)))
    assert (done.exit_code == 0, trusted_by_new(bucket, ref)) == (signed, signed)


@pytest.mark.parametrize("ref", ["m", "m@champion"])
def test_neither_an_alias_nor_the_newest_version_is_signed(bucket: Bucket, ref: str) -> None:
    published = bucket.models(OLD[0]).publish("m", LINE, alias="champion").ref
    done = bucket.sign(ref, "--sha256", sha256_of(bucket, published))
    assert isinstance(done.exception, InvalidRequest)
    assert "does not name a version" in str(done.exception)
    assert not trusted_by_new(bucket, published)


def test_a_digest_belongs_to_one_version(bucket: Bucket) -> None:
    ref = bucket.models(OLD[0]).publish("m", LINE).ref
    assert bucket.sign(ref, ref, "--sha256", "0" * 64).exit_code == 2


@pytest.mark.parametrize("value", [",", ", ,", " , ", ",\n,"])
def test_verify_keys_without_a_key_do_not_turn_the_verification_off(value: str) -> None:
    with pytest.raises(InvalidSettings, match="MODEL_VERIFY_KEYS contains no key"):
        ModelSettings.from_env({"MODEL_VERIFY_KEYS": value})
    assert ModelSettings.from_env({"MODEL_VERIFY_KEYS": f"{value}{OLD[1]}{value}{NEW[1]},"}).verify_keys == (
        OLD[1],
        NEW[1],
    )
    assert ModelSettings.from_env({"MODEL_VERIFY_KEYS": ""}).verify_keys == ()


def test_an_object_is_unpickled_only_if_its_digest_is_signed_or_given(bucket: Bucket) -> None:
    mine = bucket.models("", OLD[1])
    # The object is stored without a key, and its digest beside it
    sha256 = bucket.models().save("scaler.joblib", LINE)
    with pytest.raises(ModelUntrusted, match=r"is not signed by any key in MODEL_VERIFY_KEYS.* pass sha256="):
        mine.load_object("scaler.joblib")
    assert mine.load_object("scaler.joblib", sha256=sha256).coef_.tolist() == LINE.coef_.tolist()
    with pytest.raises(ModelCorrupt):
        mine.load_object("scaler.joblib", sha256="0" * 64)
    assert bucket.models().load_object("scaler.joblib").coef_.tolist() == LINE.coef_.tolist()
    # The object is stored with the signature of another key, and then with the signature of the trusted key
    bucket.models(STRANGER[0]).save("scaler.joblib", LINE)
    with pytest.raises(ModelUntrusted):
        mine.load_object("scaler.joblib")
    bucket.models(OLD[0]).save("scaler.joblib", LINE)
    assert mine.load_object("scaler.joblib").coef_.tolist() == LINE.coef_.tolist()


def test_the_signature_of_an_object_holds_at_its_own_key_and_for_its_own_bytes(bucket: Bucket) -> None:
    bucket.models(OLD[0]).save("scaler.joblib", LINE)
    stored = bucket.store.get("scaler.joblib")
    bucket.store.put("other.joblib", stored.data, metadata=dict(stored.info.metadata))
    with pytest.raises(ModelUntrusted):
        bucket.models("", OLD[1]).load_object("other.joblib")
    bucket.store.put("scaler.joblib", stored.data + b"x", metadata=dict(stored.info.metadata))
    with pytest.raises(ModelCorrupt):
        bucket.models("", OLD[1]).load_object("scaler.joblib")


@pytest.mark.parametrize("digest", ["../../victim", "/etc/passwd", "", "0" * 63, "0" * 64 + "\n", "A" * 64])
def test_a_digest_cannot_be_a_path_out_of_the_local_cache(tmp_path: Path, digest: str) -> None:
    (tmp_path / "victim").write_text("mine")
    cache = LocalCache(tmp_path / "a" / "cache", 1 << 20)
    made: dict[str, Any] = vars(Artifact.of("model", "model", b"x"))
    artifact = Artifact(**made | {"sha256": digest})
    for act in (cache.open, cache.path, cache.drop):
        with pytest.raises(ModelCorrupt, match="is not a SHA-256"):
            act(artifact)
    assert (tmp_path / "victim").read_text() == "mine"


def test_the_bytes_that_are_signed_are_those_that_a_trusted_key_has_signed(bucket: Bucket) -> None:
    # Given a bucket that returns the trusted manifest when the signature is checked, but another manifest for signing
    ref = bucket.models(OLD[0]).publish("m", LINE).ref
    manifest = keys.manifest(*ref.split("@"))
    evil = json.dumps(json.loads(bucket.store.get(manifest).data) | {"metadata": {"by": "a stranger"}}).encode()
    shown = [evil, evil]  # the first is for resolving the version, the second is the manifest to sign

    class Flipping(DirectoryStore):
        def get(self, key: str, **options: Any) -> StoredObject:
            stored = super().get(key, **options)
            return replace(stored, data=shown.pop(0)) if key == manifest and shown else stored

    registry = ModelRegistry(Flipping(bucket.folder, "scoreline"), verify_keys=(OLD[1],))
    with pytest.raises(ModelUntrusted):
        registry.sign(ref, NEW[0])
    assert not signed_by_new(bucket, ref, evil)


def signed_by_new(bucket: Bucket, ref: str, data: bytes) -> bool:
    stored = bucket.store.get(keys.signature(*ref.split("@"))).data.decode()
    return signatures.sign(data, NEW[0]) in stored


def test_an_empty_digest_is_not_accepted_for_an_object(bucket: Bucket) -> None:
    bucket.models().save("scaler.joblib", LINE)
    with pytest.raises(ModelCorrupt, match="differs from its recorded digest"):
        bucket.models("", OLD[1]).load_object("scaler.joblib", sha256="")
