"""Whether models are protected, and those in use are there and can be loaded here."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from scoreline.storage import keys
from scoreline.storage.errors import ModelNotFound, ModelUntrusted, ScorelineError, StoreUnavailable, describe
from scoreline.storage.models.manifest import Manifest
from scoreline.worker.doctor.base import Finding, error, ok, warning
from scoreline.worker.doctor.packages import installed_version
from scoreline.worker.doctor.setup import Setup

LOOKING_S = 8.0
"""A bucket may have thousands of models: what is not seen by then is left out, and said to be."""
_NAMED = 5


def model_keys(setup: Setup) -> Iterator[Finding]:
    """Whether only signed models are loaded."""
    trusted = setup.models.verify_keys
    if trusted:
        yield ok(
            f"a model has to be signed by {'the key' if len(trusted) == 1 else f'one of the {len(trusted)} keys'} "
            "in MODEL_VERIFY_KEYS"
        )
        return
    yield warning(
        "MODEL_VERIFY_KEYS is not set: whoever can write the bucket can run code in the workers",
        "`scoreline models keygen`; MODEL_SIGNING_KEY where models are published, MODEL_VERIFY_KEYS here",
    )


def models(setup: Setup) -> Iterator[Finding]:
    """Look at the models to be preloaded, then at those in use: what aliases name, else the newest version."""
    tour = _Tour(setup)
    for ref in setup.worker.preload:
        yield from tour.visit(ref, preloaded=True)
    deadline = time.monotonic() + LOOKING_S
    all_seen = True
    for name in setup.registry.names():
        all_seen = not setup.leaving.is_set() and time.monotonic() < deadline
        if not all_seen:
            break
        for ref in [f"{name}@{alias.name}" for alias in setup.registry.aliases(name)] or [name]:
            yield from tour.visit(ref)
    yield from tour.skewed()
    if tour.right:
        yield ok(tour.summary(all_seen))


@dataclass
class _Tour:
    """A look at one model after another."""

    setup: Setup
    here: str | None = field(default_factory=lambda: installed_version("scikit-learn"))
    """The installed scikit-learn."""
    right: bool = True
    _seen: dict[str, int] = field(default_factory=dict)
    """Memory in bytes, by model."""
    _others: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """Models by the scikit-learn that saved them, where that is not the one here."""

    def visit(self, ref: str, *, preloaded: bool = False) -> Iterator[Finding]:
        """Look at one model; what is wrong with one that is to be preloaded is an error."""
        if ref in self._seen:
            return
        self._seen[ref] = 0
        try:
            manifest = self.setup.registry.show(ref)
        except StoreUnavailable:
            raise
        except ScorelineError as fault:
            yield self._wrong(f"{ref}: {describe(fault)}", _remedy(fault, preloaded), preloaded)
            return
        self._seen[ref] = manifest.memory_bytes if preloaded else 0
        if preloaded and (gone := self._incomplete(manifest)):
            yield self._wrong(f"{manifest.ref} lacks {gone}", "publish it again, and let aliases name that", preloaded)
        saved_by = manifest.libraries.get("scikit-learn", self.here)
        if self.here is None or saved_by == self.here or self.setup.models.allow_version_skew:
            return
        if preloaded:
            yield self._wrong(
                f"{ref} was saved by scikit-learn {saved_by}, here is {self.here}", _way_out(saved_by), True
            )
        else:
            self._others[str(saved_by)].append(ref)

    def skewed(self) -> Iterator[Finding]:
        """Name the models that this scikit-learn did not save."""
        for saved_by, refs in sorted(self._others.items()):
            named = ", ".join(refs[:_NAMED]) + (f" and {len(refs) - _NAMED} more" if refs[_NAMED:] else "")
            yield self._wrong(
                f"saved by scikit-learn {saved_by}, here is {self.here}: {named}", _way_out(saved_by), False
            )

    def summary(self, all_seen: bool) -> str:
        """Say what was seen."""
        preload = self.setup.worker.preload
        size = sum(self._seen[ref] for ref in preload)
        said = f"{len(self._seen) or 'none'} in use" + (
            "" if all_seen else ", the others were left out for want of time"
        )
        if preload:
            said += (
                f"; {len(preload)} to be preloaded {'takes' if len(preload) == 1 else 'take'} {size / 2**20:,.0f} MiB"
            )
        if self.setup.models.verify_keys and not self.setup.verifies:
            said += "; cryptography is not here: signatures were not checked"
        return said + ("; scikit-learn is not here: versions were not compared" if self.here is None else "")

    def _incomplete(self, manifest: Manifest) -> str:
        folder = keys.version_folder(manifest.name, manifest.version)
        sizes = {info.key.removeprefix(folder): info.size for info in self.setup.store.list(folder)}
        return ", ".join(item.file for item in manifest.artifacts if sizes.get(item.file) != item.size)

    def _wrong(self, message: str, remedy: str, preloaded: bool) -> Finding:
        self.right = False
        return error(f"PRELOAD_MODELS: {message}", remedy) if preloaded else warning(message, remedy)


def _remedy(fault: ScorelineError, preloaded: bool) -> str:
    if isinstance(fault, ModelUntrusted):
        return "`scoreline models sign`, or let MODEL_VERIFY_KEYS name the key that signed it"
    if isinstance(fault, ModelNotFound):
        return f"publish it, or mend {'PRELOAD_MODELS' if preloaded else 'the alias'}"
    return "`scoreline models verify` says what is wrong with it; publish it again, and let aliases name that"


def _way_out(saved_by: str | None) -> str:
    return f"pin scikit-learn=={saved_by}, publish again with the one here, or set ML_ALLOW_VERSION_SKEW=true"
