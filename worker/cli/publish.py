"""``scoreline models publish``: stores a new version of a model."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scoreline.storage.errors import InvalidRequest
from scoreline.storage.hashing import is_sha256_hex, sha256_hex
from scoreline.storage.models import roles
from scoreline.storage.models.attachments import CHECKS
from scoreline.storage.models.contents import Content, open_file
from scoreline.storage.models.manifest import Role
from scoreline.storage.process_memory import return_large_blocks
from scoreline.storage.tables.options import READ_OPTIONS
from scoreline.tasks.job.submit_options import SubmitOptions, read_options_from
from scoreline.tasks.quality.checks.checks_file import decode, read_checks
from scoreline.worker.cli.help import Command
from scoreline.worker.cli.job_options import job_options
from scoreline.worker.cli.model_access import model_manager, read_baseline
from scoreline.worker.cli.model_view import echo_understanding
from scoreline.worker.cli.output import echo
from scoreline.worker.cli.publish_progress import ending_on_signals, publishing_bar

if TYPE_CHECKING:
    from scoreline.storage.models.trial_load import NewArtifact, TrialLoad


@click.command(
    cls=Command,
    epilog="""\
scoreline models publish churn --model model.joblib --alias champion
scoreline models publish churn --model model.joblib \\
    --preprocessor scaler.joblib --label-encoder labels.joblib
scoreline models publish churn --model rf=forest.joblib --model lr=line.joblib
scoreline models publish churn --from-bucket model=old/rf.joblib \\
    --from-bucket preprocessor=old/scaler.joblib
scoreline models publish churn --model model.joblib \\
    --baseline train.parquet --target churned
scoreline models publish churn --model model.joblib \\
    --baseline train.csv --delimiter ';' --decimal ,
""",
)
@click.argument("name")
@click.option(
    "--model",
    multiple=True,
    metavar="[NAME=]PATH",
    help="Publish the fitted estimator in this joblib or pickle file. If repeated, all estimators score the same rows, "
    "each into columns such as NAME_prediction and NAME_proba_CLASS.",
)
@click.option(
    "--preprocessor",
    multiple=True,
    metavar="[NAME=]PATH",
    help="Transform the rows with the fitted transformer in this file before they are scored. If repeated, the "
    "transformers run in this order.",
)
@click.option(
    "--label-encoder",
    metavar="PATH",
    help="Translate the predictions of classifiers back into labels with the fitted LabelEncoder in this file.",
)
@click.option(
    "--from-bucket",
    multiple=True,
    metavar="ROLE=KEY",
    help="Publish an object that is in a bucket, given by its key or as s3://bucket/key. ROLE is model, model:NAME "
    "(or just the NAME of a model), preprocessor, preprocessor:NAME or label_encoder. May be repeated.",
)
@click.option(
    "--sha256",
    multiple=True,
    metavar="[NAME=]DIGEST",
    help="Publish only if the file of this NAME has this SHA-256; NAME may be left out if there is one file. Required "
    "for each --from-bucket if MODEL_SIGNING_KEY is set. May be repeated.",
)
@click.option(
    "--checks",
    metavar="FILE",
    help="Hold the jobs of this version against the checks in this file, checks.toml. It is compared with the features "
    "and the outputs of the model.",
)
@click.option(
    "--baseline",
    metavar="FILE|URI",
    help="Profile this training data: a local file, or objects in a bucket (s3://bucket/key), as Parquet, CSV, JSON "
    "Lines or Arrow. The profile of features and scores is stored with the version; no row is.",
)
@click.option(
    "--target",
    metavar="COL",
    help="Compute metrics on this column of the baseline, which has the labels or numbers to predict.",
)
@click.option(
    "--hide-values",
    multiple=True,
    metavar="COL",
    help="Store no value of this feature in the baseline, only counts, mean and deviation. May be repeated.",
)
@job_options(SubmitOptions, READ_OPTIONS)
@click.option("--alias", metavar="ALIAS", help="Let this alias name the new version, for example champion.")
@click.option(
    "--metadata",
    multiple=True,
    metavar="KEY=VALUE",
    help="Store this text in the manifest of the version. May be repeated.",
)
def publish(
    name: str,
    model: tuple[str, ...],
    preprocessor: tuple[str, ...],
    label_encoder: str | None,
    from_bucket: tuple[str, ...],
    sha256: tuple[str, ...],
    checks: str | None,
    baseline: str | None,
    target: str | None,
    hide_values: tuple[str, ...],
    alias: str | None,
    metadata: tuple[str, ...],
    **reading: Any,
) -> None:
    """Publish a new version of a model.

    Stores one or more estimators, with their preprocessors and label encoder, as one version of model NAME. All files
    of a version are loaded together. A new process loads the files as a trial while they are uploaded. If the trial
    fails, the uploaded files are deleted. Loading runs code, so publish only files that you trust. On Linux with user
    namespaces, the trial process has no access to keys or the network. Elsewhere, as in most containers, the trial
    process has this access, and a warning is printed. A file with --sha256 is read once before it is loaded.

    With --baseline, the model is also loaded in this process and scores the training data, as `scoreline submit
    --dry-run` does. The text values of features are stored, unless --hide-values names them. The training data are read
    with the reading options of `scoreline submit`, from --format to --types.

    If MODEL_SIGNING_KEY is set, the version is signed. The reference NAME@VERSION is printed on standard output. What
    was understood is printed on standard error: roles, features, outputs, baseline, metrics and checks, and the SHA-256
    of the manifest, which `scoreline models sign` needs. This command needs the packages of ml-requirements.txt.
    """
    return_large_blocks()
    manager = model_manager()
    files = [*_from_files("model", "model", model), *_from_files("preprocessor", "preprocessor", preprocessor)]
    if label_encoder is not None:
        files += _from_files("label_encoder", "label_encoder", (label_encoder,))
    pairs: dict[str, object] = dict(_pair("--metadata", item) for item in metadata)
    adopted = {}
    for item in from_bucket:
        text, key = _pair("--from-bucket", item)
        role, artifact = _role(text)
        found = manager.find_file(key)
        adopted[artifact] = found.uri
        files.append(_artifact(role, artifact, found, found.uri))
    files = _with_digests(files, sha256, required=set(adopted) if manager.signs else set())
    if adopted:
        pairs["adopted_from"] = adopted
    attachments = {} if checks is None else {CHECKS: _read_checks(checks)}

    with ending_on_signals(), publishing_bar(sum(item.content.size or 0 for item in files)) as progress:
        loaded: list[TrialLoad] = []
        manifest = manager.publish_files(
            name,
            files,
            alias=alias,
            metadata=pairs,
            progress=progress,
            on_loaded=loaded.append,
            baseline=baseline,
            target=target,
            hide_values=hide_values,
            read=read_options_from(reading),
            attachments=attachments,
        )
    _show_roles(files, loaded[0].estimators)
    echo_understanding(manifest, read_baseline(manager.registry, manifest), loaded[0].notes)
    echo(f"SHA-256 of the manifest: {sha256_hex(manifest.to_json())}", err=True)
    click.echo(manifest.ref)


def _read_checks(path: str) -> bytes:
    """Return the content of a file of checks; raises an error if it has faults, before anything is uploaded."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise click.BadParameter(f"cannot read {path}: {error.strerror}", param_hint="--checks") from None
    read_checks(decode(data, path), path)
    return data


def _with_digests(files: Sequence[NewArtifact], given: Iterable[str], required: Collection[str]) -> list[NewArtifact]:
    """Return the files with the digests that the user gives; raises `InvalidRequest` if one is missing.

    Parameters
    ----------
    required : collection of str
        Names of the files that need a digest. Files from a bucket need a digest if the version will be signed.
    """
    digests = {}
    for text in given:
        name, _, digest = text.rpartition("=")
        if not name and len(files) > 1:
            raise click.BadParameter(f"{text!r} does not name one of several files: NAME=DIGEST", param_hint="--sha256")
        digest = digest.strip().lower()
        if not is_sha256_hex(digest):
            raise click.BadParameter(f"{text!r} is not [NAME=]DIGEST with 64 hexadecimal digits", param_hint="--sha256")
        digests[name or files[0].name if files else name] = digest
    if unknown := sorted(digests.keys() - {item.name for item in files}):
        raise click.BadParameter(f"there is no file named {', '.join(map(repr, unknown))}", param_hint="--sha256")
    for item in files:
        if item.name in required and item.name not in digests:
            raise InvalidRequest(
                f"{item.source} would be signed as it is in the bucket now: say with --sha256 {item.name}=DIGEST which "
                "SHA-256 it must have"
            )
    return [replace(item, sha256=digests.get(item.name)) for item in files]


def _show_roles(files: Iterable[NewArtifact], estimators: Mapping[str, str]) -> None:
    """Print the role, name and class of each file, in the order in which the files process rows."""
    order: tuple[Role, ...] = ("preprocessor", "model", "label_encoder")
    for item in sorted(files, key=lambda item: order.index(item.role)):
        named = "" if item.role == "label_encoder" else f" {item.name!r}"
        echo(f"{item.role.replace('_', ' ')}{named}: {estimators.get(item.name)} in {item.source}", indent=2, err=True)


def _from_files(role: Role, default: str, items: Iterable[str]) -> list[NewArtifact]:
    """Read artifacts from arguments of the form ``[NAME=]PATH``."""
    files = []
    for number, item in enumerate(items, 1):
        given, _, path = item.rpartition("=")
        if given and Path(item).is_file():  # the name of the file itself contains an equals sign
            given, path = "", item
        name = given or (default if number == 1 else f"{default}_{number}")
        try:
            files.append(_artifact(role, name, open_file(Path(path)), path))
        except OSError as error:
            raise click.BadParameter(
                f"cannot read {path}: {error.strerror}", param_hint=f"--{role.replace('_', '-')}"
            ) from None
    return files


def _role(text: str) -> tuple[Role, str]:
    """Return the role and the name of an artifact from the left side of ``--from-bucket``."""
    role, colon, name = text.partition(":")
    if role == "model":
        return "model", name or role
    if role == "preprocessor":
        return "preprocessor", name or role
    if text == "label_encoder":
        return "label_encoder", text
    roles.check_names([(role, name)] if colon else [("model", text)])
    return "model", text


def _pair(option: str, item: str) -> tuple[str, str]:
    name, equals, value = item.partition("=")
    if not (name and equals and value):
        raise click.BadParameter(f"{item!r} is not of the form NAME=VALUE", param_hint=option)
    return name, value


def _artifact(role: Role, name: str, data: Content, source: str) -> NewArtifact:
    from scoreline.storage.models.trial_load import NewArtifact

    return NewArtifact(role=role, name=name, data=data, source=source)
