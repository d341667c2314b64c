"""``scoreline models convert``: converts models of another version of scikit-learn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from scoreline.storage.errors import InvalidRequest, require_extra
from scoreline.storage.wording import plural
from scoreline.worker.cli.help import Command
from scoreline.worker.cli.output import echo

_MAX_ROWS = 10_000


@click.command(
    cls=Command,
    epilog="""\
scoreline models convert old.joblib --sample rows.parquet --output new.joblib
scoreline models convert old.joblib --sample rows.csv --output new.joblib \\
    --with lightgbm==4.3.0
""",
)
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--sample",
    required=True,
    type=click.Path(path_type=Path),
    help="Rows to verify the model with, as Parquet, CSV or JSON Lines.",
)
@click.option("--output", required=True, type=click.Path(path_type=Path), help="File to write. It must not exist.")
@click.option(
    "--with", "extra", multiple=True, help="Another package that the model needs, such as lightgbm==4.3.0. Repeatable."
)
def convert(model: Path, sample: Path, output: Path, extra: tuple[str, ...]) -> None:
    """Convert a model that another version of scikit-learn saved.

    MODEL is loaded with the installed version. Loading MODEL runs the code in the file. The sample is scored with both
    versions of scikit-learn. For the old version, uv creates an environment. OUTPUT is written only if the results are
    equal.

    If the model cannot be converted, the command prints the reason.
    """
    if missing := [path for path in (model, sample) if not path.is_file()]:
        raise InvalidRequest(f"{missing[0]} is not a file")
    if output.exists():
        raise InvalidRequest(f"{output} exists: choose another name")
    with require_extra("models convert"):
        import pandas as pd

        from scoreline.storage.models.conversion import convert as convert_model
    readers: dict[str, Any] = {
        ".parquet": pd.read_parquet,
        ".csv": pd.read_csv,
        ".jsonl": lambda path: pd.read_json(path, lines=True),
    }
    if sample.suffix not in readers:
        raise InvalidRequest(f"{sample} is not Parquet, CSV or JSON Lines: name it .parquet, .csv or .jsonl")
    frame = readers[sample.suffix](sample)[:_MAX_ROWS]
    values = {str(name): frame[name].astype(object).where(frame[name].notna(), None).tolist() for name in frame}
    done = convert_model(model.read_bytes(), str(model), values, extra)
    output.write_bytes(done.data)
    echo(
        f"{output}: {', '.join(done.methods)} as scikit-learn {done.saved_by} on all of {plural(done.rows, 'row')}",
        indent=2,
    )
