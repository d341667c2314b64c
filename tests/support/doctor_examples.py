"""What goes wrong in production, for each check of the doctor: how it comes about, and what is said of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.support.doctor_case import Case

NOBODY = "redis://:hush-hush@127.0.0.1:9/0"
SCHEDULE = '[nightly]\ncron = "0 2 * * *"\nmodel = "churn@champion"\ninput = "s3://elsewhere/in/"\n'


@dataclass(frozen=True)
class Example:
    check: str
    severity: str
    says: tuple[str, ...]
    """Words of its messages, each of which may be in another finding."""
    spoil: Callable[[Case], None]

    def __str__(self) -> str:
        return f"{self.check}:{self.spoil.__name__}"


EXAMPLES: list[Example] = []


def example(check: str, severity: str, *says: str) -> Callable[[Callable[[Case], None]], Callable[[Case], None]]:
    def note(spoil: Callable[[Case], None]) -> Callable[[Case], None]:
        EXAMPLES.append(Example(check, severity, says, spoil))
        return spoil

    return note


# settings


@example(
    "settings",
    "error",
    "ML_CLOUD_ONLY='perhaps'",
    "TICK_SECONDS='0'",
    "PRELOAD_MODELS",
    "MODEL_SIGNING_KEY",
    "LOG_FORMAT='xml'",
    "REDIS_URL is cut short",
    "WEBHOOK_URL",
)
def many_faults(case: Case) -> None:
    case.set(
        ML_CLOUD_ONLY="perhaps",
        TICK_SECONDS="0",
        PRELOAD_MODELS="a@b@c",
        MODEL_SIGNING_KEY="hush-hush",
        LOG_FORMAT="xml",
        WEBHOOK_URL="mailto:me",
        REDIS_URL="redis://:hush#hush@example.org:6379/0",
    )


@example("settings", "error", "CELERY_BROKER_URL is cut short")
def a_bracket_in_a_password(case: Case) -> None:
    case.set(CELERY_BROKER_URL="rediss://:hush[hush@example.org:6379/0")


@example("settings", "warning", "WEBHOOK_SECRET is not set: no webhook is sent unsigned")
def webhooks_without_a_secret(case: Case) -> None:
    case.set(ALLOWED_WEBHOOKS="https://hooks.example.org/")


# packages


@example("packages", "warning", "scikit-learn is 1.8.0, pinned is")
def another_version(case: Case) -> None:
    info = case.folder / "site" / "scikit_learn-1.8.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: scikit-learn\nVersion: 1.8.0\n")
    case.patch.syspath_prepend(info.parent)


# redis


@example("redis", "error", "cannot reach Redis at 127.0.0.1:9")
def nobody_listens(case: Case) -> None:
    case.set(REDIS_URL=NOBODY)


@example("redis", "error", "broker: cannot reach Redis at 127.0.0.1:9")
def nobody_listens_as_broker(case: Case) -> None:
    case.set(CELERY_BROKER_URL=NOBODY)


@example("redis", "error", "cannot reach the broker at 127.0.0.1:9")
def nobody_listens_as_another_broker(case: Case) -> None:
    case.set(CELERY_BROKER_URL="amqp://user:hush-hush@127.0.0.1:9//")


@example("redis", "error", "invalid username-password pair")
def a_wrong_password(case: Case) -> None:
    case.valkey.client.acl_setuser("limited", enabled=True, passwords=["+right-right"], keys=["*"], commands=["+@all"])
    case.set(REDIS_URL=f"redis://limited:hush-hush@{case.valkey.address}/0")


@example("redis", "error", "read only replica")
def a_replica(case: Case) -> None:
    case.valkey.client.execute_command("REPLICAOF", "127.0.0.1", "9")


@example("redis", "error", "refused: command not allowed when used memory > 'maxmemory'")
def no_memory_left(case: Case) -> None:
    case.valkey.set(maxmemory=100_000)


@example("redis", "warning", "of 1.", "MB are in use")
def little_memory_left(case: Case) -> None:
    used = int(case.valkey.client.info("memory")["used_memory"])  # type: ignore[index]
    case.valkey.set(maxmemory=int(used / 0.85))


@example("redis", "warning", "maxmemory-policy is allkeys-lru", "messages and ledgers vanish")
def keys_are_evicted(case: Case) -> None:
    case.valkey.set(maxmemory_policy="allkeys-lru")


@example("redis", "warning", "maxmemory-policy is volatile-ttl", "keys that expire, and so ledgers vanish")
def keys_that_expire_are_evicted(case: Case) -> None:
    case.valkey.set(maxmemory_policy="volatile-ttl")


@example("redis", "warning", "it takes 20 connections; a worker of 8 processes and beat may hold 27")
def a_plan_with_few_connections(case: Case) -> None:
    case.valkey.set(maxclients=20)
    case.set(WORKER_CONCURRENCY="8")


@example("redis", "warning", "of 25 connections are open")
def connections_that_were_left_behind(case: Case) -> None:
    case.valkey.set(maxclients=25)
    case.connect(20)


@example("redis", "warning", "does not say what it does when its memory is full", "how many connections it takes")
def a_server_that_keeps_silent(case: Case) -> None:
    case.limit("+@all", "-config", "-info")


@example("redis", "error", "no permissions to run the 'evalsha' command")
def no_scripts(case: Case) -> None:
    case.limit("+@all", "-@scripting")


@example("redis", "warning", "Valkey 5.0.7 is older than 6.2")
def an_old_server(case: Case) -> None:
    case.age_valkey()


@example("redis", "error", "redis.example.invalid:6379 is reached without TLS")
def no_tls_on_a_dyno(case: Case) -> None:
    case.set(DYNO="release.1", REDIS_URL="redis://:hush-hush@redis.example.invalid:6379/0")


# bucket


@example("bucket", "error", "cannot list s3://", "Could not connect")
def no_store(case: Case) -> None:
    case.set(R2_ENDPOINT_URL="http://127.0.0.1:9")


@example("bucket", "error", "no bucket 'nowhere'")
def no_bucket(case: Case) -> None:
    case.set(R2_BUCKET="nowhere")


@example("bucket", "error", "InvalidAccessKeyId")
def an_unknown_key(case: Case) -> None:
    case.break_store("unknown-key")


@example("bucket", "error", "cannot write s3://", "AccessDenied")
def a_token_that_only_reads(case: Case) -> None:
    case.break_store("read-only")


@example(
    "bucket",
    "error",
    "cannot list s3://doctor-",
    "AccessDenied",
    "cannot be deleted",
    "costs what it holds",
    "ALLOWED_BUCKETS: cannot list s3://elsewhere/",
)
def a_token_with_few_rights(case: Case) -> None:
    case.break_store("unlisted", "no-deletes", "no-aborts")
    case.set(ALLOWED_BUCKETS="elsewhere")


@example(
    "bucket",
    "error",
    "an object is overwritten that was to be created once (If-None-Match)",
    "an object is overwritten though its ETag is another (If-Match)",
    "an upload in parts overwrites",
)
def a_store_without_conditional_writes(case: Case) -> None:
    case.break_store("ignores-if-none-match", "ignores-if-match", "ignores-if-none-match-of-uploads")


@example(
    "bucket",
    "error",
    "sends all of",
    "a replaced input goes unseen",
    "a listing lacks what was just written",
    "metadata does not come back",
    "in parts, as objects over 64 MiB need it",
    "NotImplemented",
)
def a_store_that_ignores_what_a_read_asks(case: Case) -> None:
    case.break_store("ignores-ranges", "ignores-if-match-of-reads", "stale-listings", "loses-metadata", "no-uploads")


@example("bucket", "warning", "not all was tried")
def a_slow_store(case: Case) -> None:
    case.patch.setattr("scoreline.worker.doctor.bucket.PROBING_S", 0.0)


@example("bucket", "error", "boto3 cannot be set up", "profile (work)")
def a_profile_that_boto3_cannot_find(case: Case) -> None:
    assert case.left_behind() == []  # with a client of its own, which is made before
    case.patch.setenv("AWS_PROFILE", "work")


@example("bucket", "error", "cannot write")
def a_directory_that_cannot_be_made(case: Case) -> None:
    case.write("file", "")
    case.set(ENVIRONMENT="development", STORE_DIR=str(case.folder / "file"))


# time


@example("time", "error", "s ahead of that of the bucket", "s ahead of that of Redis")
def a_clock_that_is_far_off(case: Case) -> None:
    case.examined["now"] = lambda: time.time() + 90


@example("time", "warning", "s behind that of Redis")
def a_clock_that_is_a_little_off(case: Case) -> None:
    case.examined["now"] = lambda: time.time() - 20


@example("time", "error", "s ahead of that of the bucket")
def a_store_whose_clock_is_off(case: Case) -> None:
    case.break_store("is-behind")


@example("time", "warning", "no server says what time it is")
def nobody_to_ask(case: Case) -> None:
    case.set(REDIS_URL=NOBODY, R2_ENDPOINT_URL="http://127.0.0.1:9")


# timeouts


@example(
    "timeouts",
    "warning",
    "SOFT_SHUTDOWN_SECONDS=28",
    "PART_LEASE_SECONDS=3",
    "RECONCILE_SECONDS=900",
    "TICK_SECONDS=600",
    "R2_TIMEOUT_SECONDS=300",
)
def times_that_do_not_fit(case: Case) -> None:
    case.set(
        SOFT_SHUTDOWN_SECONDS="28",
        PART_LEASE_SECONDS="3",
        RECONCILE_SECONDS="900",
        TICK_SECONDS="600",
        R2_TIMEOUT_SECONDS="300",
        REDIS_URL=NOBODY,
    )


@example(
    "timeouts",
    "warning",
    "given out again after 1200 s",
    "a task may take 3600 s",
    "a soft limit of 4000 s is",
    "PART_LEASE_SECONDS=900",
)
def time_limits_on_the_line(case: Case) -> None:
    case.write("Procfile", "worker: celery -A scoreline worker --time-limit=3600 --soft-time-limit 4000")
    case.set(PART_LEASE_SECONDS="900", REDIS_URL=NOBODY)


# shutdown, threads


@example("shutdown", "warning", "REMAP_SIGTERM is not SIGQUIT", "the worker's pool is threads")
def a_worker_line_of_ones_own(case: Case) -> None:
    case.write("Procfile", "web: gunicorn\nworker: OMP_NUM_THREADS=1 celery -A scoreline worker -P threads 'unended\n")


@example("threads", "warning", "not 1: OPENBLAS_NUM_THREADS, MKL_NUM_THREADS")
def threads_beside_processes(case: Case) -> None:
    case.write("Procfile", "worker: OMP_NUM_THREADS=1 celery -A scoreline worker")
    case.set(OPENBLAS_NUM_THREADS="8", MKL_NUM_THREADS="8")


@example("threads", "warning", "not 1: OMP_NUM_THREADS, OPENBLAS_NUM_THREADS")
def no_procfile(case: Case) -> None:
    (case.folder / "Procfile").unlink()


# models


@example("model-keys", "warning", "MODEL_VERIFY_KEYS is not set")
def no_keys(case: Case) -> None:
    case.set(MODEL_VERIFY_KEYS="")


@example("models", "error", "PRELOAD_MODELS: nowhere@champion", "no model 'nowhere'")
def nothing_to_preload(case: Case) -> None:
    case.set(PRELOAD_MODELS="nowhere@champion")


@example("models", "error", "is not signed")
def an_unsigned_model_to_preload(case: Case) -> None:
    case.set(PRELOAD_MODELS=case.publish("churn", signed=False))


@example("models", "error", "lacks model.joblib")
def half_a_model_to_preload(case: Case) -> None:
    case.set(PRELOAD_MODELS=case.publish("churn", whole=False))


@example("models", "error", "was saved by scikit-learn 1.0.2, here is")
def a_model_of_another_version_to_preload(case: Case) -> None:
    case.set(PRELOAD_MODELS=case.publish("churn", saved_by="1.0.2"))


@example("models", "warning", "saved by scikit-learn 1.0.2, here is", "churn@champion, fraud@champion")
def models_of_another_version_in_use(case: Case) -> None:
    case.publish("churn", saved_by="1.0.2")
    case.publish("fraud", saved_by="1.0.2")


@example("models", "warning", "churn@champion:", "is not signed")
def an_unsigned_model_in_use(case: Case) -> None:
    case.publish("churn", signed=False)


@example("memory", "warning", "the memory killer will come")
def caches_that_do_not_fit(case: Case) -> None:
    case.set(MODEL_CACHE_MB="99999999")


# schedules


@example("schedules", "error", "schedules.toml: line 2: [nightly] cron = 'never'")
def a_fault_in_the_deployed_file(case: Case) -> None:
    case.write("schedules.toml", SCHEDULE.replace("0 2 * * *", "never"))


@example("schedules", "warning", "s3://", "schedules.toml: line 2: [nightly] cron = 'never'")
def a_fault_in_the_object(case: Case) -> None:
    case.store.put("schedules.toml", SCHEDULE.replace("0 2 * * *", "never").encode())


@example(
    "schedules",
    "warning",
    "nightly: no model 'churn'",
    "nightly: bucket 'elsewhere' is not in ALLOWED_BUCKETS",
    "nothing runs nightly: the clock has not ticked",
)
def what_is_named_is_not_there(case: Case) -> None:
    case.write("schedules.toml", SCHEDULE)


@example("schedules", "warning", "SCHEDULES_FILE=deployed.toml is no file")
def a_file_that_was_not_deployed(case: Case) -> None:
    case.set(SCHEDULES_FILE="deployed.toml")


# others


@example("workers", "warning", "no worker answers: jobs will wait")
def nobody_works(case: Case) -> None:
    pass


@example("clock", "warning", "the clock has not ticked, or not within a day")
def nobody_ticks(case: Case) -> None:
    pass


@example("clock", "warning", "the clock ticked 1", "s ago")
def the_clock_stood_still(case: Case) -> None:
    case.ledger.note_tick()
    (key,) = case.valkey.client.keys("*:tick")  # type: ignore[misc]
    case.valkey.client.pexpire(key, 86_400_000 - 150_000)
