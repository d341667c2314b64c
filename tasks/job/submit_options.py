"""The options of a job, with their types and descriptions in one place.

`Client.submit`, `scoreline submit`, the message ``scoreline.submit`` and ``schedules.toml`` all read the options from
here, so that all of them accept the same options. If an option is missing or None, the default of `JobSpec` or
`ReadOptions` applies.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, TypedDict, get_type_hints

from scoreline.storage.errors import InvalidRequest
from scoreline.storage.models.manifest import METHODS
from scoreline.storage.tables.options import FORMATS, READ_OPTIONS, TYPES, ReadOptions, read_options
from scoreline.tasks.job.labels import check_labels
from scoreline.tasks.job.load_options import MODES
from scoreline.tasks.job.source_options import staged_input
from scoreline.tasks.job.spec import PRIORITIES, JobSpec
from scoreline.tasks.job.uris import parse_uri

Kind = Literal["text", "names", "types", "count", "flag", "character", "labels", "file", "pair"]
"""The kind of a value: a text, several names, types by column, a number of at least 1, a switch, one character, labels,
a text that the command line reads from a file, or two texts."""


@dataclass(frozen=True, kw_only=True)
class Option:
    """The description of an option, for every place where a user may set it.

    Parameters
    ----------
    help : str
        The help text in the command line.
    kind : Kind
        The kind of the option's value.
    metavar : str
        Placeholder for the value in the help.
    default : str
        The default as the command line shows it; empty if `help` already states the default.
    choices : tuple of str
        The allowed texts; if empty, any text is allowed.
    flag : str
        The option's name in the command line, if it differs from the name of the field.
    """

    help: str
    kind: Kind = "text"
    metavar: str = ""
    default: str = ""
    choices: tuple[str, ...] = ()
    flag: str = ""


class RecordsOptions(TypedDict, total=False):
    """The options of `submit_records`. Every job has these options.

    Unless `max_rejected` is set, `submit_records` lets any number of records be rejected.
    """

    output: Annotated[
        str | None,
        Option(
            help="Write the results below this prefix, s3://bucket/prefix/.", metavar="URI", default="results/<model>/"
        ),
    ]
    method: Annotated[
        str | None,
        Option(
            help="Score with this method of the estimator alone.", choices=METHODS, default="the estimator's usual ones"
        ),
    ]
    keep: Annotated[
        str | Sequence[str] | None,
        Option(
            help="Carry these input columns over into the results. 'all' means every column that is neither a feature "
            "nor nested.",
            metavar="all|none|A,B",
            default="all",
        ),
    ]
    features: Annotated[
        Sequence[str] | None,
        Option(
            help="Score these columns, in this order, if the model was fitted without column names.",
            kind="names",
            metavar="A,B",
            default="the numeric columns, in order",
        ),
    ]
    job_id: Annotated[
        str | None,
        Option(
            help="Use this job id. Submitting the same id and options twice is one job.",
            metavar="ID",
            default="made from the time",
        ),
    ]
    max_rejected: Annotated[
        str | int | None,
        Option(
            help="Fail the job if more rows than this are rejected: a count, or a percentage of all rows.",
            metavar="N|P%",
            default="1%",
        ),
    ]
    max_attempts: Annotated[
        int | None,
        Option(
            help="Begin a part at most this many times if its process dies each time.",
            kind="count",
            metavar="N",
            default="3",
        ),
    ]
    group: Annotated[
        str | None,
        Option(
            help="Share the processes with the jobs of other groups as a job of this group.",
            metavar="NAME",
            default="the name of the model",
        ),
    ]
    priority: Annotated[
        str | None,
        Option(
            help="Score the parts of this job before or after those of other jobs of its group.",
            choices=PRIORITIES,
            default="normal",
        ),
    ]
    max_processes: Annotated[
        int | None,
        Option(
            help="Score at most this many parts of the job at once.",
            kind="count",
            metavar="N",
            default="no maximum",
        ),
    ]
    deadline: Annotated[
        str | None,
        Option(
            help="End the job as failed if it takes until this time: a duration from the submission, such as 30m or "
            "2h, or a time in ISO 8601 with its zone. Its results are kept, and the job can be resumed.",
            metavar="DURATION|TIME",
            default="none",
        ),
    ]
    checks: Annotated[
        str | None,
        Option(
            help="Hold the rows and the results against the checks in this file, in the format of checks.toml; 'none' "
            "checks nothing. In Python and in schedules, the value is the text of the file.",
            kind="file",
            metavar="FILE|none",
            default="those of the model version, which may be the defaults",
        ),
    ]
    webhook: Annotated[
        str | None,
        Option(help="Notify this address of how the job ended.", metavar="URL", default="WEBHOOK_URL"),
    ]
    labels: Annotated[
        Mapping[str, str] | None,
        Option(
            help="Give the job this label, by which `scoreline jobs` finds it. May be repeated.",
            kind="labels",
            metavar="NAME=VALUE",
            flag="label",
        ),
    ]


class SubmitOptions(RecordsOptions, total=False):
    """Options of `Client.submit`: those of every job, and those of an input in a bucket."""

    part_rows: Annotated[
        int | None,
        Option(
            help="Aim at parts of this many rows.",
            kind="count",
            metavar="N",
            default="20 s of work and at most 262144; 131072 for a model's first job",
        ),
    ]
    partition_by: Annotated[
        str | None,
        Option(help="Write the results into one folder for each value of this kept column.", metavar="COL"),
    ]
    gather: Annotated[
        bool | None,
        Option(help="Gather the parts into fewer, larger files once all of them are scored.", kind="flag"),
    ]
    profile: Annotated[
        str | None,
        Option(
            help="Count rows and scores while they are scored, and write _profile.json beside the results.",
            choices=("on", "off"),
            default="the workers' DATA_PROFILE, on",
        ),
    ]
    segment: Annotated[
        str | None,
        Option(help="Also count by the values of this kept column, at most 50.", metavar="COL"),
    ]
    challenger: Annotated[
        str | None,
        Option(
            help="Score the same rows with this model, too, and compare: NAME, NAME@ALIAS or NAME@VERSION. Its results "
            "go to _challenger/, and its failure does not harm the job.",
            metavar="MODEL",
        ),
    ]
    query: Annotated[
        str | None,
        Option(
            help="Score the rows of the query of this name in queries.toml of the workers, in place of INPUT.",
            metavar="NAME",
        ),
    ]
    params: Annotated[
        Mapping[str, str] | None,
        Option(
            help="With --query, give the parameter :NAME of the query this value. May be repeated.",
            kind="labels",
            metavar="NAME=VALUE",
            flag="param",
        ),
    ]
    table: Annotated[
        str | None,
        Option(
            help="Score the rows of this table of the workers' database, in place of INPUT. ALLOWED_SOURCES of the "
            "workers says which tables may be named.",
            metavar="SCHEMA.TABLE",
        ),
    ]
    where_recent: Annotated[
        Sequence[str] | None,
        Option(
            help="With --table, score only rows whose time in this column is at most so long ago, such as updated_at "
            "1d. Time counts back from the submission, or from the slot of a schedule.",
            kind="pair",
            metavar="COL DURATION",
        ),
    ]
    only_changed: Annotated[
        bool | None,
        Option(
            help="Score only rows that are new or whose features have changed since the accepted run of the output, "
            "and take the scores of the others from that run. The results have all rows.",
            kind="flag",
        ),
    ]
    into: Annotated[
        str | None,
        Option(
            help="Load the accepted results into this table of the workers' database. ALLOWED_TABLES of the workers "
            "says which tables may be named.",
            metavar="[SCHEMA.]TABLE",
        ),
    ]
    key: Annotated[
        Sequence[str] | None,
        Option(
            help="With --into, these columns identify a row of the table. With --only-changed, rows are also compared "
            "by these columns.",
            kind="names",
            metavar="COL,COL",
        ),
    ]
    into_columns: Annotated[
        Sequence[str] | None,
        Option(
            help="With --into, load these columns of the results besides the key. COL=NAME loads NAME into the column "
            "COL.",
            kind="names",
            metavar="NAME,COL=NAME",
            default="all",
        ),
    ]
    mode: Annotated[
        str | None,
        Option(
            help="With --into, change the rows of the table that are there and insert the others; or append all rows; "
            "or replace the whole table at once.",
            choices=tuple(MODES),
            default="upsert",
        ),
    ]
    create: Annotated[
        bool | None,
        Option(help="With --into, create the table if it does not exist.", kind="flag"),
    ]
    database: Annotated[
        str | None,
        Option(
            help="With --into, load into the database of this name in DATABASES_FILE of the workers.",
            metavar="NAME",
            default="RESULTS_DATABASE_URL",
        ),
    ]
    format: Annotated[
        str | None,
        Option(help="Read every object in this format.", choices=FORMATS, default="by each object's name"),
    ]
    delimiter: Annotated[
        str | None,
        Option(
            help="Split the fields of CSV at this character; 'tab' means a tab.",
            kind="character",
            metavar="CHAR",
            default="a comma; a tab in .tsv",
        ),
    ]
    quote: Annotated[
        str | None,
        Option(
            help="Fields of CSV may be quoted with this character; 'none' means that none are.",
            kind="character",
            metavar="CHAR",
            default='"',
        ),
    ]
    escape: Annotated[
        str | None,
        Option(
            help="A quotation mark behind this character belongs to its field of CSV, as in files of Spark, Hive or "
            "MySQL; 'none' means that no character has this effect.",
            kind="character",
            metavar="CHAR",
            default="none, but unclear files are refused",
        ),
    ]
    decimal: Annotated[
        str | None,
        Option(
            help="Numbers of CSV have this character before their decimals.",
            kind="character",
            metavar="CHAR",
            default=".",
        ),
    ]
    thousands: Annotated[
        str | None,
        Option(
            help="Numbers of CSV have this character between groups of three digits.",
            kind="character",
            metavar="CHAR",
            default="none",
        ),
    ]
    columns: Annotated[
        Sequence[str] | None,
        Option(
            help="Name the columns of CSV whose objects have no header.",
            kind="names",
            metavar="A,B",
            default="the header's names",
        ),
    ]
    encoding: Annotated[
        str | None,
        Option(help="Decode CSV from this encoding, for example latin-1.", metavar="NAME", default="utf-8"),
    ]
    null_values: Annotated[
        Sequence[str] | None,
        Option(
            help="Read these texts of CSV as missing values.",
            kind="names",
            metavar="A,B",
            default="NA, NaN, null and others that pandas knows",
        ),
    ]
    types: Annotated[
        Mapping[str, str] | None,
        Option(
            help=f"Read columns of CSV and JSON Lines as these types: {', '.join(TYPES)}.",
            kind="types",
            metavar="A=TYPE,B=TYPE",
            default="inferred from all values",
        ),
    ]


_WORDS: Mapping[str, Mapping[str, str]] = {
    "delimiter": {"tab": "\t", "\\t": "\t"},
    "quote": {"none": ""},
    "escape": {"none": ""},
    "thousands": {"none": ""},
}
"""Words for characters that are hard to type, by option."""
_EMPTY_IS_ABSENT = frozenset(
    {"output", "job_id", "features", "group", "priority", "checks", "deadline", "profile", "segment", "challenger"}
    | {"into", "key", "into_columns", "mode", "database", "query", "params", "table", "where_recent"}
)


@cache
def described(options: type) -> Mapping[str, Option]:
    """Return the options of `RecordsOptions` or `SubmitOptions` by name, in the order of their declaration."""
    hints = get_type_hints(options, include_extras=True)
    return {name: next(item for item in hint.__metadata__ if isinstance(item, Option)) for name, hint in hints.items()}


def check_known(given: Iterable[str], options: type) -> None:
    """Raise `InvalidRequest` if a given option is not among `options`. The message lists all unknown options."""
    known = described(options)
    if "challenger" in given and "challenger" not in known:
        raise InvalidRequest(
            "a job of records has no challenger, because its records are scored only once: write them to an object in "
            "a bucket, and submit that object with challenger"
        )
    if unknown := sorted(set(given) - known.keys()):
        raise InvalidRequest(f"unknown options {', '.join(unknown)}; known are {', '.join(sorted(known))}")


def spec_from(
    model: str, input: str | Sequence[str], options: Mapping[str, Any], *, job_id: str, output: str, **fixed: Any
) -> JobSpec:
    """Return the spec for a request.

    Parameters
    ----------
    model : str
        ``name``, ``name@alias`` or ``name@version``.
    input : str or sequence of str
        One URI or several; none if the options name a query or a table.
    options : mapping
        `SubmitOptions`. An option that is None counts as missing. Some options also count as missing if they
        are empty, such as `output`, because a form sends an empty text for a blank field.
    job_id, output : str
        Used if the options do not include them. The output is in the main bucket, where rows from a database are
        staged.
    **fixed
        Fields of the spec that users cannot set.

    Raises
    ------
    InvalidRequest
        An option is unknown, or has the wrong form.
    """
    check_known(options, SubmitOptions)
    given = {
        name: value
        for name, value in options.items()
        if value is not None and not (value == "" and name in _EMPTY_IS_ABSENT)
    }
    given.pop("webhook", None)  # webhook and labels are not part of the spec; the first submission sets them
    check_labels(given.pop("labels", None))
    read = read_options_from({name: given.pop(name) for name in READ_OPTIONS if name in given})
    if type(given.get("max_rejected")) is int:
        given["max_rejected"] = str(given["max_rejected"])
    given["params"] = given.get("params") or None
    if isinstance(given.get("keep"), list | tuple):
        given["keep"] = ",".join(map(str, given["keep"])) or "none"
    for name in ("features", "key", "into_columns", "where_recent"):
        if name in given:
            given[name] = _names(name, given[name])
    inputs = (input,) if isinstance(input, str) or not isinstance(input, Sequence) else tuple(input)
    if not inputs and ("query" in given or "table" in given):
        inputs = (staged_input(parse_uri(output)[0], given.get("job_id", job_id)),)
    return JobSpec(model=model, inputs=inputs, read=read, **{"job_id": job_id, "output": output} | given | fixed)


def read_options_from(given: Mapping[str, Any]) -> ReadOptions:
    r"""Return reading options as users write them, with words such as ``tab``. An option that is None is missing.

    >>> read_options_from({"delimiter": "tab", "quote": None}).delimiter
    '\t'
    """
    read = {name: value for name, value in given.items() if value is not None}
    for name, words in _WORDS.items():
        if isinstance(read.get(name), str):
            read[name] = words.get(read[name], read[name])
    return read_options(read)


def _names(option: str, value: Any) -> tuple[str, ...] | None:
    """Return names as a tuple. A plain text is refused, because Python would take each of its characters for a name."""
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise InvalidRequest(f"{option} {value!r} is not a list of names")
    return tuple(value) or None
