"""Ranks of values among sorted thresholds, which decide as the thresholds do."""

from libc.stdint cimport int64_t, uint8_t, uint32_t

ctypedef fused Rank:
    uint8_t
    uint32_t


cdef inline void rank_column(
    const double* x, int64_t x_stride, int64_t rows, const double* thresholds, int64_t n, Rank* ranks,
    int64_t stride, Rank missing
) noexcept nogil:
    """Write how many thresholds are below each value, or `missing` for NaN. `n` is one less than a power of two."""
    cdef int64_t i, size, below
    cdef double value
    for i in range(rows):
        value = x[i * x_stride]
        below = 0
        size = (n + 1) >> 1
        while size:
            below += size * (thresholds[below + size - 1] < value)
            size >>= 1
        ranks[i * stride] = missing if value != value else <Rank> below
