"""Settings for the storage of models and results, read once from the environment.

docs/reference/settings.md has a table of all cases that ``StorageSettings.from_env`` distinguishes.
``tests/unit/storage/test_settings.py`` tests each row of this table.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from scoreline.storage.errors import InvalidSettings
from scoreline.storage.wording import without_credentials

log = logging.getLogger(__name__)

_TRUE = frozenset({"true", "1", "yes", "on"})
_FALSE = frozenset({"false", "0", "no", "off"})
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")

_R2_HOST = ".r2.cloudflarestorage.com"
_CLOUDS = (
    _R2_HOST,
    "amazonaws.com",
    "backblazeb2.com",
    "digitaloceanspaces.com",
    "storage.googleapis.com",
    "wasabisys.com",
)
"""Hosts of stores whose addresses may also begin with the name of a bucket, as in ``bucket.s3.amazonaws.com``."""

_PREFIX_EXPECTED = "a prefix such as s3://bucket/scores/ in an allowed bucket"

DEFAULT_STORE_DIR = ".scoreline/store"
DEFAULT_BUCKET = "scoreline"


class Environment:
    """Reads typed environment variables and collects all faults, so that they are reported together.

    An empty variable counts as unset, because deployment tools clear variables in this way.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self.faults: list[str] = []

    def text(self, *names: str, default: str = "") -> str:
        """Return the value of the first variable in `names` that is set, or `default` if no variable is set."""
        return self.first(*names)[1] or default

    def first(self, *names: str) -> tuple[str, str]:
        """Return the name and the value of the first variable in `names` that is set.

        If no variable is set, return the first name and an empty string.
        """
        found = ((name, value) for name in names if (value := self._environ.get(name, "").strip()))
        return next(found, (names[0], ""))

    def flag(self, name: str, default: bool) -> bool:
        """Return a boolean. Valid values are true, false, 1, 0, yes, no, on and off, in upper or lower case."""
        value = self.text(name).lower()
        if not value:
            return default
        if value not in _TRUE | _FALSE:
            self.faults.append(f"{name}={value!r} is not a boolean (use true or false)")
            return default
        return value in _TRUE

    def number(self, name: str, default: int, minimum: int = 0) -> int:
        """Return an integer that is at least `minimum`."""
        value = self.text(name)
        if not value:
            return default
        if not re.fullmatch(r"[0-9]+", value) or int(value) < minimum:
            self.faults.append(f"{name}={value!r} is not a whole number of at least {minimum}")
            return default
        return int(value)

    def choice[T: str](self, name: str, options: tuple[T, ...], default: T) -> T:
        """Return one of `options`."""
        value = self.text(name).lower()
        for option in options:
            if value == option:
                return option
        if value:
            self.faults.append(f"{name}={value!r} is not one of {', '.join(options)}")
        return default

    def check(self, name: str, value: str, accepts: Callable[[str], bool], expected: str) -> None:
        """Record a fault if `value` is set and `accepts` returns False for `value`."""
        if value and not accepts(value):
            self.faults.append(f"{name}={without_credentials(value)!r} is not {expected}")

    def finish(self) -> None:
        """Raise `InvalidSettings` if any fault was recorded."""
        if self.faults:
            raise InvalidSettings.from_faults(self.faults)


@dataclass(frozen=True, kw_only=True)
class IdentitySettings:
    """Says for whom a process acts, and on which dyno."""

    submitter: str
    """Name of the person or program; empty if it is not set."""
    dyno: str
    """Name of the dyno; empty outside of Heroku."""
    app: str
    """Name of the Heroku app, if its metadata is enabled."""

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> IdentitySettings:
        """Read the settings from `environ`. All of them are optional."""
        env = Environment(environ)
        return cls(submitter=env.text("SUBMITTER"), dyno=env.text("DYNO"), app=env.text("HEROKU_APP_NAME"))


@dataclass(frozen=True, kw_only=True)
class R2Settings:
    """Endpoint and credentials for the object storage of an account."""

    endpoint_url: str
    """``https://<account>.r2.cloudflarestorage.com``, or the URL of another server that speaks the S3 protocol."""
    access_key_id: str
    secret_access_key: str = field(repr=False)
    region: str = "auto"
    timeout_s: float = 30.0
    """Seconds to wait for the next bytes of a response."""


@dataclass(frozen=True, kw_only=True)
class StorageSettings:
    """Settings for the storage of models and results."""

    environment: Literal["production", "development"]
    use_r2: bool
    """Whether objects are stored in R2 rather than in `store_dir`."""
    cloud_only: bool
    """If true, no byte of a model may be written to disk."""
    bucket_name: str
    """Bucket for models and jobs. Results are also stored there, unless a job names another bucket."""
    allowed_buckets: frozenset[str]
    """Buckets for inputs and outputs, including `bucket_name`."""
    store_dir: Path
    r2: R2Settings | None
    allowed_outputs: tuple[str, ...] = ()
    """Prefixes below which jobs may write, each ending in ``/``. If empty, jobs may write anywhere in an allowed
    bucket."""

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> StorageSettings:
        """Read the settings from `environ`.

        Raises
        ------
        InvalidSettings
            A variable is missing or cannot be used. The message lists every fault.
        """
        env = Environment(environ)
        environment: Literal["production", "development"] = env.choice(
            "ENVIRONMENT", ("production", "development"), "production"
        )
        on_heroku = bool(env.text("DYNO"))
        asked_cloud_only = env.flag("ML_CLOUD_ONLY", True)
        use_r2 = _uses_r2(env, environment)
        cloud_only = use_r2 and (on_heroku or asked_cloud_only)
        if on_heroku and not asked_cloud_only:
            log.warning(
                "settings.overridden",
                extra={"variable": "ML_CLOUD_ONLY", "reason": "a dyno's disk is lost at each restart"},
            )

        source, bucket = _main_bucket(env, use_r2)
        env.check(source, bucket, lambda name: bool(_BUCKET.fullmatch(name)), "a bucket name")
        allowed = {name.strip() for name in env.text("ALLOWED_BUCKETS").split(",") if name.strip()}
        for name in sorted(allowed):
            env.check("ALLOWED_BUCKETS", name, lambda n: bool(_BUCKET.fullmatch(n)), "a bucket name")
        outputs = [item for item in re.split(r"[\s,]+", env.text("ALLOWED_OUTPUTS")) if item]
        for item in outputs:
            env.check("ALLOWED_OUTPUTS", item, lambda uri: _is_prefix(uri, allowed | {bucket}), _PREFIX_EXPECTED)
        r2 = _r2(env, allowed | {bucket}) if use_r2 else None
        if use_r2 and not bucket:
            env.faults.append("R2_BUCKET is not set")
        env.finish()
        return cls(
            environment=environment,
            use_r2=use_r2,
            cloud_only=cloud_only,
            bucket_name=bucket,
            allowed_buckets=frozenset(allowed | {bucket}),
            store_dir=Path(env.text("STORE_DIR", default=DEFAULT_STORE_DIR)),
            r2=r2,
            allowed_outputs=tuple(f"{item.rstrip('/')}/" for item in outputs),
        )


def main_bucket(environ: Mapping[str, str]) -> str:
    """Return the bucket that the settings name, or an empty string if they name no bucket.

    Unlike `StorageSettings.from_env`, this function needs no other setting, so that beat and health checks run without
    credentials.
    """
    env = Environment(environ)
    environment = env.choice("ENVIRONMENT", ("production", "development"), "production")
    return _main_bucket(env, _uses_r2(env, environment))[1]


def _uses_r2(env: Environment, environment: str) -> bool:
    force_r2 = env.flag("FORCE_R2", False)
    return environment == "production" or bool(env.text("DYNO")) or force_r2


def _main_bucket(env: Environment, use_r2: bool) -> tuple[str, str]:
    """Return the variable that names the main bucket, and its value."""
    source, named = env.first("R2_BUCKET", "AWS_STORAGE_BUCKET_NAME")
    return source, named or ("" if use_r2 else DEFAULT_BUCKET)


def _is_prefix(uri: str, buckets: Collection[str]) -> bool:
    """Return whether a URI names a place in one of the buckets.

    >>> _is_prefix("s3://data/scores/", {"data"}), _is_prefix("s3://data/a/../", {"data"}), _is_prefix("data", {"data"})
    (True, False, False)
    """
    bucket, _, path = uri.removeprefix("s3://").partition("/")
    return uri.startswith("s3://") and bucket in buckets and not {".", ".."} & set(path.split("/"))


def _r2(env: Environment, buckets: Collection[str]) -> R2Settings:
    account = env.text("R2_ACCOUNT_ID")
    source, endpoint = env.first("R2_ENDPOINT_URL", *([] if account else ["AWS_S3_ENDPOINT_URL"]))
    jurisdiction = env.choice("R2_JURISDICTION", ("default", "eu", "fedramp", "us"), "default")
    env.check("R2_ACCOUNT_ID", account, lambda a: bool(re.fullmatch(r"[0-9A-Za-z]+", a)), "an account id")
    env.check(source, endpoint, _is_address, "an http(s) address of a server")
    if fault := _path_fault(endpoint, buckets):
        env.faults.append(f"{source}={without_credentials(endpoint)!r} {fault}")
    if not endpoint and account:
        host = account if jurisdiction == "default" else f"{account}.{jurisdiction}"
        endpoint = f"https://{host}{_R2_HOST}"
    if not endpoint:
        env.faults.append("neither R2_ACCOUNT_ID nor R2_ENDPOINT_URL is set")
    key, secret = _credentials(env)
    timeout_s = env.number("R2_TIMEOUT_SECONDS", 30, minimum=1)
    return R2Settings(
        endpoint_url=endpoint.rstrip("/"), access_key_id=key, secret_access_key=secret, timeout_s=timeout_s
    )


def _is_address(url: str) -> bool:
    """Return whether a URL is the address of a server without a query, because a query would be lost.

    >>> _is_address("https://store.example.org:9000/s3"), _is_address("https://store.example.org:port")
    (True, False)
    """
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and not parts.query
    except ValueError:  # the port is not a number
        return False


def _path_fault(url: str, buckets: Collection[str]) -> str:
    """Return an error message if an address contains a bucket, as dashboards show addresses; otherwise an empty string.

    An address may contain any other path, because some stores are served below a path.
    """
    if not _is_address(url):
        return ""
    parts = urlsplit(url)
    host, path = parts.hostname or "", parts.path.strip("/")
    server = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    if host.endswith(".r2.dev"):
        return "is the public address of a bucket: use https://<account>.r2.cloudflarestorage.com"
    if path and (host.endswith(_R2_HOST) or path.rpartition("/")[2] in buckets):
        above = "" if host.endswith(_R2_HOST) or "/" not in path else f"/{path.rpartition('/')[0]}"
        return f"ends with a bucket: leave it out ({server}{above}); R2_BUCKET names the bucket"
    first, _, rest = host.partition(".")
    if first in buckets and rest.endswith(_CLOUDS):
        server = server.replace(f"{first}.", "", 1)
        return f"begins with a bucket: leave it out ({server}); R2_BUCKET names the bucket"
    return ""


def _credentials(env: Environment) -> tuple[str, str]:
    """Return the access key and its secret.

    Key and secret come from one pair of variables, so they belong to the same account.
    """
    pairs = [(f"{owner}_ACCESS_KEY_ID", f"{owner}_SECRET_ACCESS_KEY") for owner in ("R2", "AWS_S3", "AWS")]
    names = next((pair for pair in pairs if env.text(*pair)), pairs[0])
    env.faults += [f"{name} is not set" for name in names if not env.text(name)]
    return env.text(names[0]), env.text(names[1])
