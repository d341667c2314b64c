# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, binding=True
"""Counts numbers in one pass: extremes, exact sums and a histogram, a block of values at a time.

This module is compiled where there is a compiler. Without it, `number_counts` does the same with NumPy, at a twentieth
of the speed. The results are equal to the bit.

A sum is kept as an integer of many digits of 32 bits, in units of 2**-1074. Adding each value to it would be slow.
Therefore the values of a block are first split into high and low bits (pre-rounding, as in Demmel and Nguyen, "Fast
Reproducible Floating-Point Summation", 2013): adding and subtracting a large number rounds each value to a multiple of
a power of two so large that the sum of a block of such multiples is exact in float64. What is left of each value is
split in the same way. If something is still left, because the values of the block differ by many powers of two, they
are added one by one.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.math cimport INFINITY, fabs, frexp, ldexp
from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy, memset

cdef extern from *:
    """
    #include <math.h>
    #include <stdint.h>
    #include <string.h>

    /* The loops over blocks are compiled twice for x86-64: for every processor, and for those with AVX2, which the
       program finds when it starts. No operation is contracted or reordered, so results are equal to the bit. Sanitizers
       cannot run before the choice is made. */
    #if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__) \
        && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    #define FOR_EACH_PROCESSOR __attribute__((target_clones("avx2", "default")))
    #else
    #define FOR_EACH_PROCESSOR
    #endif

    #if defined(__GNUC__)
    typedef uint64_t __attribute__((may_alias)) bits_of_double;
    typedef double quad __attribute__((vector_size(32)));
    typedef int64_t masks __attribute__((vector_size(32)));
    #else
    typedef uint64_t bits_of_double;
    #endif

    FOR_EACH_PROCESSOR
    static int all_finite(const double *x, int n) {
        uint64_t rest = 0;
        for (int i = 0; i < n; i++) {
            double none = x[i] - x[i];  /* 0, or NaN */
            uint64_t bits;
            memcpy(&bits, &none, sizeof(bits));
            rest |= bits;
        }
        return rest << 1 == 0;
    }

    FOR_EACH_PROCESSOR
    static int all_within(const int64_t *rows, int64_t n, int64_t size) {
        uint64_t outside = 0;
        for (int64_t i = 0; i < n; i++) {
            outside |= (uint64_t) rows[i] | ((uint64_t) size - 1 - (uint64_t) rows[i]);
        }
        return outside >> 63 == 0;
    }

    #if defined(__GNUC__)
    #define fetch(address) __builtin_prefetch(address)
    #else
    #define fetch(address)
    #endif

    /* Find the smallest and largest of n values, a multiple of 8. */
    FOR_EACH_PROCESSOR
    static void find_extremes(const double *x, int n, double *low, double *high) {
        double lows[4], highs[4];
    #if defined(__GNUC__)
        quad low_of[2], high_of[2];
        for (int lane = 0; lane < 2; lane++) {
            memcpy(&low_of[lane], x + 4 * lane, sizeof(quad));
            high_of[lane] = low_of[lane];
        }
        for (int i = 8; i < n; i += 8) {
            #pragma GCC unroll 2
            for (int lane = 0; lane < 2; lane++) {
                quad value;
                memcpy(&value, x + i + 4 * lane, sizeof(value));
                masks less = (masks)(value < low_of[lane]), more = (masks)(value > high_of[lane]);
                low_of[lane] = (quad)(((masks)value & less) | ((masks)low_of[lane] & ~less));
                high_of[lane] = (quad)(((masks)value & more) | ((masks)high_of[lane] & ~more));
            }
        }
        masks less = (masks)(low_of[1] < low_of[0]), more = (masks)(high_of[1] > high_of[0]);
        low_of[0] = (quad)(((masks)low_of[1] & less) | ((masks)low_of[0] & ~less));
        high_of[0] = (quad)(((masks)high_of[1] & more) | ((masks)high_of[0] & ~more));
        memcpy(lows, &low_of[0], sizeof(lows));
        memcpy(highs, &high_of[0], sizeof(highs));
    #else
        for (int lane = 0; lane < 4; lane++) lows[lane] = highs[lane] = x[lane];
        for (int i = 4; i < n; i++) {
            lows[i & 3] = x[i] < lows[i & 3] ? x[i] : lows[i & 3];
            highs[i & 3] = x[i] > highs[i & 3] ? x[i] : highs[i & 3];
        }
    #endif
        for (int lane = 1; lane < 4; lane++) {
            lows[0] = lows[lane] < lows[0] ? lows[lane] : lows[0];
            highs[0] = highs[lane] > highs[0] ? highs[lane] : highs[0];
        }
        *low = lows[0], *high = highs[0];
    }

    /* Find the place of each value in a row of counts: 0 for 0, then the positive and the negative buckets. Return
       whether all places are in the row. */
    FOR_EACH_PROCESSOR
    static int find_places(const double *x, int n, int drop, uint64_t base, uint64_t width, uint32_t *places) {
        const bits_of_double *bits = (const bits_of_double *) x;
        uint64_t outside = 0;
        for (int i = 0; i < n; i++) {
            uint64_t filled = -(uint64_t)(bits[i] != 0), place = (bits[i] << 1 >> 1 >> drop) - base;
            outside |= (place | (width - 1 - place)) & filled;
            places[i] = (uint32_t) ((place + 1 + (-(bits[i] >> 63) & width)) & filled);
        }
        return outside >> 63 == 0;
    }

    /* Find the key of each value, and the slot in which the search for the key begins. */
    FOR_EACH_PROCESSOR
    static void find_keys(const double *x, int n, int drop, int bits_of_slot, uint32_t *keys, uint32_t *slots) {
        const bits_of_double *bits = (const bits_of_double *) x;
        for (int i = 0; i < n; i++) {
            uint32_t key = (uint32_t) ((bits[i] << 1) >> 1 >> drop << 1 | bits[i] >> 63);
            keys[i] = bits[i] ? key : 0xFFFFFFFE;
        }
        for (int i = 0; i < n; i++) slots[i] = keys[i] * 0x9E3779B1u >> (32 - bits_of_slot);
    }

    /* Return how many counts are not 0. */
    FOR_EACH_PROCESSOR
    static int64_t count_filled(const uint32_t *counts, int64_t n) {
        int64_t filled = 0;
        for (int64_t i = 0; i < n; i++) filled += counts[i] != 0;
        return filled;
    }

    #if defined(__GNUC__)
    /* Split n values, a multiple of 8, in `levels` steps. Leave the sum of each step in `sums`. Return whether nothing
       is left of any value. The numbers in `large` are 1.5 times a power of two. */
    static inline __attribute__((always_inline)) int split_sums(
        const double *x, int n, const double *large, const int levels, double *sums
    ) {
        quad total[3][2] = {{{0}}}, constant[3];
        masks rest[2] = {{0}};
        for (int level = 0; level < levels; level++) {
            constant[level] = (quad){large[level], large[level], large[level], large[level]};
        }
        for (int i = 0; i < n; i += 8) {
            #pragma GCC unroll 2
            for (int lane = 0; lane < 2; lane++) {
                quad value;
                memcpy(&value, x + i + 4 * lane, sizeof(value));
                #pragma GCC unroll 3
                for (int level = 0; level < levels; level++) {
                    quad high = (value + constant[level]) - constant[level];
                    total[level][lane] += high;
                    value -= high;
                }
                rest[lane] |= (masks)value;
            }
        }
        for (int level = 0; level < levels; level++) {
            quad all = total[level][0] + total[level][1];
            sums[level] = (all[0] + all[1]) + (all[2] + all[3]);
        }
        masks any = rest[0] | rest[1];
        return !((uint64_t)(any[0] | any[1] | any[2] | any[3]) << 1);
    }
    FOR_EACH_PROCESSOR
    static int two_sums(const double *x, int n, const double *large, double *sums) {
        return split_sums(x, n, large, 2, sums);
    }
    FOR_EACH_PROCESSOR
    static int three_sums(const double *x, int n, const double *large, double *sums) {
        return split_sums(x, n, large, 3, sums);
    }
    #else
    static int two_sums(const double *x, int n, const double *large, double *sums) { return 0; }
    static int three_sums(const double *x, int n, const double *large, double *sums) { return 0; }
    #endif
    """
    int all_finite(const double* x, int n) noexcept nogil
    void fetch(const void* address) noexcept nogil
    int all_within(const int64_t* rows, int64_t n, int64_t size) noexcept nogil
    void find_extremes(const double* x, int n, double* low, double* high) noexcept nogil
    int find_places(
        const double* x, int n, int drop, uint64_t base, uint64_t width, uint32_t* places
    ) noexcept nogil
    void find_keys(
        const double* x, int n, int drop, int bits_of_slot, uint32_t* keys, uint32_t* slots
    ) noexcept nogil
    int64_t count_filled(const uint32_t* counts, int64_t n) noexcept nogil
    int two_sums(const double* x, int n, const double* large, double* sums) noexcept nogil
    int three_sums(const double* x, int n, const double* large, double* sums) noexcept nogil

VERSION = 3  # that of `number_counts`

ctypedef fused Number:
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
    BLOCK = 1024
    DIGITS = 72  # of 32 bits: 2098 bits for the largest float64, and 64 bits for the number of values
    MANTISSA_BITS = 52
    LEVEL_BITS = 41  # of each step of `split_sums`: 53, without 10 for the sum of a block and 2 for its rounding
    FETCHED = 128  # number of rows after which a value is needed that is fetched into the cache
    SCALE_BITS = 1074  # the smallest positive float64 is 2**-1074
    MAX_EXPONENT = 900  # of values that `split_sums` can split without overflow or underflow

cdef uint64_t LOW = 0xFFFFFFFF

include "count_buckets.pxi"
include "pack_buckets.pxi"


cdef inline void add_to_digits(int64_t* digits, double value) noexcept nogil:
    """Add one finite value."""
    cdef uint64_t bits, mantissa, low
    cdef int exponent, at, shift
    memcpy(&bits, &value, 8)
    exponent = <int> ((bits >> MANTISSA_BITS) & 0x7FF)
    mantissa = bits & ((<uint64_t> 1 << MANTISSA_BITS) - 1)
    if exponent:
        mantissa |= <uint64_t> 1 << MANTISSA_BITS
        exponent -= 1
    at, shift = exponent >> 5, exponent & 31
    low = mantissa << shift  # bits beyond the 64th are in the third digit
    if bits >> 63:
        digits[at] -= <int64_t> (low & LOW)
        digits[at + 1] -= <int64_t> (low >> 32)
        digits[at + 2] -= <int64_t> (mantissa >> 32 >> (32 - shift))
    else:
        digits[at] += <int64_t> (low & LOW)
        digits[at + 1] += <int64_t> (low >> 32)
        digits[at + 2] += <int64_t> (mantissa >> 32 >> (32 - shift))


cdef void carry(int64_t* digits) noexcept nogil:
    """Carry, so that every digit but the last lies between 0 and 2**32."""
    cdef int i
    cdef int64_t over
    for i in range(DIGITS - 1):
        over = digits[i] >> 32
        digits[i] -= over * (<int64_t> 1 << 32)
        digits[i + 1] += over


cdef void add_block(int64_t* digits, double* x, int n, double largest) noexcept nogil:
    """Add a block of finite values. `largest` is the largest magnitude. Zeros may be written behind the block."""
    cdef double[3] large
    cdef double[3] sums
    cdef int exponent, level, i
    if largest == 0:
        return
    frexp(largest, &exponent)  # each magnitude is less than 2**exponent
    if -MAX_EXPONENT < exponent < MAX_EXPONENT:
        for level in range(3):
            large[level] = ldexp(1.5, exponent + 11 - level * LEVEL_BITS)
        i = n
        while i & 7:
            x[i] = 0
            i += 1
        if two_sums(x, i, large, sums):
            add_to_digits(digits, sums[0])
            add_to_digits(digits, sums[1])
            return
        if three_sums(x, i, large, sums):
            add_to_digits(digits, sums[0])
            add_to_digits(digits, sums[1])
            add_to_digits(digits, sums[2])
            return
    for i in range(n):
        add_to_digits(digits, x[i])


cdef class Counter:
    """Counts numbers that are added array by array (see the `.pyi` file)."""

    cdef Table table
    cdef int64_t[DIGITS] digits
    cdef int64_t[DIGITS] square_digits
    cdef double low, high
    cdef readonly int64_t nan, positive_infinities, negative_infinities, overflows, numbers

    def __cinit__(self, int limit, int64_t most_in_row=0xFFFFFFFF):
        if not 3 <= limit <= 4096:
            raise ValueError("the limit is not between 3 and 4096")
        if not 0 <= most_in_row <= 0xFFFFFFFF:
            raise ValueError("the counts of a row have 32 bits, so it cannot count that many values")
        self.table.limit, self.table.level, self.table.bits = limit, MAX_LEVEL, 4
        while 1 << self.table.bits < 2 * limit:
            self.table.bits += 1
        self.table.counted, self.table.most_in_row = 0, most_in_row
        if not make_slots(&self.table):
            raise MemoryError
        memset(self.digits, 0, sizeof(self.digits))
        memset(self.square_digits, 0, sizeof(self.square_digits))

    def __dealloc__(self):
        free_table(&self.table)

    def add(self, const Number[:] values not None, const int64_t[:] rows=None):
        cdef int64_t n = values.shape[0], step = values.strides[0] // <Py_ssize_t> sizeof(Number)
        cdef const int64_t* chosen = NULL
        cdef int enough
        if n > 1 and values.strides[0] != step * <Py_ssize_t> sizeof(Number):
            raise ValueError("the values are not a whole number of values apart")
        if rows is not None:
            if rows.shape[0] and rows.strides[0] != sizeof(int64_t):
                raise ValueError("the positions of rows are not contiguous")
            chosen = &rows[0] if rows.shape[0] else NULL
            if not all_within(chosen, rows.shape[0], n):
                raise IndexError(f"the position of a row is not between 0 and {n - 1}")
            n = rows.shape[0]
        if n:
            with nogil:
                enough = self._add(&values[0], n, step, chosen)
            if not enough:
                raise MemoryError

    cdef int _add(self, const Number* values, int64_t n, int64_t step, const int64_t* rows) noexcept nogil:
        cdef double[1024 + 8] x  # BLOCK, and further values behind it
        cdef int64_t start = 0
        cdef int size, number
        while start < n:
            number = <int> min(n - start, <int64_t> BLOCK)
            if rows != NULL:
                copy_rows(values, rows + start, step, number, x)
            else:
                copy_values(values + start * step, step, number, x)
            size = number
            if (Number is double or Number is float) and not all_finite(x, number):
                size = keep_finite(self, x, number)
            if size and not self._add_block(x, size):
                return 0
            start += BLOCK
        settle(&self.table)
        carry(self.digits)
        carry(self.square_digits)
        return 1

    cdef int _add_block(self, double* x, int n) noexcept nogil:
        cdef double low, high, largest, square
        cdef double[1024 + 8] squares
        cdef int i, padded = (n + 7) & ~7
        for i in range(n, padded):
            x[i] = x[0]
        find_extremes(x, padded, &low, &high)
        if not self.numbers:
            self.low, self.high = low, high
        self.low, self.high = min(self.low, low), max(self.high, high)
        self.numbers += n
        largest = max(fabs(low), fabs(high))
        if not count_block(&self.table, x, n):
            return 0
        add_block(self.digits, x, n, largest)
        if largest < 1e154:
            for i in range(n):
                squares[i] = x[i] * x[i]
            add_block(self.square_digits, squares, n, largest * largest)
            return 1
        for i in range(n):
            square = x[i] * x[i]
            if square - square == 0:
                add_to_digits(self.square_digits, square)
            else:
                self.overflows += 1
        return 1

    @property
    def level(self) -> int:
        return self.table.level

    @property
    def count_bits(self) -> int:
        return 32 if self.table.row != NULL else 64

    @property
    def minimum(self):
        return self.low if self.numbers else None

    @property
    def maximum(self):
        return self.high if self.numbers else None

    @property
    def sum_units(self) -> int:
        return units_of(self.digits)

    @property
    def square_units(self) -> int:
        return units_of(self.square_digits)

    def sums(self):
        return sum_of(self.digits), sum_of(self.square_digits)

    def buckets(self):
        cdef int64_t number = number_of_buckets(&self.table)
        cdef bytearray buckets = bytearray(8 * number), counts = bytearray(8 * number)
        list_buckets(&self.table, <int64_t*> <char*> buckets, <int64_t*> <char*> counts)
        return buckets, counts

    def packed(self):
        return pack(&self.table)


cdef void copy_values(const Number* values, int64_t step, int n, double* x) noexcept nogil:
    """Copy values as float64. Negative zeros become positive."""
    cdef int i
    if step == 1:
        for i in range(n):
            x[i] = <double> values[i] + 0.0
    else:
        for i in range(n):
            x[i] = <double> values[i * step] + 0.0


cdef void copy_rows(const Number* values, const int64_t* rows, int64_t step, int n, double* x) noexcept nogil:
    """Copy the values of some rows as `copy_values` does. Values of the next rows are fetched into the cache meanwhile."""
    cdef int i
    for i in range(n):
        if i & 7 == 0 and i + FETCHED < n:
            fetch(values + rows[i + FETCHED] * step)
        x[i] = <double> values[rows[i] * step] + 0.0


cdef int keep_finite(Counter counter, double* x, int n) noexcept nogil:
    """Move the finite values to the front, and count the others. Return how many are finite."""
    cdef int i, size = 0
    cdef double value
    for i in range(n):
        value = x[i]
        x[size] = value
        size += value - value == 0
        counter.nan += value != value
        counter.positive_infinities += value == INFINITY
        counter.negative_infinities += value == -INFINITY
    return size


cdef object units_of(int64_t* digits):
    """Return the integer of the digits, which are carried."""
    cdef int i
    cdef bytearray data = bytearray(4 * (DIGITS - 1))
    cdef uint32_t digit
    cdef uint8_t* at = <uint8_t*> data
    for i in range(DIGITS - 1):
        digit = <uint32_t> digits[i]
        at[4 * i], at[4 * i + 1] = digit & 255, (digit >> 8) & 255
        at[4 * i + 2], at[4 * i + 3] = (digit >> 16) & 255, digit >> 24
    return int.from_bytes(data, "little") + (int(digits[DIGITS - 1]) << (32 * (DIGITS - 1)))


cdef list sum_of(int64_t* digits):
    """Return the integer of the digits, which are carried, as `ExactSum.to_json` does."""
    cdef int low = 0, high = DIGITS - 1, i, zeros = 0
    while low < high and not digits[low]:
        low += 1
    while high > low and not digits[high]:
        high -= 1
    if not digits[low]:
        return ["0", 0]
    units = int(digits[high])  # only the last digit may be negative
    while digits[DIGITS - 1] == -1 and high - 1 > low and digits[high - 1] == <int64_t> LOW:
        high -= 1  # -1 and the largest digit below it are -1 in the place of that digit
    for i in range(high - 1, low - 1, -1):
        units = (units << 32) + digits[i]
    while not (digits[low] >> zeros) & 1:
        zeros += 1
    return [f"{units >> zeros:x}", zeros + 32 * low - SCALE_BITS]
