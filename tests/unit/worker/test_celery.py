"""Celery has the settings without which jobs would be lost."""

from __future__ import annotations

from scoreline.worker.celery import app
from scoreline.worker.settings import TIME_LIMIT_S


def test_a_message_is_acknowledged_only_after_its_task() -> None:
    assert app.conf.task_acks_late


def test_a_process_takes_one_message_at_a_time() -> None:
    assert app.conf.worker_prefetch_multiplier == 1


def test_the_death_of_a_process_counts_as_a_retry_and_is_not_redelivered_without_end() -> None:
    assert not app.conf.task_reject_on_worker_lost
    assert app.conf.task_retry_on_worker_lost


def test_redis_delivers_no_message_again_while_its_task_may_still_run() -> None:
    assert app.conf.broker_transport_options["visibility_timeout"] > TIME_LIMIT_S
