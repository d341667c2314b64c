"""Whether a worker stops, computes and fits as it should."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest

from scoreline.worker import memory as sizes
from scoreline.worker.doctor.base import Finding, ok, warning
from scoreline.worker.doctor.setup import Setup

_MIB = 1 << 20
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def shutdown(setup: Setup) -> Iterator[Finding]:
    """Whether a worker that is told to stop gives its parts back."""
    wrong = False
    if setup.of_worker("REMAP_SIGTERM") != "SIGQUIT":
        wrong = True
        yield warning(
            "REMAP_SIGTERM is not SIGQUIT: each time a worker is told to stop, the parts under way are cut off in the "
            "middle, and wait until they are missed",
            f"set REMAP_SIGTERM=SIGQUIT in {_where(setup)}",
        )
    pool = _pool(setup.worker_line)
    if pool not in ("", "prefork"):
        wrong = True
        yield warning(
            f"the worker's pool is {pool}: a part can be neither cut off by its time limit nor given back at a stop",
            "-P prefork on the Procfile's worker line",
        )
    if not wrong:
        yield ok("a worker that is told to stop gives its parts back")


def threads(setup: Setup) -> Iterator[Finding]:
    """Whether every process of a worker computes with one thread."""
    wrong = [name for name in _THREADS if setup.of_worker(name) != "1"]
    if setup.of_worker("MKL_NUM_THREADS") not in ("", "1"):
        wrong.append("MKL_NUM_THREADS")
    if wrong:
        yield warning(
            f"not 1: {', '.join(wrong)}; processes fight over the cores, and one forked after a prediction hangs",
            f"set {' '.join(f'{name}=1' for name in wrong)} in {_where(setup)}",
        )
    else:
        yield ok("every process computes with one thread")


def memory(setup: Setup) -> Iterator[Finding]:
    """Whether processes and models fit into this machine."""
    preloaded, largest = sizes.measured(setup.registry, setup.worker.preload)
    sizing = sizes.size(
        limit_bytes=sizes.limit_bytes(),
        cores=setup.cores,
        asked=setup.worker.concurrency,
        preloaded_bytes=preloaded,
        model_bytes=largest,
        cache_bytes=setup.worker.cache_bytes,
    )
    what = f"{sizing.processes} {'process' if sizing.processes == 1 else 'processes'} of a worker"
    models = f"{preloaded // _MIB:,} MiB of preloaded models, {sizing.cache_bytes // _MIB:,} MiB of cache each"
    here = f"{sizing.limit_bytes // _MIB:,} MiB"
    if sizing.short_bytes:
        yield warning(
            f"{what} with {models} need {sizing.short_bytes * sizing.processes // _MIB:,} MiB more than the {here} of "
            "this machine: the memory killer will come",
            "a smaller WORKER_CONCURRENCY or MODEL_CACHE_MB, fewer PRELOAD_MODELS, or a larger machine",
        )
    else:
        yield ok(f"{what} fit into {here}, with {models}")


def _pool(words: tuple[str, ...]) -> str:
    """Return the pool that the Procfile's line asks for."""
    for word, following in zip_longest(words, words[1:], fillvalue=""):
        if word in ("-P", "--pool"):
            return following
        if word.startswith("--pool="):
            return word.removeprefix("--pool=")
    return ""


def _where(setup: Setup) -> str:
    return "the Procfile's worker line" if setup.worker_line else "the environment of the worker"
