"""Deployments with one fault each, for each check of the doctor, and the expected message of the check."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from scoreline.worker.dev.stack import free_port
from tests.support.doctor_case import Case

UNUSED_ADDRESS = "redis://:hush-hush@127.0.0.1:9/0"
SCHEDULE = '[nightly]\ncron = "0 2 * * *"\nmodel = "churn@champion"\ninput = "s3://elsewhere/in/"\n'


@dataclass(frozen=True)
class Example:
    check: str
    severity: str
    says: tuple[str, ...]
    """Texts that the findings must contain; each text may be in any finding."""
    spoil: Callable[[Case], None]
    """Adds the fault to a sound deployment."""

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
    "REDIS_URL cannot be read",
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


@example("settings", "error", "CELERY_BROKER_URL cannot be read")
def a_bracket_in_a_password(case: Case) -> None:
    case.set(CELERY_BROKER_URL="rediss://:hush[hush@example.org:6379/0")


@example("settings", "warning", "WEBHOOK_SECRET is not set, and an unsigned webhook is never sent")
def webhooks_without_a_secret(case: Case) -> None:
    case.set(ALLOWED_WEBHOOKS="https://hooks.example.org/")


# packages


@example("packages", "warning", "scikit-learn 1.8.0 is installed, ", " is pinned")
def another_version_of_a_package(case: Case) -> None:
    info = case.folder / "site" / "scikit_learn-1.8.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: scikit-learn\nVersion: 1.8.0\n")
    case.patch.syspath_prepend(info.parent)


# redis


@example("redis", "error", "cannot reach Redis at 127.0.0.1:9")
def no_server_at_the_address(case: Case) -> None:
    case.set(REDIS_URL=UNUSED_ADDRESS)


@example("redis", "error", "broker: cannot reach Redis at 127.0.0.1:9")
def no_redis_as_broker(case: Case) -> None:
    case.set(CELERY_BROKER_URL=UNUSED_ADDRESS)


@example("redis", "error", "cannot reach the broker at 127.0.0.1:9")
def no_rabbitmq_as_broker(case: Case) -> None:
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
    used = int(case.valkey.client.info("memory")["used_memory"])
    case.valkey.set(maxmemory=int(used / 0.85))


@example("redis", "warning", "maxmemory-policy is allkeys-lru", "evicts messages and ledgers")
def keys_are_evicted(case: Case) -> None:
    case.valkey.set(maxmemory_policy="allkeys-lru")


@example("redis", "warning", "maxmemory-policy is volatile-ttl", "evicts ledgers")
def keys_that_expire_are_evicted(case: Case) -> None:
    case.valkey.set(maxmemory_policy="volatile-ttl")


@example("redis", "warning", "the server accepts 20 connections", "with 16 processes and beat may need 22")
def a_plan_with_few_connections(case: Case) -> None:
    case.valkey.set(maxclients=20)
    case.set(WORKER_CONCURRENCY="16")


@example(
    "redis",
    "ok",
    "enough connections for a client, beat and a worker of 12 processes",
    "jobs with 1,000 parts in the queue",
)
def the_smallest_plan(case: Case) -> None:
    case.valkey.set(maxclients=20, maxmemory=25_000_000)
    case.set(WORKER_CONCURRENCY="2")


@example("redis", "warning", "of 25 connections are open")
def idle_connections(case: Case) -> None:
    case.valkey.set(maxclients=25)
    case.connect(20)


@example("redis", "warning", "does not reveal what it does when its memory is full", "how many connections it accepts")
def a_server_without_info(case: Case) -> None:
    case.limit("+@all", "-config", "-info")


@example("redis", "error", "no permissions to run the 'evalsha' command")
def no_scripts(case: Case) -> None:
    case.limit("+@all", "-@scripting")


@example("redis", "warning", "Valkey 5.0.7 is older than 6.2")
def an_old_server(case: Case) -> None:
    case.age_valkey()


@example("redis", "error", "the connection to redis.example.invalid:6379 does not use TLS")
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
    "its parts are charged for",
    "ALLOWED_BUCKETS: cannot list s3://elsewhere/",
)
def a_token_with_few_rights(case: Case) -> None:
    case.break_store("unlisted", "no-deletes", "no-aborts")
    case.set(ALLOWED_BUCKETS="elsewhere")


@example(
    "bucket",
    "error",
    "a write ignores If-None-Match",
    "a write ignores If-Match",
    "a multipart upload ignores If-None-Match",
)
def a_store_without_conditional_writes(case: Case) -> None:
    case.break_store("ignores-if-none-match", "ignores-if-match", "ignores-if-none-match-of-uploads")


@example(
    "bucket",
    "error",
    "with the whole object",
    "a read ignores If-Match",
    "a listing lacks an object that was just written",
    "the metadata of an object is lost",
    "multipart uploads, which objects over 64 MiB need",
    "NotImplemented",
)
def a_store_that_ignores_conditions_of_reads(case: Case) -> None:
    case.break_store("ignores-ranges", "ignores-if-match-of-reads", "stale-listings", "loses-metadata", "no-uploads")


@example("bucket", "warning", "some steps were skipped")
def a_slow_store(case: Case) -> None:
    case.patch.setattr("scoreline.worker.doctor.bucket.PROBING_S", 0.0)


@example("bucket", "error", "boto3 cannot be set up", "profile (work)")
def a_profile_that_boto3_cannot_find(case: Case) -> None:
    assert case.left_behind() == []  # create the client of the test before the profile is set
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


@example("time", "warning", "neither the bucket nor Redis says what time it is")
def no_server_to_ask(case: Case) -> None:
    case.set(REDIS_URL=UNUSED_ADDRESS, R2_ENDPOINT_URL="http://127.0.0.1:9")


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
def times_that_contradict_each_other(case: Case) -> None:
    case.set(
        SOFT_SHUTDOWN_SECONDS="28",
        PART_LEASE_SECONDS="3",
        RECONCILE_SECONDS="900",
        TICK_SECONDS="600",
        R2_TIMEOUT_SECONDS="300",
        REDIS_URL=UNUSED_ADDRESS,
    )


@example(
    "timeouts",
    "warning",
    "redelivered after 1200 s",
    "a task may take 3600 s",
    "the soft time limit of 4000 s is",
    "PART_LEASE_SECONDS=900",
)
def time_limits_in_the_procfile(case: Case) -> None:
    case.write("Procfile", "worker: celery -A scoreline worker --time-limit=3600 --soft-time-limit 4000")
    case.set(PART_LEASE_SECONDS="900", REDIS_URL=UNUSED_ADDRESS)


# shutdown, threads


@example("shutdown", "warning", "REMAP_SIGTERM is not SIGQUIT", "the worker uses the pool threads")
def a_worker_line_without_signals_and_prefork(case: Case) -> None:
    case.write("Procfile", "web: gunicorn\nworker: OMP_NUM_THREADS=1 celery -A scoreline worker -P threads 'unended\n")


@example("threads", "warning", "not set to 1: OPENBLAS_NUM_THREADS, MKL_NUM_THREADS")
def several_threads_per_process(case: Case) -> None:
    case.write("Procfile", "worker: OMP_NUM_THREADS=1 celery -A scoreline worker")
    case.set(OPENBLAS_NUM_THREADS="8", MKL_NUM_THREADS="8")


@example("threads", "warning", "not set to 1: OMP_NUM_THREADS, OPENBLAS_NUM_THREADS")
def no_procfile(case: Case) -> None:
    (case.folder / "Procfile").unlink()


# database


@example("database", "error", "RESULTS_DATABASE_URL: the connection failed")
def a_database_that_does_not_answer(case: Case) -> None:
    url = f"postgresql://app:hush-hush@127.0.0.1:{free_port()}/shop"
    case.set(RESULTS_DATABASE_URL=url, ALLOWED_TABLES="scores")


@example("database", "error", "RESULTS_DATABASE_URL is not an address such as postgresql://")
def an_address_of_another_database(case: Case) -> None:
    case.set(RESULTS_DATABASE_URL="mysql://app:hush-hush@db.example.org/shop")


# models


@example("model-keys", "warning", "MODEL_VERIFY_KEYS is not set")
def no_keys(case: Case) -> None:
    case.set(MODEL_VERIFY_KEYS="")


@example("models", "error", "PRELOAD_MODELS: nowhere@champion", "no model 'nowhere'")
def a_missing_model_to_preload(case: Case) -> None:
    case.set(PRELOAD_MODELS="nowhere@champion")


@example("models", "error", "is not signed")
def an_unsigned_model_to_preload(case: Case) -> None:
    case.set(PRELOAD_MODELS=case.publish("churn", signed=False))


@example("models", "error", "lacks model.joblib")
def an_incomplete_model_to_preload(case: Case) -> None:
    case.set(PRELOAD_MODELS=case.publish("churn", whole=False))


@example("models", "error", "was saved by scikit-learn 1.0.2, but")
def a_model_of_another_version_to_preload(case: Case) -> None:
    case.set(PRELOAD_MODELS=case.publish("churn", saved_by="1.0.2"))


@example("models", "warning", "saved by scikit-learn 1.0.2, but", "churn@champion, fraud@champion")
def models_of_another_version_in_use(case: Case) -> None:
    case.publish("churn", saved_by="1.0.2")
    case.publish("fraud", saved_by="1.0.2")


@example("models", "warning", "churn@champion:", "is not signed")
def an_unsigned_model_in_use(case: Case) -> None:
    case.publish("churn", signed=False)


@example("memory", "warning", "the kernel will kill processes")
def caches_larger_than_memory(case: Case) -> None:
    case.set(MODEL_CACHE_MB="99999999")


# schedules


@example("schedules", "error", "schedules.toml: line 2: [nightly] cron = 'never'")
def a_fault_in_the_deployed_file(case: Case) -> None:
    case.write("schedules.toml", SCHEDULE.replace("0 2 * * *", "never"))


@example("schedules", "error", "s3://", "schedules.toml: line 2: [nightly] cron = 'never'")
def a_fault_in_the_object(case: Case) -> None:
    case.store.put("schedules.toml", SCHEDULE.replace("0 2 * * *", "never").encode())


@example(
    "schedules",
    "warning",
    "nightly: no model 'churn'",
    "nightly: bucket 'elsewhere' is not in ALLOWED_BUCKETS",
    "nightly will not run: the clock has not ticked",
)
def a_schedule_of_a_missing_model_and_bucket(case: Case) -> None:
    case.write("schedules.toml", SCHEDULE)


@example("schedules", "warning", "nightly: output 's3://doctor-", "lies within input")
def a_schedule_that_would_score_its_own_results(case: Case) -> None:
    case.write("schedules.toml", SCHEDULE.replace("s3://elsewhere/in/", f"s3://{case.bucket}/results/churn/"))


@example("schedules", "error", "SCHEDULES_FILE=deployed.toml is not a file")
def a_missing_schedules_file(case: Case) -> None:
    case.set(SCHEDULES_FILE="deployed.toml")


# workers, clock


@example("workers", "warning", "no worker answers, so jobs will wait")
def no_worker(case: Case) -> None:
    pass


@example("clock", "warning", "the clock has not ticked within a day")
def no_clock(case: Case) -> None:
    pass


@example("clock", "ok", "no tick yet", "--beat")
def a_fresh_dev(case: Case) -> None:
    case.set(SCORELINE_DEV="1")


@example("clock", "warning", "the clock last ticked 1", "s ago")
def a_clock_that_has_stopped(case: Case) -> None:
    case.ledger.note_tick()
    (key,) = case.valkey.client.keys("*:tick")
    case.valkey.client.pexpire(key, 86_400_000 - 150_000)
