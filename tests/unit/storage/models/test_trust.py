"""Only versions that were pinned, or signed by a trusted key, are loaded. The unpickler gets no bytes of other
versions."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
from sklearn.linear_model import LinearRegression

from scoreline.storage import keys
from scoreline.storage.errors import InvalidRequest, ModelCorrupt, ModelInUse, ModelUntrusted
from scoreline.storage.models import signatures
from scoreline.storage.models.bundle import dump
from scoreline.storage.models.manager import ModelStorageManager
from scoreline.storage.models.manifest import PinnedModel
from scoreline.storage.models.publisher import Publisher
from scoreline.storage.models.registry import ModelRegistry
from scoreline.storage.models.trial_load import NewArtifact
from scoreline.storage.objects.directory import DirectoryStore

SIGNING, VERIFY = signatures.generate_keys()
OTHER_SIGNING, OTHER_VERIFY = signatures.generate_keys()
FILES = [NewArtifact(role="model", name="model", data=dump(LinearRegression().fit([[0.0], [1.0]], [0.0, 2.0])))]


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(tmp_path, "data")


@pytest.fixture
def publish(store: DirectoryStore) -> Callable[..., PinnedModel]:
    """Return a function that publishes a model, and returns its newest version, pinned."""

    def publish(name: str = "m", signing_key: str = SIGNING) -> PinnedModel:
        Publisher(store, signing_key=signing_key, try_here=True).publish(name, FILES, {})
        return ModelRegistry(store).resolve(name)

    return publish


def trusting(store: DirectoryStore, *verify_keys: str) -> ModelRegistry:
    return ModelRegistry(store, verify_keys=verify_keys or (VERIFY,))


def test_a_version_that_a_trusted_key_has_signed_is_loaded(
    store: DirectoryStore, publish: Callable[..., PinnedModel]
) -> None:
    pinned = publish()
    assert trusting(store).manifest(pinned).ref == pinned.ref
    assert trusting(store, OTHER_VERIFY, VERIFY).signer(pinned) == signatures.sign(b"", SIGNING).partition(" ")[0]
    assert ModelRegistry(store).signer(pinned) is None


@pytest.mark.parametrize(
    ("forge", "reason"),
    [
        (lambda line, manifest: None, "is not signed"),
        (lambda line, manifest: b"", "is signed by no key"),
        (lambda line, manifest: signatures.sign(manifest, OTHER_SIGNING).encode(), "but not by any key in"),
        (lambda line, manifest: signatures.sign(b"another", SIGNING).encode(), "does not match its manifest"),
        (lambda line, manifest: line[:9] + b"AAAA\n", "does not match its manifest"),
        (lambda line, manifest: line[:9] + b"not base64\n", "does not match its manifest"),
    ],
    ids=["none", "an empty one", "of another key", "of another manifest", "too short", "no base64"],
)
def test_a_version_without_a_good_signature_is_refused(
    store: DirectoryStore,
    publish: Callable[..., PinnedModel],
    forge: Callable[[bytes, bytes], bytes | None],
    reason: str,
) -> None:
    pinned = publish()
    key = keys.signature(pinned.name, pinned.version)
    forged = forge(store.get(key).data, store.get(keys.manifest(pinned.name, pinned.version)).data)
    store.delete(key) if forged is None else store.put(key, forged)
    with pytest.raises(ModelUntrusted, match=reason):
        trusting(store).manifest(pinned)


def test_a_manifest_that_was_altered_or_copied_is_refused(
    store: DirectoryStore, publish: Callable[..., PinnedModel]
) -> None:
    pinned = publish()
    key = keys.manifest(pinned.name, pinned.version)
    data = store.get(key).data
    # Given a copy of a manifest and its signature under the name of another model
    for name in ("manifest.json", "manifest.sig"):
        store.put(f"models/other/{pinned.version}/{name}", store.get(f"models/m/{pinned.version}/{name}").data)
    with pytest.raises(ModelCorrupt, match=f"names {pinned.ref}: was it copied"):
        trusting(store).show(f"other@{pinned.version}")
    # And a manifest that was altered after it was pinned, if signatures are not required
    store.put(key, data.replace(b'"n_features": 1', b'"n_features": 2'))
    with pytest.raises(ModelCorrupt, match="was altered after it was pinned"):
        ModelRegistry(store).manifest(pinned)


@pytest.mark.parametrize(
    ("kind", "key", "reason"),
    [
        ("verify", SIGNING, "this is a signing key, but a verify key is needed"),
        ("signing", VERIFY, "this is a verify key, but a signing key is needed"),
        ("verify", VERIFY[:-1], "this is not a verify key"),
        ("verify", "hush", "this is not a verify key"),
    ],
    ids=["signing for verify", "verify for signing", "cut short", "anything"],
)
def test_a_key_of_another_kind_is_refused_and_not_shown(kind: str, key: str, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason) as caught:
        signatures.check_key(kind, key)
    assert key not in str(caught.value)


class Bomb:
    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return pytest.fail, ("it was unpickled",)


def test_an_object_is_unpickled_only_if_its_digest_is_known_and_right(store: DirectoryStore) -> None:
    models = ModelStorageManager(store, cloud_only=True, use_r2=False, try_here=True)
    sha256 = models.save("a", LinearRegression())
    assert isinstance(models.load_object("a", sha256=sha256), LinearRegression)
    bomb = pickle.dumps(Bomb())
    store.put("b", bomb)
    with pytest.raises(ModelCorrupt, match="has no recorded digest"):
        models.load_object("b")
    store.put("b", bomb, metadata={"sha256": sha256})
    with pytest.raises(ModelCorrupt, match="so it was not unpickled"):
        models.load_object("b")


def test_an_alias_that_is_set_while_its_version_is_deleted_keeps_the_version(
    store: DirectoryStore, publish: Callable[..., PinnedModel]
) -> None:
    pinned, registry = publish(), ModelRegistry(store)
    first = [True]

    def check_unused(_: PinnedModel) -> None:
        if first:
            first.pop()
            registry.alias("m", "champion", pinned.version)

    with pytest.raises(ModelInUse, match="is named by champion"):
        registry.delete(pinned, check_unused)
    assert registry.resolve("m@champion") == pinned
    assert registry.manifest(pinned).ref == pinned.ref


def test_a_version_that_a_job_uses_is_not_deleted(store: DirectoryStore, publish: Callable[..., PinnedModel]) -> None:
    pinned, registry = publish(), ModelRegistry(store)
    answers = [None, ModelInUse("job j scores with it")]  # a job begins just after the first check

    def check_unused(_: PinnedModel) -> None:
        if (answer := answers.pop(0)) is not None:
            raise answer

    with pytest.raises(ModelInUse, match="job j"):
        registry.delete(pinned, check_unused)
    assert registry.manifest(pinned).ref == pinned.ref
