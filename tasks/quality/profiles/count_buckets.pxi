# The buckets of a histogram with their counts. `counts.pyx` includes this file.
#
# Few different values are counted in a hash table (`Slots`). Once there are more than `limit`, the level is lowered to
# where they fit. Their buckets then follow each other closely, so each has a place in an array (`row`), and counting
# needs no comparison. If the buckets are spread too widely for an array, they stay in the hash table.

cdef enum:
    MIN_LEVEL = -11
    MAX_LEVEL = 20
    WIDTHS = 8  # number of places of each sign in a row, at most, for each bucket of the limit

cdef uint32_t FREE = 0xFFFFFFFF  # neither this nor ZERO is the key of a bucket
cdef uint32_t ZERO = 0xFFFFFFFE


cdef struct Table:
    uint32_t* keys  # exponent, first bits of the mantissa, and sign; NULL if there is a row
    int64_t* counts  # by slot
    int bits  # the logarithm of the number of slots
    int used  # slots
    uint32_t* row  # counts of 0, of positive and of negative buckets; NULL if there are slots
    uint64_t base  # exponent and first bits of the mantissa of the first bucket of the row
    int64_t width  # number of places of each sign
    int limit
    int level
    int64_t counted  # values
    int64_t most_in_row  # number of values that a row may count, because its counts have 32 bits


cdef inline uint64_t magnitude_of(double x) noexcept nogil:
    cdef uint64_t bits
    memcpy(&bits, &x, 8)
    return bits << 1 >> 1


cdef int make_slots(Table* table) noexcept nogil:
    """Make free slots. Return 0 if there is no memory."""
    cdef int size = 1 << table.bits
    table.keys = <uint32_t*> malloc(size * sizeof(uint32_t))
    table.counts = <int64_t*> calloc(size, sizeof(int64_t))
    table.used = 0
    if table.keys == NULL or table.counts == NULL:
        return 0
    memset(table.keys, 0xFF, size * sizeof(uint32_t))
    return 1


cdef void free_table(Table* table) noexcept nogil:
    free(table.keys)
    free(table.counts)
    free(table.row)
    table.keys, table.counts, table.row = NULL, NULL, NULL


cdef inline uint32_t coarser(uint32_t key, int levels) noexcept nogil:
    return key if key == ZERO else (key >> 1 >> levels << 1) | (key & 1)


cdef inline int slot_of(Table* table, uint32_t key, uint32_t slot) noexcept nogil:
    """Return the slot of a key, or the free slot in which it belongs. The search begins at `slot`."""
    cdef uint32_t mask = (<uint32_t> 1 << table.bits) - 1
    while table.keys[slot] != key and table.keys[slot] != FREE:
        slot = (slot + 1) & mask
    return slot


cdef inline uint32_t first_slot(Table* table, uint32_t key) noexcept nogil:
    return (key * <uint32_t> 0x9E3779B1) >> (32 - table.bits)


cdef void add_key(Table* table, uint32_t key, int64_t count) noexcept nogil:
    cdef int slot = slot_of(table, key, first_slot(table, key))
    table.used += table.keys[slot] == FREE
    table.keys[slot] = key
    table.counts[slot] += count


cdef inline int64_t place_of(Table* table, uint32_t key) noexcept nogil:
    """Return the place of a bucket in the row."""
    if key == ZERO:
        return 0
    return <int64_t> (key >> 1) - <int64_t> table.base + 1 + (key & 1) * table.width


cdef int fits(const uint32_t* keys, int n, int levels, int limit, uint32_t* held, int bits) noexcept nogil:
    """Return whether keys have at most `limit` buckets, so many levels below. `held` has room for 2**bits keys."""
    cdef uint32_t mask = (<uint32_t> 1 << bits) - 1, key, slot
    cdef int i, used = 0
    memset(held, 0xFF, sizeof(uint32_t) << bits)
    for i in range(n):
        key = coarser(keys[i], levels)
        slot = (key * <uint32_t> 0x9E3779B1) >> (32 - bits)
        while held[slot] != key:
            if held[slot] == FREE:
                held[slot] = key
                used += 1
                if used > limit:
                    return 0
                break
            slot = (slot + 1) & mask
    return 1


cdef int lower(Table* table, const double* x, int n) noexcept nogil:
    """Lower the level until the buckets of the slots and of some more values fit. Return 0 if there is no memory."""
    cdef int size = 1 << table.bits, i, number = 0, low = MIN_LEVEL, high = table.level - 1, middle, levels
    cdef uint32_t* keys = <uint32_t*> malloc((2 * size + n) * sizeof(uint32_t))
    cdef uint32_t* held = <uint32_t*> malloc(max(2 * size, n) * sizeof(uint32_t))
    cdef Table old = table[0]
    cdef int enough = keys != NULL and held != NULL, may_be_row
    if enough:
        for i in range(size):
            keys[number] = old.keys[i]
            number += old.keys[i] != FREE
        find_keys(x, n, MANTISSA_BITS - old.level, old.bits, keys + number, held)
        number += n
        while low < high:
            middle = (low + high + 1) >> 1
            if fits(keys, number, old.level - middle, old.limit, held, old.bits + 1):
                low = middle
            else:
                high = middle - 1
        levels = old.level - low
        table.level = low
        may_be_row = table.counted <= table.most_in_row
        enough = (may_be_row and make_row(table, keys, number, levels)) or make_slots(table)
    if enough:
        for i in range(size):
            if old.keys[i] == FREE:
                continue
            if table.row != NULL:
                table.row[place_of(table, coarser(old.keys[i], levels))] += <uint32_t> old.counts[i]
            else:
                add_key(table, coarser(old.keys[i], levels), old.counts[i])
        free(old.keys)
        free(old.counts)
    free(keys)
    free(held)
    return enough


cdef int make_row(Table* table, const uint32_t* keys, int n, int levels) noexcept nogil:
    """Make a row, with some places more, if the buckets of the keys are close enough to each other."""
    cdef uint32_t first = FREE, last = 0, key
    cdef int i
    for i in range(n):
        if keys[i] != ZERO:
            key = keys[i] >> 1 >> levels
            first, last = min(first, key), max(last, key)
    if first > last:
        return 0
    return widen(table, first, last)


cdef int widen(Table* table, uint64_t first, uint64_t last) noexcept nogil:
    """Make the row hold these buckets, too. Return 0 if they are too far apart, or if there is no memory."""
    cdef uint64_t spare
    cdef int64_t width
    cdef uint32_t* row
    if table.row != NULL:
        first, last = min(first, table.base), max(last, table.base + table.width - 1)
    spare = (last - first + 1) >> 2
    if last - first + 1 + spare > <uint64_t> WIDTHS * table.limit:
        return 0
    first = first - spare if first > spare else 0  # small magnitudes follow more often than large ones
    width = last - first + 1
    row = <uint32_t*> calloc(1 + 2 * width, sizeof(uint32_t))
    if row == NULL:
        return 0
    if table.row != NULL:
        row[0] = table.row[0]
        memcpy(row + 1 + (table.base - first), table.row + 1, table.width * sizeof(uint32_t))
        memcpy(
            row + 1 + width + (table.base - first), table.row + 1 + table.width, table.width * sizeof(uint32_t)
        )
        free(table.row)
    else:
        table.keys, table.counts = NULL, NULL  # `lower` has them, too
    table.row, table.base, table.width = row, first, width
    return 1


cdef void settle(Table* table) noexcept nogil:
    """Lower the level until the buckets of the row fit."""
    cdef int64_t place, width, sign
    cdef uint32_t new
    cdef uint64_t base
    cdef uint32_t* row = table.row
    if row == NULL:
        return
    while table.level > MIN_LEVEL and count_filled(row, 1 + 2 * table.width) > table.limit:
        base = table.base >> 1
        width = <int64_t> (((table.base + table.width - 1) >> 1) - base) + 1
        for sign in range(2):  # what is written lies before what is still to be read
            for place in range(width):
                new = 0
                if 2 * (base + place) >= table.base:
                    new += row[1 + sign * table.width + 2 * (base + place) - table.base]
                if 2 * (base + place) + 1 < table.base + table.width:
                    new += row[1 + sign * table.width + 2 * (base + place) + 1 - table.base]
                row[1 + sign * width + place] = new
        table.level -= 1
        table.base, table.width = base, width


cdef int leave_row(Table* table) noexcept nogil:
    """Move the counts of the row to slots. Return 0 if there is no memory."""
    cdef int64_t place
    cdef uint32_t* row = table.row
    settle(table)
    if not make_slots(table):
        return 0
    if row[0]:
        add_key(table, ZERO, row[0])
    for place in range(table.width):
        if row[1 + place]:
            add_key(table, <uint32_t> (table.base + place) << 1, row[1 + place])
        if row[1 + table.width + place]:
            add_key(table, <uint32_t> (table.base + place) << 1 | 1, row[1 + table.width + place])
    free(row)
    table.row = NULL
    return 1


cdef int count_in_slots(Table* table, const double* x, int n) noexcept nogil:
    """Count values until there are too many buckets. Return how many values are counted."""
    cdef uint32_t[1024 + 8] keys
    cdef uint32_t[1024 + 8] slots
    cdef uint32_t key
    cdef int i, slot
    find_keys(x, n, MANTISSA_BITS - table.level, table.bits, keys, slots)
    for i in range(n):
        key, slot = keys[i], slots[i]
        if table.keys[slot] != key:
            slot = slot_of(table, key, slot)
            if table.keys[slot] == FREE:
                table.keys[slot] = key
                table.used += 1
                if table.used > table.limit:
                    table.counts[slot] += 1
                    return i + 1
        table.counts[slot] += 1
    return n


cdef int count_in_row(Table* table, const double* x, int n) noexcept nogil:
    """Count values if their buckets are close enough to those of the row. Return whether they are."""
    cdef uint32_t[1024 + 8] places
    cdef int i, drop = MANTISSA_BITS - table.level
    cdef uint32_t* row
    cdef uint64_t bucket, first = <uint64_t> 1 << 63, last = 0
    if not find_places(x, n, drop, table.base, table.width, places):
        for i in range(n):
            if x[i] != 0:
                bucket = magnitude_of(x[i]) >> drop
                first, last = min(first, bucket), max(last, bucket)
        if not widen(table, first, last):
            return 0
        find_places(x, n, drop, table.base, table.width, places)
    row = table.row
    for i in range(n):
        row[places[i]] += 1
    return 1


cdef int count_block(Table* table, const double* x, int n) noexcept nogil:
    """Count a block of finite values, none of which is a negative zero. Return 0 if there is no memory."""
    cdef int done = 0
    table.counted += n
    while done < n:
        if table.row != NULL:
            if table.counted <= table.most_in_row and count_in_row(table, x + done, n - done):
                return 1
            if not leave_row(table):
                return 0
        done += count_in_slots(table, x + done, n - done)
        if table.used > table.limit and not lower(table, x + done, n - done):
            return 0
    return 1
