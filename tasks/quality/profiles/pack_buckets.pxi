# Lists the buckets of a histogram, and packs them for the footer of a part. `counts.pyx` includes this file.

cdef int64_t number_of_buckets(Table* table) noexcept nogil:
    return table.used if table.row == NULL else count_filled(table.row, 1 + 2 * table.width)


cdef void list_buckets(Table* table, int64_t* buckets, int64_t* counts) noexcept nogil:
    """List the buckets in any order, with their counts."""
    cdef int64_t place, bucket, size = 1 << table.bits if table.row == NULL else 1 + 2 * table.width
    for place in range(size):
        if table.row != NULL:
            if not table.row[place]:
                continue
            bucket = place - 1 + table.base + 1
            bucket = 0 if place == 0 else bucket if place <= table.width else table.width - bucket
        elif table.keys[place] == FREE:
            continue
        else:
            bucket = <int64_t> (table.keys[place] >> 1) + 1
            bucket = 0 if table.keys[place] == ZERO else -bucket if table.keys[place] & 1 else bucket
        buckets[0] = bucket
        counts[0] = table.row[place] if table.row != NULL else table.counts[place]
        buckets += 1
        counts += 1


cdef void sort_buckets(int64_t* buckets, int64_t* counts, int64_t n, int64_t* spare) noexcept nogil:
    """Sort buckets with their counts, byte by byte. `spare` has room for both arrays."""
    cdef int64_t[256] ends
    cdef int64_t i, low, high, place, largest
    cdef int shift = 0, digit
    cdef int64_t* other = spare
    cdef int64_t* other_counts = spare + n
    cdef int64_t* in_buckets = buckets
    cdef int64_t* in_counts = counts
    low, high = buckets[0], buckets[0]
    for i in range(n):
        low, high = min(low, buckets[i]), max(high, buckets[i])
    largest = high - low
    while largest >> shift:
        memset(ends, 0, sizeof(ends))
        for i in range(n):
            ends[((in_buckets[i] - low) >> shift) & 255] += 1
        place = 0
        for digit in range(256):
            i = ends[digit]
            ends[digit] = place
            place += i
        for i in range(n):
            digit = ((in_buckets[i] - low) >> shift) & 255
            other[ends[digit]], other_counts[ends[digit]] = in_buckets[i], in_counts[i]
            ends[digit] += 1
        in_buckets, other = other, in_buckets
        in_counts, other_counts = other_counts, in_counts
        shift += 8
    if in_buckets != buckets:
        memcpy(buckets, in_buckets, n * sizeof(int64_t))
        memcpy(counts, in_counts, n * sizeof(int64_t))


cdef inline int width_of(uint64_t largest) noexcept nogil:
    """Return the fewest bytes, a power of two, that hold a number."""
    return 1 if largest < 1 << 8 else 2 if largest < 1 << 16 else 4 if largest < <uint64_t> 1 << 32 else 8


cdef uint8_t* write_numbers(const int64_t* numbers, int64_t n, int width, uint8_t* at) noexcept nogil:
    """Write the least significant byte of each number first. Return where the numbers end."""
    cdef int64_t i
    cdef int place
    if width == 1:
        for i in range(n):
            at[i] = <uint8_t> numbers[i]
    else:
        for i in range(n):
            for place in range(width):
                at[width * i + place] = <uint8_t> (<uint64_t> numbers[i] >> (8 * place))
    return at + n * width


cdef tuple pack(Table* table):
    """Return the number of buckets, the first one, the bytes of each distance and of each count, and both arrays."""
    cdef int64_t n = number_of_buckets(table), i, first
    cdef uint64_t far = 0, many = 0
    cdef int one, two
    cdef int64_t* buckets
    cdef int64_t* counts
    cdef uint8_t* at
    if not n:
        raise ValueError("there are no buckets")
    buckets = <int64_t*> malloc(4 * n * sizeof(int64_t))
    if buckets == NULL:
        raise MemoryError
    counts = buckets + n
    try:
        list_buckets(table, buckets, counts)
        sort_buckets(buckets, counts, n, buckets + 2 * n)
        for i in range(n):
            many = max(many, <uint64_t> counts[i])
            if i:
                far = max(far, <uint64_t> (buckets[i] - buckets[i - 1]))
        one, two = width_of(far), width_of(many)
        data = PyBytes_FromStringAndSize(NULL, (n - 1) * one + n * two)
        at = <uint8_t*> PyBytes_AS_STRING(data)
        first = buckets[0]
        for i in range(n - 1):
            buckets[i] = buckets[i + 1] - buckets[i]
        write_numbers(counts, n, two, write_numbers(buckets, n - 1, one, at))
        return n, first, one, two, data
    finally:
        free(buckets)
