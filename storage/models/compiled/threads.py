"""Shares the work of compiling a large ensemble between two threads.

A process that loads a model has nothing else to do meanwhile, and the second processor is idle once the model has
arrived. Rows that are scored use no threads, because the processes of a worker share the processors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

THREADS = 2
LARGE = 1 << 18
"""Number of nodes from which on threads save more time than they take."""


def in_threads[Item, Result](call: Callable[[Item], Result], items: Sequence[Item], n_nodes: int) -> list[Result]:
    """Call a function for each item, in threads if there are so many nodes, and return the results in order.

    The function spends its time without the interpreter's lock. The error of the first item that fails is raised.
    """
    if n_nodes < LARGE:
        return [call(item) for item in items]
    with ThreadPoolExecutor(THREADS, thread_name_prefix="compile") as pool:
        return list(pool.map(call, items))
