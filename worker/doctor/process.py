"""Checks that a worker stops cleanly, computes with one thread per process, and fits into memory."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest

from scoreline.storage.container_memory import limit_bytes
from scoreline.worker import memory as sizes
from scoreline.worker.doctor.check import Finding, ok, warning
from scoreline.worker.doctor.context import Context

_MIB = 1 << 20
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def shutdown(context: Context) -> Iterator[Finding]:
    """Check that a worker returns its parts to the queue when it is stopped."""
    wrong = False
    if context.worker_variable("REMAP_SIGTERM") != "SIGQUIT":
        wrong = True
        yield warning(
            "REMAP_SIGTERM is not SIGQUIT: whenever a worker is stopped, its running parts are interrupted, and wait "
            "until their leases expire",
            f"set REMAP_SIGTERM=SIGQUIT in {_worker_environment(context)}",
        )
    pool = _pool(context.worker_line)
    if pool not in ("", "prefork"):
        wrong = True
        yield warning(
            f"the worker uses the pool {pool}, which can neither enforce time limits nor return parts when it stops",
            "use -P prefork on the worker line of the Procfile",
        )
    if not wrong:
        yield ok("a worker that is stopped returns its parts to the queue")


def threads(context: Context) -> Iterator[Finding]:
    """Check that every process of a worker uses a single thread for computation."""
    wrong = [name for name in _THREADS if context.worker_variable(name) != "1"]
    if context.worker_variable("MKL_NUM_THREADS") not in ("", "1"):
        wrong.append("MKL_NUM_THREADS")
    if wrong:
        yield warning(
            f"not set to 1: {', '.join(wrong)}; processes compete for the cores, and a process that is forked after a "
            "prediction hangs",
            f"set {' '.join(f'{name}=1' for name in wrong)} in {_worker_environment(context)}",
        )
    else:
        yield ok("every process computes with one thread")


def memory(context: Context) -> Iterator[Finding]:
    """Check that the processes and models of a worker fit into the memory of this machine."""
    preloaded, largest = sizes.measure_models(context.registry, context.worker.preload)
    sizing = sizes.size(
        limit_bytes=limit_bytes(),
        cores=context.cores,
        asked=context.worker.concurrency,
        preloaded_bytes=preloaded,
        model_bytes=largest,
        cache_bytes=context.worker.cache_bytes,
    )
    one = sizing.processes == 1
    processes = f"{sizing.processes} worker {'process' if one else 'processes'}"
    models = f"{preloaded // _MIB:,} MiB of preloaded models and {sizing.cache_bytes // _MIB:,} MiB of cache each"
    limit = f"{sizing.limit_bytes // _MIB:,} MiB"
    if sizing.short_bytes:
        missing = f"{sizing.short_bytes * sizing.processes // _MIB:,} MiB"
        yield warning(
            f"{processes} with {models} {'needs' if one else 'need'} {missing} more than the {limit} of this machine, "
            "so the kernel will kill processes",
            "lower WORKER_CONCURRENCY or MODEL_CACHE_MB, preload fewer models, or use a larger machine",
        )
    else:
        yield ok(f"{processes} {'fits' if one else 'fit'} into {limit}, with {models}")


def _pool(words: tuple[str, ...]) -> str:
    """Return the pool in the worker line of the Procfile; empty if the line has no such option."""
    for word, following in zip_longest(words, words[1:], fillvalue=""):
        if word in ("-P", "--pool"):
            return following
        if word.startswith("--pool="):
            return word.removeprefix("--pool=")
    return ""


def _worker_environment(context: Context) -> str:
    return "the worker line of the Procfile" if context.worker_line else "the environment of the worker"
