"""The list of checks, in the order of the output. A check may depend only on earlier checks in the list."""

from __future__ import annotations

from scoreline.worker.doctor.bucket import bucket
from scoreline.worker.doctor.check import Check
from scoreline.worker.doctor.database import database
from scoreline.worker.doctor.liveness import clock, workers
from scoreline.worker.doctor.models import model_keys, models
from scoreline.worker.doctor.packages import packages
from scoreline.worker.doctor.process import memory, shutdown, threads
from scoreline.worker.doctor.redis import redis
from scoreline.worker.doctor.schedules import schedules
from scoreline.worker.doctor.settings import settings
from scoreline.worker.doctor.timing import clocks_agree, timeouts

CHECKS = (
    Check("settings", settings, needs=()),
    Check("packages", packages, needs=()),
    Check("redis", redis),
    Check("bucket", bucket),
    Check("database", database, needs=()),
    Check("time", clocks_agree),
    Check("timeouts", timeouts),
    Check("shutdown", shutdown, needs=()),
    Check("threads", threads, needs=()),
    Check("model-keys", model_keys),
    Check("models", models, needs=("settings", "bucket")),
    Check("memory", memory, needs=("settings", "bucket")),
    Check("schedules", schedules, needs=("settings", "bucket")),
    Check("workers", workers, needs=("settings", "redis")),
    Check("clock", clock, needs=("settings", "redis")),
)
