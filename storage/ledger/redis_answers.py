"""The answers in Redis: a list for each reader."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from scoreline.storage.ledger import redis_keys
from scoreline.storage.ledger.answers import ANSWERS_KEPT_S, MAX_ANSWERS, Answer

_LEAST_S = 0.01
"""Redis would wait forever for an answer if the number of seconds were 0."""


class RedisAnswers:
    """The answers of the jobs of one bucket (see `Answers`).

    Parameters
    ----------
    client : redis.Redis
        Client that the ledger uses.
    namespace : str
        Name of the bucket that contains the jobs.
    translate_errors : callable
        Returns a context manager that turns errors of the client into those of `scoreline.storage.errors`.
    """

    def __init__(
        self, client: Any, namespace: str, translate_errors: Callable[..., AbstractContextManager[None]]
    ) -> None:
        self._client = client
        self._namespace = namespace
        self._translate_errors = translate_errors

    def give(self, reader: str, answer: Answer) -> None:
        """Keep an answer for a reader (see `Answers.give`)."""
        key = self._key(reader)
        with self._translate_errors(), self._client.pipeline(transaction=False) as pipe:
            pipe.rpush(key, f"{answer.job_id} {answer.text}")
            pipe.ltrim(key, -MAX_ANSWERS, -1)
            pipe.expire(key, ANSWERS_KEPT_S)
            pipe.execute()

    def receive(self, reader: str, seconds: float) -> Sequence[Answer]:
        """Return the answers for a reader (see `Answers.receive`)."""
        key = self._key(reader)
        with self._translate_errors():
            first = self._client.blpop([key], timeout=max(_LEAST_S, seconds))
            more = self._client.lpop(key, MAX_ANSWERS) if first else None
        return [_decode(text) for text in ([first[1], *(more or ())] if first else ())]

    def _key(self, reader: str) -> str:
        return redis_keys.of_bucket(self._namespace, f"answers:{reader}")


def _decode(text: str) -> Answer:
    job_id, _, results = text.partition(" ")
    return Answer(job_id=job_id, text=results)
