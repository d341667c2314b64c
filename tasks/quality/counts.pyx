# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, binding=True
"""Counts numbers in one pass: extremes, exact sums and a histogram, a block of values at a time.

This module is compiled where there is a compiler. Without it, `number_counts` does the same with NumPy, at a tenth of
the speed. The results are equal to the bit.

A sum is kept as an integer of many digits of 32 bits, in units of 2**-1074. Adding each value to it would be slow.
Therefore the values of a block are first split into high and low bits (pre-rounding, as in Demmel and Nguyen, "Fast
Reproducible Floating-Point Summation", 2013): adding and subtracting a large number rounds each value to a multiple of
a power of two so large that the sum of a block of such multiples is exact in float64. What is left of each value is
split in the same way. If something is still left, because the values of the block differ by many powers of two, they
are added one by one.
"""

from libc.math cimport fabs, frexp, ldexp
from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>

    #if defined(__GNUC__)
    typedef double pair __attribute__((vector_size(16)));
    typedef int64_t masks __attribute__((vector_size(16)));

    /* Split n values, a multiple of 8, in `levels` steps. Leave the sum of each step in `sums`. Return whether nothing
       is left of any value. The numbers in `large` are 1.5 times a power of two. */
    static inline __attribute__((always_inline)) int split_sums(
        const double *x, int n, const double *large, const int levels, double *sums
    ) {
        pair total[3][4] = {{{0}}}, constant[3];
        masks rest[4] = {{0}};
        for (int level = 0; level < levels; level++) constant[level] = (pair){large[level], large[level]};
        for (int i = 0; i < n; i += 8) {
            #pragma GCC unroll 4
            for (int lane = 0; lane < 4; lane++) {
                pair value;
                memcpy(&value, x + i + 2 * lane, sizeof(value));
                #pragma GCC unroll 3
                for (int level = 0; level < levels; level++) {
                    pair high = (value + constant[level]) - constant[level];
                    total[level][lane] += high;
                    value -= high;
                }
                rest[lane] |= (masks)(value != 0);
            }
        }
        for (int level = 0; level < levels; level++) {
            pair all = (total[level][0] + total[level][1]) + (total[level][2] + total[level][3]);
            sums[level] = all[0] + all[1];
        }
        masks any = rest[0] | rest[1] | rest[2] | rest[3];
        return !(any[0] | any[1]);
    }
    static int two_sums(const double *x, int n, const double *large, double *sums) {
        return split_sums(x, n, large, 2, sums);
    }
    static int three_sums(const double *x, int n, const double *large, double *sums) {
        return split_sums(x, n, large, 3, sums);
    }
    #else
    static int two_sums(const double *x, int n, const double *large, double *sums) { return 0; }
    static int three_sums(const double *x, int n, const double *large, double *sums) { return 0; }
    #endif
    """
    int two_sums(const double* x, int n, const double* large, double* sums) noexcept nogil
    int three_sums(const double* x, int n, const double* large, double* sums) noexcept nogil

VERSION = 1  # that of `number_counts`

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
    MAX_EXPONENT = 900  # of values that `split_sums` can split without overflow or underflow
    MIN_LEVEL = -11
    MAX_LEVEL = 20
    DIRECT_LEVEL = 10  # up to this level, the buckets of most columns follow each other

cdef uint64_t MAGNITUDE = 0x7FFFFFFFFFFFFFFF
cdef uint64_t LOW = 0xFFFFFFFF
cdef uint64_t FACTOR = 0x9E3779B97F4A7C15  # 2**64 divided by the golden ratio


cdef struct Slot:
    uint64_t key  # exponent, first bits of the mantissa, and sign
    int64_t count  # 0 if the slot is free


cdef struct Table:
    Slot* slots
    int bits  # the logarithm of the number of slots
    int used
    int limit
    int level
    int64_t zeros


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
        digits[i] -= over << 32
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


cdef inline Slot* find(Slot* slots, uint64_t key, uint64_t factor, int shift, uint64_t mask) noexcept nogil:
    """Return the slot of a key, or the free slot in which it belongs."""
    cdef uint64_t at = (key * factor) >> shift & mask
    while slots[at].count and slots[at].key != key:
        at = (at + 1) & mask
    return &slots[at]


cdef inline uint64_t factor_of(const Table* table) noexcept nogil:
    return 1 if table.level <= DIRECT_LEVEL else FACTOR


cdef inline int shift_of(const Table* table) noexcept nogil:
    return 0 if table.level <= DIRECT_LEVEL else 64 - table.bits


cdef int coarsen(Table* table) noexcept nogil:
    """Lower the level by one. Return 0 if there is no memory."""
    cdef int size = 1 << table.bits, i
    cdef Slot* slots = <Slot*> calloc(size, sizeof(Slot))
    cdef Slot* slot
    cdef uint64_t key
    if slots == NULL:
        return 0
    table.level -= 1
    table.used = table.zeros > 0
    for i in range(size):
        if table.slots[i].count:
            key = table.slots[i].key >> 2 << 1 | table.slots[i].key & 1
            slot = find(slots, key, factor_of(table), shift_of(table), size - 1)
            table.used += slot.count == 0
            slot.key = key
            slot.count += table.slots[i].count
    free(table.slots)
    table.slots = slots
    return 1


cdef int count_block(Table* table, const double* x, int n) noexcept nogil:
    """Count a block of finite values, none of which is a negative zero. Return 0 if there is no memory."""
    cdef uint64_t bits, key, factor = factor_of(table), mask = (<uint64_t> 1 << table.bits) - 1
    cdef int i, shift = shift_of(table), drop = MANTISSA_BITS - table.level
    cdef Slot* slots = table.slots
    cdef Slot* slot
    for i in range(n):
        memcpy(&bits, &x[i], 8)
        if bits == 0:
            table.used += table.zeros == 0
            table.zeros += 1
        else:
            key = (bits & MAGNITUDE) >> drop << 1 | bits >> 63
            slot = find(slots, key, factor, shift, mask)
            slot.count += 1
            if slot.count > 1:
                continue
            slot.key = key
            table.used += 1
        if table.used > table.limit:
            while table.used > table.limit and table.level > MIN_LEVEL:
                if not coarsen(table):
                    return 0
            factor, shift, drop = factor_of(table), shift_of(table), MANTISSA_BITS - table.level
            slots = table.slots
    return 1


cdef class Counter:
    """Counts numbers that are added array by array (see the `.pyi` file)."""

    cdef Table table
    cdef int64_t[DIGITS] digits
    cdef int64_t[DIGITS] square_digits
    cdef double low, high
    cdef readonly int64_t nan, positive_infinities, negative_infinities, overflows, numbers

    def __cinit__(self, int limit):
        if not 3 <= limit <= 4096:
            raise ValueError("the limit is not between 3 and 4096")
        self.table.limit, self.table.level, self.table.bits = limit, MAX_LEVEL, 4
        while 1 << self.table.bits < 4 * limit:
            self.table.bits += 1
        self.table.slots = <Slot*> calloc(1 << self.table.bits, sizeof(Slot))
        if self.table.slots == NULL:
            raise MemoryError
        memset(self.digits, 0, sizeof(self.digits))
        memset(self.square_digits, 0, sizeof(self.square_digits))

    def __dealloc__(self):
        free(self.table.slots)

    def add(self, const Number[:] values not None):
        cdef int enough
        if values.shape[0]:
            with nogil:
                enough = self._add(&values[0], values.shape[0], values.strides[0] // sizeof(Number))
            if not enough:
                raise MemoryError

    cdef int _add(self, const Number* values, int64_t n, int64_t step) noexcept nogil:
        cdef double[1024 + 8] x  # BLOCK, and zeros behind it
        cdef int64_t start = 0
        cdef int size
        while start < n:
            size = copy_finite(self, values + start * step, min(n - start, <int64_t> BLOCK), step, x)
            if size and not self._add_block(x, size):
                return 0
            start += BLOCK
        carry(self.digits)
        carry(self.square_digits)
        return 1

    cdef int _add_block(self, double* x, int n) noexcept nogil:
        cdef double low0 = x[0], low1 = x[0], high0 = x[0], high1 = x[0], largest
        cdef double[1024 + 8] squares
        cdef int i, fit = 0
        for i in range(0, n - 1, 2):
            low0 = x[i] if x[i] < low0 else low0
            high0 = x[i] if x[i] > high0 else high0
            low1 = x[i + 1] if x[i + 1] < low1 else low1
            high1 = x[i + 1] if x[i + 1] > high1 else high1
        if n & 1:
            low0 = min(low0, x[n - 1])
            high0 = max(high0, x[n - 1])
        low0, high0 = min(low0, low1), max(high0, high1)
        if not self.numbers:
            self.low, self.high = low0, high0
        self.low, self.high = min(self.low, low0), max(self.high, high0)
        self.numbers += n
        if not count_block(&self.table, x, n):
            return 0
        largest = max(fabs(low0), fabs(high0))
        add_block(self.digits, x, n, largest)
        if largest < 1e154:
            for i in range(n):
                squares[i] = x[i] * x[i]
            add_block(self.square_digits, squares, n, largest * largest)
            return 1
        for i in range(n):
            squares[fit] = x[i] * x[i]
            if squares[fit] - squares[fit] == 0:
                add_to_digits(self.square_digits, squares[fit])
            else:
                self.overflows += 1
        return 1

    @property
    def level(self) -> int:
        return self.table.level

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

    def buckets(self):
        cdef list found = []
        cdef int i
        cdef int64_t bucket
        cdef Slot slot
        if self.table.zeros:
            found.append((0, self.table.zeros))
        for i in range(1 << self.table.bits):
            slot = self.table.slots[i]
            if slot.count:
                bucket = <int64_t> (slot.key >> 1) + 1
                found.append((-bucket if slot.key & 1 else bucket, slot.count))
        found.sort()
        return found


cdef int copy_finite(Counter counter, const Number* values, int64_t n, int64_t step, double* x) noexcept nogil:
    """Copy the finite values as float64, and count the others. Negative zeros become positive. Return how many."""
    cdef int64_t i
    cdef int size = 0
    cdef double value
    if Number is double or Number is float:
        for i in range(n):
            value = <double> values[i * step]
            x[size] = value + 0.0
            size += value - value == 0
        if size < n:
            for i in range(n):
                value = <double> values[i * step]
                if value != value:
                    counter.nan += 1
                elif value - value != 0:
                    if value > 0:
                        counter.positive_infinities += 1
                    else:
                        counter.negative_infinities += 1
        return size
    for i in range(n):
        x[i] = <double> values[i * step]
    return <int> n


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
