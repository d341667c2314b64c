"""Servers that accept a second write to a key after a tenth of the time that R2 demands.

R2 accepts one write per second to each key. A store waits for a second or more if it writes sooner. A test that changes
the same document ten times would wait for half a minute. The clients of such a server wait for a tenth, too, if they
are in a test process or in a fork of `tests.support.warm`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from scoreline.storage.objects.r2 import R2Store
from scoreline.storage.settings import R2Settings

BETWEEN_WRITES_S = 0.1
_VARIABLE = "QUICK_WRITES_AT"
_servers: set[str] = set()
_create = R2Store.__init__


@functools.wraps(_create)
def _create_store(self: R2Store, settings: R2Settings, *arguments: Any, **options: Any) -> None:
    _create(self, settings, *arguments, **options)
    if settings.endpoint_url in _servers:
        self.rewrite_after_s = BETWEEN_WRITES_S


R2Store.__init__ = _create_store  # type: ignore[method-assign]


def hurry(environ: Mapping[str, str]) -> dict[str, str]:
    """Let stores of this process hurry at the server of an environment. Return variables that tell it to `follow`."""
    _servers.add(environ["R2_ENDPOINT_URL"])
    return {_VARIABLE: environ["R2_ENDPOINT_URL"]}


def follow(environ: Mapping[str, str]) -> None:
    """Let stores of this process hurry at the server that is named in the environment of this process."""
    if (server := environ.get(_VARIABLE)) is not None:
        _servers.add(server)
