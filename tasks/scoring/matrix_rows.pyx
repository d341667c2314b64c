# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, binding=True
"""Copies columns of numbers into a matrix whose rows are contiguous in memory.

Whoever writes such a matrix column by column touches each of its cache lines once for each column in the line, and
between two touches the line has left the cache. Here, each line is written once, as a whole, from several columns that
are read in parallel.

This module is compiled where there is a compiler. Without it, `matrices` does the same with NumPy, in three times the
time.
"""

from cpython.buffer cimport (
    PyBUF_FORMAT, PyBUF_ND, PyBUF_STRIDES, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
)
from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t, uintptr_t
from libc.string cimport strchr

ctypedef fused Target:
    double
    float
    int64_t

ctypedef fused Source:
    double
    float
    int64_t
    int32_t
    int16_t
    int8_t
    uint64_t
    uint32_t
    uint16_t
    uint8_t

cdef enum:
    MOST_COLUMNS = 64
    TILE_ROWS = 64  # the rows of a tile and its converted values stay in a first-level cache of 32 KiB
    TILE_BYTES = 16384


cdef struct Column:
    const char* values
    char kind  # the format character of Python's `struct`, such as ``d`` for float64; 0 if it is that of the matrix
    int size  # of a value in bytes


def fill(x not None, tuple columns not None):
    cdef Py_buffer target
    cdef Column[MOST_COLUMNS] found
    cdef int number
    PyObject_GetBuffer(x, &target, PyBUF_STRIDES | PyBUF_FORMAT | PyBUF_WRITABLE)
    try:
        if not is_filled_here(&target, len(columns)):
            return False
        for number, column in enumerate(columns):
            if not read_column(column, target.shape[0], target.format[0], &found[number]):
                return False
        with nogil:
            if target.format[0] == b"d":
                fill_rows(found, target.shape[1], <double*> target.buf, target.strides[0] // 8, target.shape[0])
            elif target.format[0] == b"f":
                fill_rows(found, target.shape[1], <float*> target.buf, target.strides[0] // 4, target.shape[0])
            else:
                fill_rows(found, target.shape[1], <int64_t*> target.buf, target.strides[0] // 8, target.shape[0])
        return True
    finally:
        PyBuffer_Release(&target)


cdef bint is_filled_here(const Py_buffer* target, Py_ssize_t columns) noexcept:
    """Return whether a matrix has as many columns, contiguous rows, and a type of `Target`."""
    if target.ndim != 2 or target.shape[1] != columns or columns * target.itemsize * TILE_ROWS > TILE_BYTES:
        return False
    if target.format == NULL or safe_sources(target.format[0]) == NULL or target.format[1] != 0:
        return False
    if columns > 1 and target.strides[1] != target.itemsize:
        return False
    return target.strides[0] % target.itemsize == 0 and <uintptr_t> target.buf % target.itemsize == 0


cdef const char* safe_sources(char kind) noexcept:
    """Return the types that are converted to the type of a matrix without overflow; NULL if no such matrix is filled."""
    if kind == b"d":
        return "dflqihbLQIHB?"
    if kind == b"f":
        return "fhbHB?"
    if (kind == b"l" or kind == b"q") and sizeof(long) == 8:
        return "lqihbIHB?"
    return NULL


cdef bint read_column(object column, Py_ssize_t rows, char kind, Column* found) except -1:
    """Find the values of a column, which its owner must keep. Return whether they can be copied here."""
    cdef Py_buffer source
    cdef bint is_usual
    try:
        PyObject_GetBuffer(column, &source, PyBUF_ND | PyBUF_FORMAT)
    except (BufferError, ValueError):  # the values are not contiguous
        return False
    is_usual = source.ndim == 1 and source.shape[0] == rows and source.format != NULL and source.format[0] != 0
    is_usual = is_usual and source.format[1] == 0 and <uintptr_t> source.buf % source.itemsize == 0
    is_usual = is_usual and strchr(safe_sources(kind), source.format[0]) != NULL
    if is_usual:
        found.values, found.size = <const char*> source.buf, source.itemsize
        found.kind = 0 if source.format[0] == kind else source.format[0]
    PyBuffer_Release(&source)
    return is_usual


cdef void fill_rows(const Column* columns, Py_ssize_t n, Target* x, Py_ssize_t step, Py_ssize_t rows) noexcept nogil:
    """Fill a matrix tile by tile. The rows begin `step` values apart."""
    cdef Target* values[64]  # MOST_COLUMNS, in the tile
    cdef Target[4096] converted  # MOST_COLUMNS * TILE_ROWS
    cdef Py_ssize_t start = 0, row, number, size
    while start < rows:
        size = min(rows - start, <Py_ssize_t> TILE_ROWS)
        for number in range(n):
            values[number] = <Target*> (columns[number].values + start * columns[number].size)
            if columns[number].kind:
                convert(&columns[number], start, converted + number * TILE_ROWS, size)
                values[number] = converted + number * TILE_ROWS
        for row in range(size):
            for number in range(n):
                x[number] = values[number][row]
            x += step
        start += TILE_ROWS


cdef void convert(const Column* column, Py_ssize_t start, Target* x, Py_ssize_t n) noexcept nogil:
    """Convert some values of a column to the type of the matrix."""
    cdef const char* values = column.values + start * column.size
    if column.kind == b"d":
        copy(<const double*> values, x, n)
    elif column.kind == b"f":
        copy(<const float*> values, x, n)
    elif column.kind == b"?":
        copy(<const uint8_t*> values, x, n)
    elif column.kind == b"b" or column.kind == b"h" or column.kind == b"i" or column.kind == b"l" or column.kind == b"q":
        if column.size == 8:
            copy(<const int64_t*> values, x, n)
        elif column.size == 4:
            copy(<const int32_t*> values, x, n)
        elif column.size == 2:
            copy(<const int16_t*> values, x, n)
        else:
            copy(<const int8_t*> values, x, n)
    elif column.size == 8:
        copy(<const uint64_t*> values, x, n)
    elif column.size == 4:
        copy(<const uint32_t*> values, x, n)
    elif column.size == 2:
        copy(<const uint16_t*> values, x, n)
    else:
        copy(<const uint8_t*> values, x, n)


cdef void copy(const Source* values, Target* x, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t row
    for row in range(n):
        x[row] = <Target> values[row]
