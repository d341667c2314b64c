# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, binding=True
"""Adds up the histograms in the footers of parts.

This module is compiled where there is a compiler. Without it, `histogram_sums` does the same with NumPy, which takes
ten times as long for histograms of some hundred buckets. The results are equal to the bit.

The bytes come from a bucket to which others may write. Nothing beyond the end of the bytes is read, and `check_packed`
refuses arrays that no histogram has.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

VERSION = 2  # that of `histogram_sums`

cdef enum:
    MIN_LEVEL = -11
    MAX_LEVEL = 20
    MAX_LIMIT = 4096
    MAX_JOINT = 2 * MAX_LIMIT

cdef int64_t FURTHEST = <int64_t> 1 << (MAX_LEVEL + 12)  # no bucket of MAX_LEVEL is further away from 0
_WIDTHS = frozenset((1, 2, 4, 8))
# What is added up, and the sum. Another thread cannot use them meanwhile, because the lock of the interpreter is held.
cdef int64_t[4096] new_buckets
cdef int64_t[4096] new_counts
cdef int64_t[8192] joint_buckets
cdef int64_t[8192] joint_counts


cdef void read_numbers(const uint8_t* at, int64_t n, int width, int64_t* numbers) noexcept nogil:
    """Read unsigned numbers of `width` bytes, the least significant byte first."""
    cdef int64_t i
    cdef int place
    if width == 1:
        for i in range(n):
            numbers[i] = at[i]
    elif width == 2:
        for i in range(n):
            numbers[i] = at[2 * i] | <int64_t> at[2 * i + 1] << 8
    elif width == 4:
        for i in range(n):
            numbers[i] = (
                at[4 * i] | <int64_t> at[4 * i + 1] << 8 | <int64_t> at[4 * i + 2] << 16 | <int64_t> at[4 * i + 3] << 24
            )
    else:
        for i in range(n):
            numbers[i] = 0
            for place in range(8):
                numbers[i] |= <int64_t> (<uint64_t> at[8 * i + place] << (8 * place))


cdef inline int64_t coarser(int64_t bucket, int levels) noexcept nogil:
    if bucket > 0:
        return ((bucket - 1) >> levels) + 1
    return -(((-bucket - 1) >> levels) + 1) if bucket else 0


cdef inline int64_t added(int64_t one, int64_t other) noexcept nogil:
    """Return a sum modulo 2**64, as NumPy does. Only numbers that somebody made up overflow."""
    return <int64_t> (<uint64_t> one + <uint64_t> other)


cdef int64_t read_packed(
    bytes data, int64_t at, int64_t size, int64_t first, int distance_bytes, int count_bytes
) except -1:
    """Read arrays into `new_buckets`, which are still the distances, and `new_counts`. Return where they end."""
    cdef int64_t length = PyBytes_GET_SIZE(data), middle, stop
    cdef const uint8_t* start = <const uint8_t*> PyBytes_AS_STRING(data)
    if not (1 <= size <= MAX_LIMIT and 0 <= at <= length) or {distance_bytes, count_bytes} - _WIDTHS:
        raise ValueError("what describes a histogram is out of range")
    middle = at + (size - 1) * distance_bytes
    stop = middle + size * count_bytes
    if stop > length:
        raise ValueError("the buckets of a histogram are cut off")
    read_numbers(start + at, size - 1, distance_bytes, new_buckets + 1)
    read_numbers(start + middle, size, count_bytes, new_counts)
    new_buckets[0] = first
    return stop


def check_packed(
    bytes data not None, int64_t at, int level, int size, int64_t first, int distance_bytes, int count_bytes
) -> int:
    cdef int64_t stop = read_packed(data, at, size, first, distance_bytes, count_bytes), bucket = first
    cdef int64_t near = 1, far = 1, few = 1, furthest
    cdef int i
    for i in range(1, size):
        near, far = min(near, new_buckets[i]), max(far, new_buckets[i])
    for i in range(size):
        few = min(few, new_counts[i])
    if not MIN_LEVEL <= level <= MAX_LEVEL:
        raise ValueError("the level of a histogram is out of range")
    furthest = FURTHEST >> (MAX_LEVEL - level)
    if near < 1 or far > 2 * furthest or not -furthest <= first <= furthest:
        raise ValueError("the buckets of a histogram are out of range")
    for i in range(1, size):
        bucket += new_buckets[i]
    if bucket > furthest:
        raise ValueError("the buckets of a histogram are out of range")
    if few < 1:
        raise ValueError("the counts of a histogram are out of range")
    return stop


cdef class HistogramSum:
    """Adds up histograms (see the `.pyi` file)."""

    cdef readonly int limit, level, size
    cdef int64_t* buckets
    cdef int64_t* counts

    def __cinit__(self, int limit):
        if not 3 <= limit <= MAX_LIMIT:
            raise ValueError(f"the limit is not between 3 and {MAX_LIMIT}")
        self.limit, self.level, self.size = limit, MAX_LEVEL, 0
        self.buckets, self.counts = NULL, NULL

    def __dealloc__(self):
        free(self.buckets)

    def add_packed(
        self, bytes data not None, int64_t at, int level, int size, int64_t first, int distance_bytes, int count_bytes
    ):
        cdef int i
        read_packed(data, at, size, first, distance_bytes, count_bytes)
        for i in range(1, size):
            new_buckets[i] = added(new_buckets[i - 1], new_buckets[i])
        self._add(level, new_buckets, new_counts, size)

    def add_sum(self, HistogramSum other not None):
        if other.size:
            self._add(other.level, other.buckets, other.counts, other.size)

    cdef int _add(self, int level, const int64_t* buckets, const int64_t* counts, int size) except 0:
        """Join two runs of ascending buckets, and lower the level until they fit."""
        cdef int i = 0, j = 0, n = 0, ours, theirs
        cdef int64_t bucket, count
        if not MIN_LEVEL <= level <= MAX_LEVEL:
            raise ValueError("the level of a histogram is out of range")
        if self.size + size > MAX_JOINT:  # only if the buckets are too far from 0 for their level
            raise ValueError("the sum of histograms has too many buckets")
        if not self.size:
            return self._keep(level, buckets, counts, size)
        ours, theirs = max(self.level - level, 0), max(level - self.level, 0)
        while i < self.size or j < size:
            if j == size or (i < self.size and coarser(self.buckets[i], ours) <= coarser(buckets[j], theirs)):
                bucket, count = coarser(self.buckets[i], ours), self.counts[i]
                i += 1
            else:
                bucket, count = coarser(buckets[j], theirs), counts[j]
                j += 1
            if n and joint_buckets[n - 1] == bucket:
                joint_counts[n - 1] = added(joint_counts[n - 1], count)
            else:
                joint_buckets[n], joint_counts[n] = bucket, count
                n += 1
        level = min(level, self.level)
        while n > self.limit and level > MIN_LEVEL:
            level -= 1
            size, n = n, 0
            for i in range(size):
                bucket = coarser(joint_buckets[i], 1)
                if n and joint_buckets[n - 1] == bucket:
                    joint_counts[n - 1] = added(joint_counts[n - 1], joint_counts[i])
                else:
                    joint_buckets[n], joint_counts[n] = bucket, joint_counts[i]
                    n += 1
        return self._keep(level, joint_buckets, joint_counts, n)

    cdef int _keep(self, int level, const int64_t* buckets, const int64_t* counts, int size) except 0:
        cdef int64_t* held = self.buckets
        if size != self.size:
            held = <int64_t*> malloc(2 * size * sizeof(int64_t))
            if held == NULL:
                raise MemoryError
            free(self.buckets)
        self.buckets, self.counts = held, held + size
        self.level, self.size = level, size
        memcpy(self.buckets, buckets, size * sizeof(int64_t))
        memcpy(self.counts, counts, size * sizeof(int64_t))
        return 1

    def arrays(self):
        cdef Py_ssize_t length = self.size * sizeof(int64_t)
        if not self.size:
            return b"", b""
        return (<char*> self.buckets)[:length], (<char*> self.counts)[:length]
