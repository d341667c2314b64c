# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Counts the words of ASCII documents as the text vectorizers of scikit-learn do with their default pattern.

A word is a run of two or more letters, digits and underscores. A document is written to a buffer in lower case, with 0
for each byte that is not part of a word. Where words begin and end is read from a bit for each byte, 64 bytes at a time,
because a branch at the end of each word would often be predicted wrongly. If sequences of words (n-grams) are counted,
the words that are not stop words are written to a second buffer with one blank between them, so an n-gram is a piece of
this buffer. The column of a word is looked up in a hash table, or computed from its hash. No Python object is made for
it.

If there are few columns, each has a total and a bit, and the bits say which totals a document has, in their order.
Otherwise, the columns of a document are sorted.

A hash table consists of the bytes of its terms, one after another, and of slots. Each slot is four integers: the lower
half of the hash, the place and the length of the term, and its column. The length of an empty slot is 0. If a slot is
taken by another term, the next one is used. Lookups read up to 8 bytes after a term, so both the terms and the buffer
end with that many unused bytes.
"""

from cpython.bytearray cimport PyByteArray_FromStringAndSize
from cpython.number cimport PyNumber_Index
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy, memset

cdef extern from "Python.h":
    bint PyUnicode_CheckExact(object text)
    bint PyUnicode_IS_ASCII(object text)
    const void* PyUnicode_DATA(object text)
    Py_ssize_t PyUnicode_GET_LENGTH(object text)
    bint PyBytes_CheckExact(object data)
    const char* PyBytes_AS_STRING(object data)
    Py_ssize_t PyBytes_GET_SIZE(object data)

cdef extern from *:
    """
    #include <stdint.h>
    #if defined(__SSE2__)  /* every x86-64 */
    #include <emmintrin.h>
    #endif

    /* Replace each of 64 bytes that is no letter, digit or underscore by 0. `lower` is the bit that letters get: 32 for
       lower case, or 0. Return a bit for each byte that is part of a word. */
    static inline uint64_t find_words(uint8_t *bytes, uint8_t lower)
    {
        uint64_t bits = 0;
    #if defined(__SSE2__)
        for (int i = 0; i < 64; i += 16) {
            const __m128i found = _mm_loadu_si128((const __m128i *) (bytes + i));
            const __m128i letter = _mm_sub_epi8(_mm_or_si128(found, _mm_set1_epi8(32)), _mm_set1_epi8('a'));
            const __m128i digit = _mm_sub_epi8(found, _mm_set1_epi8('0'));
            const __m128i letters = _mm_cmpeq_epi8(_mm_min_epu8(letter, _mm_set1_epi8(25)), letter);
            const __m128i digits = _mm_cmpeq_epi8(_mm_min_epu8(digit, _mm_set1_epi8(9)), digit);
            const __m128i word = _mm_or_si128(_mm_or_si128(letters, digits), _mm_cmpeq_epi8(found, _mm_set1_epi8('_')));
            const __m128i cased = _mm_or_si128(found, _mm_and_si128(letters, _mm_set1_epi8((char) lower)));
            _mm_storeu_si128((__m128i *) (bytes + i), _mm_and_si128(cased, word));
            bits |= (uint64_t) (uint32_t) _mm_movemask_epi8(word) << i;
        }
    #else
        for (int i = 0; i < 64; i++) {
            const uint8_t found = bytes[i];
            const int letter = (uint8_t) ((found | 32) - 'a') < 26;
            const int word = letter | ((uint8_t) (found - '0') < 10) | (found == '_');
            bytes[i] = word ? found | (letter ? lower : 0) : 0;
            bits |= (uint64_t) word << i;
        }
    #endif
        return bits;
    }

    /* Return the number of the lowest bit that is set. There must be one. */
    static inline int lowest_bit(uint64_t bits)
    {
    #if defined(__GNUC__)
        return __builtin_ctzll(bits);
    #else
        int number = 0;
        for (; !(bits & 1); bits >>= 1) number++;
        return number;
    #endif
    }
    """
    uint64_t find_words(uint8_t* bytes, uint8_t lower) noexcept nogil
    int lowest_bit(uint64_t bits) noexcept nogil

VERSION = 2  # that of the module `extension`

cdef enum:
    PADDING = 8
    BLOCK = 64  # bytes whose words are found together
    COPIED = 16  # bytes of a word that are copied together
    MAX_TOTALS = 1 << 16  # columns that have totals: 256 KiB, so that they stay in the cache
    FULL = 5  # of this many terms, a table has 8 slots more than terms / FULL * 8
    FEW_TERMS = 2048  # up to so many terms, a table has 8 slots for each term, so that few terms share a slot
    RUN = 24  # so many keys are sorted by insertion

cdef struct Slot:
    uint32_t tag
    uint32_t start
    uint32_t length
    int32_t column

cdef struct Table:
    const Slot* slots
    uint64_t n_slots
    const uint8_t* terms

cdef struct Words:
    uint8_t* text
    uint8_t* joined  # NULL if no n-gram has more than one word
    int32_t* starts  # in `joined`, or otherwise in `text`
    int32_t* ends
    Py_ssize_t count

cdef struct Keys:
    uint32_t* values  # twice the column, plus 1 if the word counts as -1
    uint32_t* spare
    Py_ssize_t count
    Py_ssize_t capacity

cdef struct Counts:
    int32_t* columns
    int32_t* values
    int64_t count
    int64_t capacity

cdef struct Totals:
    int32_t* values  # of each column; NULL if columns are sorted instead
    uint64_t* marks  # a bit for each column that the document has
    uint64_t* groups  # a bit for each of the marks that is not 0
    int64_t n_groups

cdef struct Rules:
    int min_n
    int max_n
    int64_t n_features  # 0 if there is a vocabulary
    uint32_t n_columns  # of the vocabulary
    bint alternate_sign
    Table vocabulary
    Table stop_words


cdef inline uint64_t load(const uint8_t* data) noexcept nogil:
    cdef uint64_t value
    memcpy(&value, data, sizeof(value))
    return value


cdef inline uint64_t first_bytes(Py_ssize_t length) noexcept nogil:
    """Return a mask for the first bytes of what `load` returns, fewer than 8, on machines with little-endian order."""
    return ((<uint64_t> 1) << (8 * length)) - 1


cdef inline uint64_t hash_of(const uint8_t* data, Py_ssize_t length) noexcept nogil:
    cdef uint64_t value = <uint64_t> length
    while length >= 8:
        value = (value ^ load(data)) * 0x9E3779B97F4A7C15u
        value ^= value >> 32
        data += 8
        length -= 8
    value = (value ^ (load(data) & first_bytes(length))) * 0x9E3779B97F4A7C15u
    value ^= value >> 29
    return value * 0xBF58476D1CE4E5B9u


cdef inline bint equal(const uint8_t* one, const uint8_t* other, Py_ssize_t length) noexcept nogil:
    while length >= 8:
        if load(one) != load(other):
            return False
        one += 8
        other += 8
        length -= 8
    return ((load(one) ^ load(other)) & first_bytes(length)) == 0


cdef inline uint64_t slot_of(const Table* table, const uint8_t* term, Py_ssize_t length, uint64_t value) noexcept nogil:
    """Return the slot of a term, or the empty slot where the search for it ends. The table must have an empty slot."""
    cdef uint64_t place = ((value >> 32) * table.n_slots) >> 32
    cdef const Slot* slot
    while True:
        slot = &table.slots[place]
        if slot.length == 0:
            return place
        if slot.tag == <uint32_t> value and slot.length == <uint32_t> length:
            if equal(term, table.terms + slot.start, length):
                return place
        place += 1
        if place == table.n_slots:
            place = 0


cdef inline int32_t find(const Table* table, const uint8_t* term, Py_ssize_t length) noexcept nogil:
    """Return the column of a term, or -1 if the table does not have the term."""
    cdef const Slot* slot = &table.slots[slot_of(table, term, length, hash_of(term, length))]
    return slot.column if slot.length else -1


cdef inline uint32_t rotated(uint32_t value, int bits) noexcept nogil:
    return (value << bits) | (value >> (32 - bits))


cdef inline int32_t murmur(const uint8_t* data, Py_ssize_t length) noexcept nogil:
    """Return MurmurHash3 (x86, 32 bits, seed 0), with which `HashingVectorizer` hashes."""
    cdef uint32_t value = 0, block
    cdef Py_ssize_t at = 0
    while at + 4 <= length:
        memcpy(&block, data + at, sizeof(block))
        value ^= rotated(block * 0xCC9E2D51u, 15) * 0x1B873593u
        value = rotated(value, 13) * 5 + 0xE6546B64u
        at += 4
    block = 0
    if length - at == 3:
        block ^= (<uint32_t> data[at + 2]) << 16
    if length - at >= 2:
        block ^= (<uint32_t> data[at + 1]) << 8
    if length - at >= 1:
        block ^= data[at]
        value ^= rotated(block * 0xCC9E2D51u, 15) * 0x1B873593u
    value ^= <uint32_t> length
    value = (value ^ (value >> 16)) * 0x85EBCA6Bu
    value = (value ^ (value >> 13)) * 0xC2B2AE35u
    return <int32_t> (value ^ (value >> 16))


cdef inline uint32_t hashed(const uint8_t* term, Py_ssize_t length, const Rules* rules) noexcept nogil:
    """Return the key of a term as `HashingVectorizer` computes its column and its sign."""
    cdef int64_t value = murmur(term, length)  # in 64 bits, because the smallest hash has no positive value in 32
    cdef int64_t column = (value if value >= 0 else -value) % rules.n_features
    return (<uint32_t> column) << 1 | <uint32_t> (rules.alternate_sign and value < 0)


cdef void split(
    const uint8_t* data, Py_ssize_t length, bint lower, const Table* stop_words, Words* words
) noexcept nogil:
    """Find the words of a document, in lower case if `lower`."""
    cdef Py_ssize_t at, begin = 0, count = 0, ended = 0, number
    cdef uint64_t bits, before, carry = 0, edges
    memcpy(words.text, data, length)
    memset(words.text + length, 0, BLOCK)
    while begin <= length:  # one byte more, so that the last word ends before it
        bits = find_words(words.text + begin, 32 if lower else 0)
        before = bits << 1 | carry
        carry = bits >> 63
        edges = bits & ~before
        while edges:
            words.starts[count] = <int32_t> (begin + lowest_bit(edges))
            count += 1
            edges &= edges - 1
        edges = before & ~bits
        while edges:
            words.ends[ended] = <int32_t> (begin + lowest_bit(edges))
            ended += 1
            edges &= edges - 1
        begin += BLOCK
    words.count = 0
    for number in range(count):
        begin, at = words.starts[number], words.ends[number]
        words.starts[words.count] = <int32_t> begin
        words.ends[words.count] = <int32_t> at
        if stop_words.n_slots and find(stop_words, words.text + begin, at - begin) >= 0:
            continue
        words.count += at - begin >= 2
    if words.joined != NULL:
        join(words)


cdef void join(Words* words) noexcept nogil:
    """Write the words to `joined`, with one blank between them."""
    cdef Py_ssize_t used = 0, number, length, done
    for number in range(words.count):
        length = words.ends[number] - words.starts[number]
        done = 0
        while done < length:  # some bytes more, which the next word overwrites
            memcpy(words.joined + used + done, words.text + words.starts[number] + done, COPIED)
            done += COPIED
        words.starts[number] = <int32_t> used
        used += length
        words.ends[number] = <int32_t> used
        words.joined[used] = 32
        used += 1


cdef void add_keys(const Words* words, const Rules* rules, Keys* keys) noexcept nogil:
    """Add the keys of the n-grams of a document that have a column."""
    cdef Py_ssize_t first
    cdef const uint8_t* text = words.text if words.joined == NULL else words.joined
    cdef const uint8_t* term
    cdef Py_ssize_t length
    cdef uint32_t column
    cdef int n
    for n in range(rules.min_n, rules.max_n + 1):
        for first in range(words.count - n + 1):
            term = text + words.starts[first]
            length = words.ends[first + n - 1] - words.starts[first]
            if rules.n_features:
                keys.values[keys.count] = hashed(term, length, rules)
                keys.count += 1
                continue
            column = <uint32_t> find(&rules.vocabulary, term, length)
            if column < rules.n_columns:  # -1 is not
                keys.values[keys.count] = column << 1
                keys.count += 1


cdef void sort(Keys* keys) noexcept nogil:
    """Sort the keys: short runs by insertion, which are then merged."""
    cdef uint32_t* source = keys.values
    cdef uint32_t* target = keys.spare
    cdef Py_ssize_t count = keys.count, width = RUN, begin, middle, end, i, j, place
    cdef uint32_t key
    begin = 0
    while begin < count:
        end = min(begin + RUN, count)
        for i in range(begin + 1, end):
            key = source[i]
            j = i
            while j > begin and source[j - 1] > key:
                source[j] = source[j - 1]
                j -= 1
            source[j] = key
        begin = end
    while width < count:
        begin = 0
        while begin < count:
            middle = min(begin + width, count)
            end = min(middle + width, count)
            i = begin
            j = middle
            for place in range(begin, end):
                if i < middle and (j == end or source[i] <= source[j]):
                    target[place] = source[i]
                    i += 1
                else:
                    target[place] = source[j]
                    j += 1
            begin = end
        source, target = target, source
        width *= 2
    keys.values = source
    keys.spare = target


cdef void add_totals(const Keys* keys, Totals* totals, Counts* counts) noexcept nogil:
    """Add the counts of a document from the totals of its columns, which are 0 before and afterwards."""
    cdef Py_ssize_t at
    cdef int64_t group, mark
    cdef int32_t column
    cdef uint64_t marks
    for at in range(keys.count):
        column = <int32_t> (keys.values[at] >> 1)
        totals.values[column] += 1 - 2 * <int32_t> (keys.values[at] & 1)
        totals.marks[column >> 6] |= (<uint64_t> 1) << (column & 63)
        totals.groups[column >> 12] |= (<uint64_t> 1) << (column >> 6 & 63)
    for group in range(totals.n_groups):
        while totals.groups[group]:
            mark = group * 64 + lowest_bit(totals.groups[group])
            totals.groups[group] &= totals.groups[group] - 1
            marks = totals.marks[mark]
            totals.marks[mark] = 0
            while marks:
                column = <int32_t> (mark * 64 + lowest_bit(marks))
                marks &= marks - 1
                counts.columns[counts.count] = column
                counts.values[counts.count] = totals.values[column]
                totals.values[column] = 0
                counts.count += 1


cdef int add_counts(Keys* keys, Totals* totals, Counts* counts) noexcept nogil:
    """Add the counts of a document, in the order of their columns. Returns -1 if there is no memory left."""
    cdef int64_t capacity
    cdef void* grown
    cdef Py_ssize_t at
    if counts.count + keys.count > counts.capacity:
        capacity = 2 * (counts.count + keys.count) + 1024
        grown = realloc(counts.columns, capacity * sizeof(int32_t))
        if grown == NULL:
            return -1
        counts.columns = <int32_t*> grown
        grown = realloc(counts.values, capacity * sizeof(int32_t))
        if grown == NULL:
            return -1
        counts.values = <int32_t*> grown
        counts.capacity = capacity
    if totals.values != NULL:
        add_totals(keys, totals, counts)
        return 0
    sort(keys)
    for at in range(keys.count):
        if at == 0 or keys.values[at] >> 1 != keys.values[at - 1] >> 1:
            counts.columns[counts.count] = <int32_t> (keys.values[at] >> 1)
            counts.values[counts.count] = 0
            counts.count += 1
        counts.values[counts.count - 1] += 1 - 2 * <int32_t> (keys.values[at] & 1)
    return 0


cdef int reserve(Keys* keys, Py_ssize_t count) except -1:
    """Empty the keys, and let them have room for so many."""
    keys.count = 0
    if count > keys.capacity:
        free(keys.values)
        free(keys.spare)
        keys.capacity = 0
        keys.values = <uint32_t*> malloc(count * sizeof(uint32_t))
        keys.spare = <uint32_t*> malloc(count * sizeof(uint32_t))
        if keys.values == NULL or keys.spare == NULL:
            raise MemoryError
        keys.capacity = count
    return 0


cdef int add_features(list features, dict vocabulary, const Rules* rules, Keys* keys) except -1:
    """Add the keys of the n-grams that scikit-learn found in a document."""
    cdef object column
    cdef bytes term
    cdef int64_t number
    reserve(keys, len(features))
    for feature in features:
        if rules.n_features:
            term = feature.encode("utf-8")
            keys.values[keys.count] = hashed(<const uint8_t*> PyBytes_AS_STRING(term), len(term), rules)
            keys.count += 1
        elif (column := vocabulary.get(feature)) is not None:
            number = PyNumber_Index(column)
            if not 0 <= number < rules.n_columns:
                raise ValueError(f"the column {number} is out of range")
            keys.values[keys.count] = (<uint32_t> number) << 1
            keys.count += 1
    return 0


cdef bint is_ascii(const uint8_t* data, Py_ssize_t length) noexcept nogil:
    cdef Py_ssize_t at
    cdef uint8_t all_bits = 0
    for at in range(length):
        all_bits |= data[at]
    return all_bits < 0x80


cdef Table table_of(const uint8_t[::1] terms, const uint8_t[::1] slots) except *:
    cdef Table table
    table.n_slots = slots.shape[0] // sizeof(Slot)
    table.slots = NULL
    table.terms = NULL
    if table.n_slots:
        table.slots = <const Slot*> &slots[0]
        table.terms = &terms[0]
    return table


cdef int make_totals(Totals* totals, int64_t n_columns) except -1:
    """Make totals of so many columns."""
    totals.n_groups = (n_columns + 4095) >> 12
    totals.values = <int32_t*> calloc(n_columns, sizeof(int32_t))
    totals.marks = <uint64_t*> calloc(totals.n_groups * 64, sizeof(uint64_t))
    totals.groups = <uint64_t*> calloc(totals.n_groups, sizeof(uint64_t))
    if totals.values == NULL or totals.marks == NULL or totals.groups == NULL:
        raise MemoryError
    return 0


def build(dict columns, object other_text):
    """Return the terms and slots of a hash table, as bytes. Terms that are empty or not ASCII are left out.

    Raises ValueError if a term is neither str nor `other_text`, or if the columns are not the numbers from 0 on.
    """
    cdef Py_ssize_t n_terms = 0, n_bytes = 0, count = len(columns), length, used = 0
    cdef uint64_t place, value
    cdef int64_t column
    cdef Table table
    cdef Slot* own
    cdef bytearray seen = bytearray(count)
    for term, number in columns.items():
        if not PyUnicode_CheckExact(term) and type(term) is not other_text:
            raise ValueError("a term of its vocabulary is not text")
        column = PyNumber_Index(number)
        if not 0 <= column < min(count, 0x7FFFFFFF) or seen[column]:
            raise ValueError("the columns of its vocabulary are not the numbers from 0 on")
        seen[column] = 1
        if PyUnicode_IS_ASCII(term) and PyUnicode_GET_LENGTH(term):
            n_terms += 1
            n_bytes += PyUnicode_GET_LENGTH(term)
    if n_bytes > 0xFFFFFFFF - PADDING:
        raise ValueError(f"its vocabulary has {n_bytes:,} characters")
    terms = bytearray(n_bytes + PADDING)
    cdef uint8_t[::1] bytes_of_terms = terms
    table.n_slots = <uint64_t> (max(n_terms, 1) if n_terms <= FEW_TERMS else n_terms // FULL + 1) * 8
    slots = bytearray(table.n_slots * sizeof(Slot))
    cdef uint8_t[::1] bytes_of_slots = slots
    own = <Slot*> &bytes_of_slots[0]
    table.slots = own
    table.terms = &bytes_of_terms[0]
    for term, number in columns.items():
        length = PyUnicode_GET_LENGTH(term)
        if not PyUnicode_IS_ASCII(term) or not length:
            continue
        memcpy(&bytes_of_terms[used], PyUnicode_DATA(term), length)
        value = hash_of(&bytes_of_terms[used], length)
        place = slot_of(&table, &bytes_of_terms[used], length, value)
        if own[place].length:
            raise ValueError("two terms of its vocabulary are equal")
        own[place].tag = <uint32_t> value
        own[place].start = <uint32_t> used
        own[place].length = <uint32_t> length
        own[place].column = <int32_t> PyNumber_Index(number)
        used += length
    return terms, slots


def count(
    list documents,
    bint lower,
    const uint8_t[::1] terms,
    const uint8_t[::1] slots,
    const uint8_t[::1] stop_terms,
    const uint8_t[::1] stop_slots,
    int min_n,
    int max_n,
    int64_t n_features,
    bint alternate_sign,
    object analyze,
    dict vocabulary,
    object other_text,
    bint decodes_ascii,
    Py_ssize_t max_bytes,
    int64_t max_counts,
):
    """Count the words of documents.

    Words are counted in lower case if `lower`. Documents that are not ASCII or longer than `max_bytes` are analyzed by `analyze`, which returns the n-grams.
    `other_text` is another type of text whose objects are str. If `decodes_ascii`, bytes in ASCII are text, too.

    Returns the index pointers, columns and counts of a sparse matrix, as bytes of int32. Returns None if a document is
    neither str nor bytes, or if there are more than `max_counts` counts.
    """
    cdef Py_ssize_t n_documents = len(documents), at, longest = 0
    cdef int64_t n_keys = 0, n_bytes = 0, n_columns = n_features if n_features else len(vocabulary)
    cdef Rules rules
    cdef Words words
    cdef Keys keys
    cdef Totals totals
    cdef Counts counts
    cdef const uint8_t** data = NULL
    cdef Py_ssize_t* lengths = NULL
    cdef int32_t* pointers = NULL
    cdef bint failed = False, too_many = False
    if min_n < 1 or max_n < min_n or not 0 <= n_features <= 0x7FFFFFFF:
        raise ValueError("the rules are not valid")
    rules.min_n = min_n
    rules.max_n = max_n
    rules.n_features = n_features
    rules.n_columns = <uint32_t> min(n_columns, 0x7FFFFFFF)
    rules.alternate_sign = alternate_sign
    rules.vocabulary = table_of(terms, slots)
    rules.stop_words = table_of(stop_terms, stop_slots)
    if not n_features and not rules.vocabulary.n_slots:
        raise ValueError("there is no vocabulary")
    words.text = NULL
    words.joined = NULL
    words.starts = NULL
    words.ends = NULL
    keys.values = NULL
    keys.spare = NULL
    keys.capacity = 0
    totals.values = NULL
    totals.marks = NULL
    totals.groups = NULL
    counts.columns = NULL
    counts.values = NULL
    counts.count = 0
    counts.capacity = 0
    try:
        data = <const uint8_t**> calloc(n_documents + 1, sizeof(uint8_t*))
        lengths = <Py_ssize_t*> calloc(n_documents + 1, sizeof(Py_ssize_t))
        pointers = <int32_t*> calloc(n_documents + 1, sizeof(int32_t))
        if data == NULL or lengths == NULL or pointers == NULL:
            raise MemoryError
        for at in range(n_documents):
            document = documents[at]
            if PyUnicode_CheckExact(document) or type(document) is other_text:
                lengths[at] = PyUnicode_GET_LENGTH(document)
                if PyUnicode_IS_ASCII(document) and lengths[at] <= max_bytes:
                    data[at] = <const uint8_t*> PyUnicode_DATA(document)
            elif PyBytes_CheckExact(document):
                lengths[at] = PyBytes_GET_SIZE(document)
                if decodes_ascii and lengths[at] <= max_bytes:
                    data[at] = <const uint8_t*> PyBytes_AS_STRING(document)
                    if not is_ascii(data[at], lengths[at]):
                        data[at] = NULL
            else:
                return None
            if data[at] != NULL:
                longest = max(longest, lengths[at])
            n_bytes += lengths[at]
        words.text = <uint8_t*> calloc(longest + 2 * BLOCK, 1)
        words.starts = <int32_t*> malloc((longest // 2 + 1) * sizeof(int32_t))
        words.ends = <int32_t*> malloc((longest // 2 + 1) * sizeof(int32_t))
        if words.text == NULL or words.starts == NULL or words.ends == NULL:
            raise MemoryError
        if max_n > 1:
            words.joined = <uint8_t*> calloc(longest + 1 + COPIED + PADDING, 1)
            if words.joined == NULL:
                raise MemoryError
        if 0 < n_columns <= min(<int64_t> MAX_TOTALS, n_bytes):  # otherwise, making totals takes longer than sorting
            make_totals(&totals, n_columns)
        reserve(&keys, (longest // 3 + 1) * (max_n - min_n + 1))
        at = 0
        while at < n_documents:
            if data[at] == NULL:
                add_features(analyze(documents[at]), vocabulary, &rules, &keys)
                n_keys += keys.count
                failed = add_counts(&keys, &totals, &counts) < 0
                too_many = n_keys > max_counts
                at += 1
                pointers[at] = <int32_t> counts.count
            with nogil:
                while at < n_documents and data[at] != NULL and not failed and not too_many:
                    split(data[at], lengths[at], lower, &rules.stop_words, &words)
                    keys.count = 0
                    add_keys(&words, &rules, &keys)
                    n_keys += keys.count
                    failed = add_counts(&keys, &totals, &counts) < 0
                    too_many = n_keys > max_counts
                    at += 1
                    pointers[at] = <int32_t> counts.count
            if failed:
                raise MemoryError
            if too_many:
                return None
        return (
            PyByteArray_FromStringAndSize(<const char*> pointers, (n_documents + 1) * sizeof(int32_t)),
            PyByteArray_FromStringAndSize(<const char*> counts.columns, counts.count * sizeof(int32_t)),
            PyByteArray_FromStringAndSize(<const char*> counts.values, counts.count * sizeof(int32_t)),
        )
    finally:
        free(<void*> data)
        free(lengths)
        free(pointers)
        free(words.text)
        free(words.joined)
        free(words.starts)
        free(words.ends)
        free(keys.values)
        free(keys.spare)
        free(totals.values)
        free(totals.marks)
        free(totals.groups)
        free(counts.columns)
        free(counts.values)
