# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, binding=True
"""Decode the rows that COPY sends in its binary format into the buffers of Arrow's columns.

This module is compiled where there is a compiler. Without it, rows are sent as CSV, which takes more than twice the CPU
time. The format is in https://www.postgresql.org/docs/current/sql-copy.html; that of each type is what its send function
writes. Every length is checked before bytes are read.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int32_t, int64_t, uint8_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>

    static inline uint16_t word16(const uint8_t *at) { return (uint16_t)(at[0] << 8 | at[1]); }
    static inline uint32_t word32(const uint8_t *at) {
        return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
    }
    static inline uint64_t word64(const uint8_t *at) { return (uint64_t)word32(at) << 32 | word32(at + 4); }

    static inline int count_at(const uint8_t *at) { return (int16_t)word16(at); }
    static inline int64_t size_at(const uint8_t *at) { return (int32_t)word32(at); }

    #define GREGORIAN_DAYS(days) ((days) >= -719162 && (days) <= 2932896) /* 0001-01-01 to 9999-12-31 */
    #define GREGORIAN_US(us) ((us) >= -62135596800000000LL && (us) <= 253402300799999999LL)
    #define EPOCH_DAYS 10957 /* from 1970-01-01 to 2000-01-01, with which the server's time begins */
    #define EPOCH_US 946684800000000LL

    /* Write a value of a fixed size. Return whether it can be. */
    static int write_fixed(char kind, const uint8_t *at, int64_t size, uint8_t *values, int64_t row) {
        switch (kind) {
        case 'b':
            if (size != 1) return 0;
            values[row >> 3] |= (uint8_t)((at[0] != 0) << (row & 7));
            return 1;
        case 'h': {
            if (size != 2) return 0;
            uint16_t found = word16(at);
            memcpy(values + row * 2, &found, 2);
            return 1;
        }
        case 'i': {
            if (size != 4) return 0;
            uint32_t found = word32(at);
            memcpy(values + row * 4, &found, 4);
            return 1;
        }
        case 'q': {
            if (size != 8) return 0;
            uint64_t found = word64(at);
            memcpy(values + row * 8, &found, 8);
            return 1;
        }
        case 'o': {
            if (size != 4) return 0;
            uint64_t found = word32(at);
            memcpy(values + row * 8, &found, 8);
            return 1;
        }
        case 'D': {
            if (size != 4) return 0;
            int64_t days = (int64_t)(int32_t)word32(at) + EPOCH_DAYS;
            int32_t found = (int32_t)days;
            memcpy(values + row * 4, &found, 4);
            return GREGORIAN_DAYS(days);
        }
        case 't': {
            if (size != 8) return 0;
            int64_t found = (int64_t)word64(at);
            memcpy(values + row * 8, &found, 8);
            return found >= 0 && found < 86400000000LL;
        }
        case 'T': {
            if (size != 8) return 0;
            int64_t found = (int64_t)word64(at);
            if (found > INT64_MAX - EPOCH_US) return 0; /* infinity */
            found += EPOCH_US;
            memcpy(values + row * 8, &found, 8);
            return GREGORIAN_US(found);
        }
        }
        return 0;
    }

    /* Write a numeric as a decimal128. Its digits are of base 10,000, the first of which counts 10,000 ** weight. */
    static int write_decimal(const uint8_t *at, int64_t size, int precision, int scale, uint8_t *out) {
        static const int powers[] = {1, 10, 100, 1000, 10000};
        unsigned __int128 value = 0, limit = 1;
        int count, weight, sign, last, kept, number;
        if (size < 8) return 0;
        count = word16(at);
        weight = (int16_t)word16(at + 2);
        sign = word16(at + 4);
        if (size != 8 + 2 * (int64_t)count || (sign != 0 && sign != 0x4000)) return 0; /* NaN, infinity */
        last = weight + (scale + 3) / 4; /* the digit that has the last place of the scale */
        kept = scale % 4 ? scale % 4 : 4;
        for (number = 0; count && number <= last; number++) {
            int digit = number < count ? word16(at + 8 + 2 * number) : 0;
            int places = number == last ? kept : 4;
            if (digit > 9999 || digit % powers[4 - places]) return 0;
            if (value > (~(unsigned __int128)0 - 9999) / 10000) return 0;
            value = value * powers[places] + digit / powers[4 - places];
        }
        for (number = last < 0 ? 0 : last + 1; number < count; number++)
            if (word16(at + 8 + 2 * number)) return 0;
        for (number = 0; number < precision; number++) limit *= 10;
        if (value >= limit) return 0;
        if (sign) value = -value;
        memcpy(out, &value, 16);
        return 1;
    }

    static void write_uuid(const uint8_t *at, uint8_t *out) {
        static const char digits[] = "0123456789abcdef";
        for (int number = 0; number < 16; number++) {
            if (number == 4 || number == 6 || number == 8 || number == 10) *out++ = '-';
            *out++ = (uint8_t)digits[at[number] >> 4];
            *out++ = (uint8_t)digits[at[number] & 15];
        }
    }
    """
    int count_at(const uint8_t *at) nogil
    int64_t size_at(const uint8_t *at) nogil
    int write_fixed(char kind, const uint8_t *at, int64_t size, uint8_t *values, int64_t row) nogil
    int write_decimal(const uint8_t *at, int64_t size, int precision, int scale, uint8_t *out) nogil
    void write_uuid(const uint8_t *at, uint8_t *out) nogil

cdef struct Column:
    char kind
    int precision
    int scale
    int64_t nulls
    int64_t bytes  # of all texts
    uint8_t *valid
    uint8_t *values  # of fixed size, or the offsets of the texts
    uint8_t *texts

cdef enum:
    UUID_CHARS = 36
    MALFORMED = -1
    SOUND = -2


cdef int64_t width_of(char kind) noexcept nogil:
    """Return the number of bytes of a value, or of an offset."""
    if kind == b"h":
        return 2
    if kind == b"q" or kind == b"o" or kind == b"t" or kind == b"T":
        return 8
    return 16 if kind == b"n" else 4


cdef bint is_text(char kind) noexcept nogil:
    return kind == b"s" or kind == b"y" or kind == b"j" or kind == b"u"


cdef int64_t measure(const uint8_t *at, const uint8_t *end, Column *columns, int count) noexcept nogil:
    """Count rows, nulls, and bytes of texts. Return the number of rows, or `MALFORMED`."""
    cdef int64_t rows = 0, size
    cdef int number
    cdef Column *column
    while at != end:
        if end - at == 2 and count_at(at) == -1:  # the trailer
            break
        if end - at < 2 or count_at(at) != count:
            return MALFORMED
        at += 2
        for number in range(count):
            if end - at < 4:
                return MALFORMED
            column = &columns[number]
            size = size_at(at)
            at += 4
            if size == -1:
                column.nulls += 1
                continue
            if size < 0 or end - at < size:
                return MALFORMED
            if column.kind == b"u":
                column.bytes += UUID_CHARS
            elif column.kind == b"j":
                column.bytes += size - 1 if size else 0  # `fill` refuses a value without the version of the format
            elif is_text(column.kind):
                column.bytes += size
            at += size
        rows += 1
    return rows


cdef int fill(const uint8_t *at, int64_t rows, Column *columns, int count) noexcept nogil:
    """Write the values of rows that were measured. Return the column that has a wrong value, or `SOUND`."""
    cdef int64_t row, size
    cdef int32_t text
    cdef int number
    cdef Column *column
    for number in range(count):
        columns[number].bytes = 0
    for row in range(rows):
        at += 2
        for number in range(count):
            column = &columns[number]
            size = size_at(at)
            at += 4
            if size == -1:
                column.valid[row >> 3] &= ~(1 << (row & 7))
                size = 0
            elif column.kind == b"u":
                if size != 16:
                    return number
                write_uuid(at, column.texts + column.bytes)
                column.bytes += UUID_CHARS
            elif column.kind == b"j":
                if size == 0 or at[0] != 1:  # the version of the format precedes the text
                    return number
                memcpy(column.texts + column.bytes, at + 1, size - 1)
                column.bytes += size - 1
            elif is_text(column.kind):
                memcpy(column.texts + column.bytes, at, size)
                column.bytes += size
            elif column.kind == b"n":
                if not write_decimal(at, size, column.precision, column.scale, column.values + row * 16):
                    return number
            elif not write_fixed(column.kind, at, size, column.values, row):
                return number
            if is_text(column.kind):
                text = <int32_t> column.bytes
                memcpy(column.values + (row + 1) * 4, &text, 4)
            at += size
    return SOUND


def decode(const uint8_t[::1] data not None, Py_ssize_t start, bytes kinds, precisions, scales):
    """Decode rows; see the stub."""
    cdef int count = len(kinds), number, wrong
    cdef int64_t rows, width
    cdef const uint8_t *at = &data[0] + start
    cdef const uint8_t *end = &data[0] + data.shape[0]
    cdef Column *columns = <Column *> calloc(count, sizeof(Column))
    if columns == NULL:
        raise MemoryError
    try:
        for number in range(count):
            columns[number].kind = kinds[number]
            columns[number].precision, columns[number].scale = precisions[number], scales[number]
        with nogil:
            rows = measure(at, end, columns, count)
        if rows == MALFORMED:
            raise ValueError(MALFORMED)
        found = []
        for number in range(count):
            width = (rows + 7) // 8 if kinds[number] == b"b"[0] else rows * width_of(columns[number].kind)
            if is_text(columns[number].kind):
                width += 4
            values = PyBytes_FromStringAndSize(NULL, width)
            columns[number].values = <uint8_t *> PyBytes_AS_STRING(values)
            memset(columns[number].values, 0, width)  # what is null is the same in every process
            valid = texts = None
            if columns[number].nulls:
                valid = PyBytes_FromStringAndSize(NULL, (rows + 7) // 8)
                columns[number].valid = <uint8_t *> PyBytes_AS_STRING(valid)
                memset(columns[number].valid, 255, (rows + 7) // 8)
            if is_text(columns[number].kind):
                texts = PyBytes_FromStringAndSize(NULL, columns[number].bytes)
                columns[number].texts = <uint8_t *> PyBytes_AS_STRING(texts)
            found.append((valid, values, texts, columns[number].nulls))
        with nogil:
            wrong = fill(at, rows, columns, count)
        if wrong != SOUND:
            raise ValueError(wrong)
        return rows, found
    finally:
        free(columns)
