"""Lets the idle processes of a worker survey small objects for the process that plans a job.

The main process opens a file and a pipe for each process of its pool before it forks the pool. A planner writes an
order to its file: the objects, in shares of some objects. It wakes the other processes through their pipes. A process
claims a share with a lock on a byte of the file, and writes its answer to the file. The system releases the locks of a
process that dies, and the planner then surveys its shares itself.

What a process reads from a file is not trusted, because another process may be writing it. Order and answers have a
digest and the number of the order, and what does not match is not used.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import secrets
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO

_HEADER = struct.Struct("<16sQQ32s")
"""Random number of the order, number of shares, size and digest of the order. The file begins with it."""
_ANSWER = struct.Struct("<16sQ32s")
"""Number of the order, and size and digest of the answer that follows."""
_CLAIMS_AT = 4 << 10
"""Position of a byte for each share. The byte is 1 once a process has claimed the share."""
MAX_SHARES = 60 << 10
_ORDER_AT = 64 << 10
_ANSWER_BYTES = 4 << 20
"""Distance between answers. The file has holes, which take no space. A larger answer is not written."""


@dataclass(frozen=True, slots=True)
class Order:
    """An order in the file of a planner, as a process of the worker uses it."""

    file: BinaryIO
    number: bytes
    shares: int
    text: bytes

    def claim(self, share: int) -> bool:
        """Claim a share. Return False if a process has claimed it before, or if the order is over.

        The share is locked until `release`.
        """
        try:
            self._lock(share)
        except OSError:
            return False
        place = _CLAIMS_AT + share
        if self._is_over() or os.pread(self.file.fileno(), 1, place) == b"\1":
            self.release(share)
            return False
        os.pwrite(self.file.fileno(), b"\1", place)
        return True

    def release(self, share: int) -> None:
        """Unlock a share, with an answer or without."""
        fcntl.lockf(self.file, fcntl.LOCK_UN, 1, _CLAIMS_AT + share)

    def is_locked(self, share: int) -> bool:
        """Return whether another process is surveying a share; False if the file cannot be locked at all."""
        try:
            self._lock(share)
        except OSError as error:
            return error.errno in (errno.EACCES, errno.EAGAIN)
        self.release(share)
        return False

    def answer(self, share: int, data: bytes) -> None:
        """Write the answer to a share that this process has claimed, unless it is too large or the order is over."""
        if len(data) <= _ANSWER_BYTES - _ANSWER.size and not self._is_over():
            head = _ANSWER.pack(self.number, len(data), hashlib.sha256(data).digest())
            os.pwrite(self.file.fileno(), head + data, self._answer_at(share))

    def answered(self, share: int) -> bytes | None:
        """Return the answer to a share; None if there is none yet, or if it is damaged."""
        head = os.pread(self.file.fileno(), _ANSWER.size, self._answer_at(share))
        if len(head) < _ANSWER.size:
            return None
        number, size, digest = _ANSWER.unpack(head)
        if number != self.number or size > _ANSWER_BYTES:
            return None
        data = os.pread(self.file.fileno(), size, self._answer_at(share) + _ANSWER.size)
        return data if hashlib.sha256(data).digest() == digest else None

    def end(self) -> None:
        """End the order. Processes that survey its shares stop after them."""
        with contextlib.suppress(OSError):
            os.ftruncate(self.file.fileno(), 0)

    def _lock(self, share: int) -> None:
        fcntl.lockf(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _CLAIMS_AT + share)

    def _answer_at(self, share: int) -> int:
        return _ORDER_AT + len(self.text) + share * _ANSWER_BYTES

    def _is_over(self) -> bool:
        return os.pread(self.file.fileno(), len(self.number), 0) != self.number


class SurveyOrders:
    """The orders of all processes of a worker, as one of the processes uses them.

    Parameters
    ----------
    files : sequence of BinaryIO
        A file for each process, opened for reading and writing before the pool was forked.
    pipes : sequence of tuple of int
        The two ends of a pipe for each process, the one to read from first.
    own : int
        Number of this process, which is the position of its file and pipe.
    """

    def __init__(self, files: Sequence[BinaryIO], pipes: Sequence[tuple[int, int]], own: int) -> None:
        self._files = files
        self._pipes = pipes
        self._own = own
        with contextlib.suppress(OSError):
            os.ftruncate(files[own].fileno(), 0)  # the process that had this number before may have died

    def begin(self, text: bytes, shares: int, claimed: int) -> Order | None:
        """Begin an order, and wake the other processes. Return None if the disk is full.

        Parameters
        ----------
        claimed : int
            Number of shares, from the first one on, that this process surveys itself.
        """
        file = self._files[self._own]
        order = Order(file, secrets.token_bytes(16), shares, text)
        order.end()  # of the order before, if it was interrupted
        header = _HEADER.pack(order.number, shares, len(text), hashlib.sha256(text).digest())
        try:
            os.pwrite(file.fileno(), b"\1" * claimed + bytes(shares - claimed), _CLAIMS_AT)
            is_written = os.pwrite(file.fileno(), text, _ORDER_AT) == len(text)
            if is_written:
                os.pwrite(file.fileno(), header, 0)  # last: a file without it has no order
        except OSError:
            is_written = False
        if not is_written:
            order.end()
            return None
        for number, (_, end) in enumerate(self._pipes):
            if number != self._own:
                with contextlib.suppress(OSError):  # the process has many orders to look at already
                    os.write(end, bytes([self._own % 256]))
        return order

    def wait(self) -> Order | None:
        """Wait until another process has an order. Return None if the order is over meanwhile."""
        numbers = os.read(self._pipes[self._own][0], 256)
        found = (self._read(number) for number in dict.fromkeys(reversed(numbers)) if number < len(self._files))
        return next((order for order in found if order is not None), None)

    def _read(self, number: int) -> Order | None:
        descriptor = self._files[number].fileno()
        head = os.pread(descriptor, _HEADER.size, 0)
        if len(head) < _HEADER.size:
            return None
        name, shares, size, digest = _HEADER.unpack(head)
        text = os.pread(descriptor, size, _ORDER_AT) if size <= os.fstat(descriptor).st_size else b""
        is_sound = shares <= MAX_SHARES and hashlib.sha256(text).digest() == digest
        return Order(self._files[number], name, shares, text) if is_sound else None


def open_pipes(processes: int) -> list[tuple[int, int]]:
    """Open a pipe for each process of a pool. Return none if this fails."""
    pipes: list[tuple[int, int]] = []
    try:
        for _ in range(processes):
            pipes.append(os.pipe())
            os.set_blocking(pipes[-1][1], False)
    except OSError:
        for ends in pipes:
            for end in ends:
                os.close(end)
        return []
    return pipes
