"""Checks that models are protected by signatures, and that the models in use exist and can be loaded."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from scoreline.storage import keys
from scoreline.storage.errors import ModelNotFound, ModelUntrusted, ScorelineError, StoreUnavailable, describe
from scoreline.storage.models.manifest import Manifest
from scoreline.storage.models.skew_advice import SKEW_SETTING, advise
from scoreline.worker.doctor.check import Finding, error, ok, warning
from scoreline.worker.doctor.context import Context
from scoreline.worker.doctor.packages import installed_version

INSPECTION_S = 8.0
"""Seconds after which the remaining models are skipped, because a bucket may contain thousands of them."""
_MAX_NAMED = 5
_PUBLISH_AGAIN = "publish the model again and move its aliases to the new version"


def model_keys(context: Context) -> Iterator[Finding]:
    """Check that workers load signed models only."""
    trusted = context.models.verify_keys
    if trusted:
        yield ok(
            "workers load only models that are signed by "
            f"{'the key' if len(trusted) == 1 else f'one of the {len(trusted)} keys'} in MODEL_VERIFY_KEYS"
        )
        return
    yield warning(
        "MODEL_VERIFY_KEYS is not set: anyone who can write to the bucket can run code in the workers",
        "make keys with `scoreline models keygen`; set MODEL_SIGNING_KEY where models are published, and "
        "MODEL_VERIFY_KEYS here",
    )


def models(context: Context) -> Iterator[Finding]:
    """Inspect the models to be preloaded, and then the models in use.

    The versions in use are all versions that have an alias. If a model has no aliases, its newest version is in use.
    """
    inspection = _Inspection(context)
    for ref in context.worker.preload:
        yield from inspection.inspect(ref, preloaded=True)
    deadline = time.monotonic() + INSPECTION_S
    all_seen = True
    for name in context.registry.names():
        all_seen = not context.leaving.is_set() and time.monotonic() < deadline
        if not all_seen:
            break
        for ref in [f"{name}@{alias.name}" for alias in context.registry.aliases(name)] or [name]:
            yield from inspection.inspect(ref)
    yield from inspection.skewed()
    if inspection.passed:
        yield ok(inspection.summary(all_seen))


@dataclass
class _Inspection:
    """Inspects models one at a time, and collects the results."""

    context: Context
    installed: str | None = field(default_factory=lambda: installed_version("scikit-learn"))
    """The version of the installed scikit-learn; None if it is not installed."""
    passed: bool = True
    _seen: dict[str, int] = field(default_factory=dict)
    """Memory of each inspected model in bytes; 0 if it is not preloaded."""
    _skewed: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """Models that were saved by another version of scikit-learn, grouped by that version."""

    def inspect(self, ref: str, *, preloaded: bool = False) -> Iterator[Finding]:
        """Inspect one model. A fault is an error if the model is to be preloaded, and a warning otherwise."""
        if ref in self._seen:
            return
        self._seen[ref] = 0
        try:
            manifest = self.context.registry.show(ref)
        except StoreUnavailable:
            raise
        except ScorelineError as fault:
            yield self._wrong(f"{ref}: {describe(fault)}", _remedy(fault, preloaded), preloaded)
            return
        self._seen[ref] = manifest.memory_bytes if preloaded else 0
        if preloaded and (gone := self._incomplete(manifest)):
            yield self._wrong(f"{manifest.ref} lacks {gone}", _PUBLISH_AGAIN, preloaded)
        saved_by = manifest.libraries.get("scikit-learn", self.installed)
        if self.installed is None or saved_by == self.installed or self.context.models.allow_version_skew:
            return
        if preloaded:
            yield self._wrong(
                f"{ref} was saved by scikit-learn {saved_by}, but {self.installed} is installed",
                _skew_remedy(saved_by, self.installed),
                True,
            )
        else:
            self._skewed[str(saved_by)].append(ref)

    def skewed(self) -> Iterator[Finding]:
        """Yield a finding for each version of scikit-learn that saved models in use and is not installed."""
        for saved_by, refs in sorted(self._skewed.items()):
            named = ", ".join(refs[:_MAX_NAMED]) + (f" and {len(refs) - _MAX_NAMED} more" if refs[_MAX_NAMED:] else "")
            yield self._wrong(
                f"saved by scikit-learn {saved_by}, but {self.installed} is installed: {named}",
                _skew_remedy(saved_by, self.installed),
                False,
            )

    def summary(self, all_seen: bool) -> str:
        """Return the message of the finding if all models are sound."""
        preload = self.context.worker.preload
        size = sum(self._seen[ref] for ref in preload)
        text = f"{len(self._seen) or 'none'} in use" + ("" if all_seen else "; there was no time to inspect the others")
        if preload:
            text += f"; {len(preload)} to be preloaded, with {size / 2**20:,.0f} MiB"
        if self.context.models.verify_keys and not self.context.verifies:
            text += "; signatures were not checked, because cryptography is not installed"
        if self.installed is None:
            text += "; versions were not compared, because scikit-learn is not installed"
        return text

    def _incomplete(self, manifest: Manifest) -> str:
        """Return the names of the files that are missing or have the wrong size."""
        folder = keys.version_folder(manifest.name, manifest.version)
        sizes = {info.key.removeprefix(folder): info.size for info in self.context.store.list(folder)}
        return ", ".join(item.file for item in manifest.artifacts if sizes.get(item.file) != item.size)

    def _wrong(self, message: str, remedy: str, preloaded: bool) -> Finding:
        self.passed = False
        return error(f"PRELOAD_MODELS: {message}", remedy) if preloaded else warning(message, remedy)


def _remedy(fault: ScorelineError, preloaded: bool) -> str:
    if isinstance(fault, ModelUntrusted):
        return "sign it with `scoreline models sign`, or add the key that signed it to MODEL_VERIFY_KEYS"
    if isinstance(fault, ModelNotFound):
        return f"publish it, or correct {'PRELOAD_MODELS' if preloaded else 'the alias'}"
    return f"find out what is wrong with `scoreline models verify`; {_PUBLISH_AGAIN}"


def _skew_remedy(saved_by: str | None, installed: str | None) -> str:
    return f"{advise(str(saved_by), str(installed))}, or {SKEW_SETTING}"
