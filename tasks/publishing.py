"""Publishes models with a baseline: the public `ModelStorageManager`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scoreline.storage.errors import InvalidRequest
from scoreline.storage.hashing import sha256_hex
from scoreline.storage.models import manager
from scoreline.storage.models.aliases import Alias
from scoreline.storage.models.attachments import BASELINE, CHECKS, Measured
from scoreline.storage.models.manifest import Manifest
from scoreline.storage.models.publisher import Measure, Progress
from scoreline.storage.models.trial_load import NewArtifact, TrialLoad
from scoreline.storage.tables.options import ReadOptions
from scoreline.tasks.quality.challengers.challenger_runs import newest_comparison
from scoreline.tasks.quality.challengers.comparison import Comparison
from scoreline.tasks.quality.challengers.promotion import promote
from scoreline.tasks.quality.checks.checks_file import decode, read_checks
from scoreline.tasks.quality.checks.model_checks import check_for_model

if TYPE_CHECKING:
    import pandas as pd


class ModelStorageManager(manager.ModelStorageManager):
    """Publishes models to object storage, with a baseline of their training data, and loads them from there.

    The parameters and all other methods are those of `scoreline.storage.models.manager.ModelStorageManager`.
    """

    arguments = (*manager.ModelStorageManager.arguments, "baseline", "target", "hide_values", "read")

    def publish(
        self,
        name: str,
        model: Any,
        preprocessor: Any = None,
        label_encoder: Any = None,
        alias: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        *,
        attachments: Mapping[str, bytes] | None = None,
        measure: Measure | None = None,
        baseline: str | Path | pd.DataFrame | None = None,
        target: str | None = None,
        hide_values: Sequence[str] = (),
        read: ReadOptions | None = None,
        **unknown: Any,
    ) -> Manifest:
        """Store a new version of a bundle and return its manifest.

        A fresh process loads the bundle before the version exists, so that no version is published that workers cannot
        load. Each object is encoded while it is uploaded, so its bytes are never in memory as a whole.

        Parameters
        ----------
        name : str
            Name of the bundle.
        model : estimator or mapping of str to estimator
            A fitted model, or several models that score the same rows, by name.
        preprocessor : transformer or sequence of transformer, optional
            Fitted preprocessors. The ``transform`` methods of the preprocessors run before every model, in the given
            order.
        label_encoder : LabelEncoder, optional
            A fitted encoder. The ``inverse_transform`` method of the encoder runs after every classifier.
        alias : str, optional
            Alias that will name the new version, such as ``champion``. If it names a version already, the rules of
            `alias` apply, once the new version is published.
        metadata : mapping, optional
            Any values that JSON supports.
        attachments : mapping of str to bytes, optional
            Small files to store beside the manifest, by name, for example ``checks.toml``. Each may have 100,000 bytes.
        measure : callable, optional
            Returns further attachments and metrics of the version (see `Publisher.publish`).
        baseline : str, Path or DataFrame, optional
            Training data: a local file, a URI such as ``s3://bucket/train.parquet``, or a DataFrame. The version is
            loaded in this process and scores the data. Their profile, but no row, is stored with the version.
        target : str, optional
            Column of the baseline with what the models were fitted to predict. The manifest then contains metrics.
        hide_values : sequence of str
            Features of which no value is stored, only counts, mean and standard deviation.
        read : ReadOptions, optional
            How the objects of the baseline are read, with the options of a job.

        Raises
        ------
        InvalidRequest
            The bundle cannot score rows, its steps do not fit together, or a name is not valid. A keyword argument that
            does not exist, such as ``scaler=``, is refused with the one that was meant.
        InputError
            The baseline cannot be read, or its columns are not those of the model.
        ModelUnloadable
            A fresh process cannot load the bundle.
        """
        return super().publish(
            name,
            model,
            preprocessor,
            label_encoder,
            alias,
            metadata,
            attachments=attachments,
            measure=_with_checks(attachments, self._with_baseline(measure, baseline, target, hide_values, read)),
            **unknown,
        )

    def publish_files(
        self,
        name: str,
        files: Sequence[NewArtifact],
        alias: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        progress: Progress | None = None,
        *,
        attachments: Mapping[str, bytes] | None = None,
        measure: Measure | None = None,
        on_loaded: Callable[[TrialLoad], None] | None = None,
        baseline: str | Path | pd.DataFrame | None = None,
        target: str | None = None,
        hide_values: Sequence[str] = (),
        read: ReadOptions | None = None,
    ) -> Manifest:
        """Store joblib or pickle files as a new version (see `publish`).

        The files are unpickled in another process, and in this one if there is a baseline.
        """
        return super().publish_files(
            name,
            files,
            alias,
            metadata,
            progress,
            attachments=attachments,
            measure=_with_checks(attachments, self._with_baseline(measure, baseline, target, hide_values, read)),
            on_loaded=on_loaded,
        )

    def alias(self, name: str, alias: str, version: str, *, force: bool = False, reason: str = "") -> Alias:
        """Set `alias` to `version`, unless this would change results or break a rule of ``promote`` in ``checks.toml``.

        Parameters
        ----------
        force : bool
            Whether to set the alias in any case. Then a reason is needed.
        reason : str
            Why the alias is set, for its history and the audit.

        Raises
        ------
        PromotionRefused
            The alias may not be moved; the message has every reason.
        """
        return promote(self.registry, name, alias, version, self._find_run, force=force, reason=reason).alias

    def _find_run(self, champion: str, challenger: str) -> Comparison | None:
        return None if self._buckets is None else newest_comparison(self._buckets, champion, challenger)

    def _with_baseline(
        self,
        measure: Measure | None,
        baseline: str | Path | pd.DataFrame | None,
        target: str | None,
        hide_values: Sequence[str],
        read: ReadOptions | None,
    ) -> Measure | None:
        """Return a function that also makes the baseline, if there is one."""
        read = ReadOptions() if read is None else read.check()
        if baseline is None:
            given = {"target": target is not None, "hide_values": hide_values, "read": read != ReadOptions()}
            if option := next((name for name, is_given in given.items() if is_given), ""):
                raise InvalidRequest(f"{option} needs a baseline: give the training data as well")
            return measure
        from scoreline.tasks.steps.profile_baseline import TrainingData, measure_baseline  # pandas takes a second

        data = TrainingData(source=baseline, target=target, hidden=tuple(hide_values), read=read)

        def with_baseline(manifest: Manifest) -> Measured:
            more = measure(manifest) if measure is not None else Measured()
            if BASELINE in more.attachments:
                raise InvalidRequest(f"the attachment {BASELINE} is made from the baseline: leave it out")
            sha256 = sha256_hex(manifest.to_json())
            made = measure_baseline(
                data, manifest, lambda: self.load_manifest(manifest, sha256), self._store, self._buckets
            )
            return Measured(
                attachments={**more.attachments, **made.attachments}, metrics={**more.metrics, **made.metrics}
            )

        return with_baseline


def _with_checks(attachments: Mapping[str, bytes] | None, measure: Measure | None) -> Measure | None:
    """Return a function that also compares ``checks.toml``, if it is attached, with the features and outputs.

    Raises
    ------
    InvalidRequest
        The file has faults. Columns are compared when the function is called.
    """
    data = (attachments or {}).get(CHECKS)
    if data is None:
        return measure
    read_checks(decode(data))

    def with_checks(manifest: Manifest) -> Measured:
        check_for_model(data, manifest)
        return Measured() if measure is None else measure(manifest)

    return with_checks
