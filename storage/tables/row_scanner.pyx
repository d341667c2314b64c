# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, binding=True
"""Find the records of a text, and recognize those that tell nothing new, in one pass over its bytes.

This module is compiled where there is a compiler. Without it, `boundaries` and `row_patterns` do the same with NumPy
and regular expressions, at a fifth of the speed. The records are the same. A scanner may recognize fewer of them.

The bytes come from strangers. A scanner reads no byte beyond the one that follows the text, which is zero in each
`bytes` object. Words of 8 bytes are read only if all of them belong to the text.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memchr, memcmp

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>

    #if defined(__GNUC__) && defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    /* Return the number of digits with which 8 bytes begin. */
    static inline int digits_of_8(const uint8_t *at) {
        uint64_t word;
        memcpy(&word, at, 8);
        word ^= 0x3030303030303030ULL; /* digits become 0 to 9 */
        /* A sum may carry into the byte above, but only from a byte that is no digit. */
        word = ((word + 0x7676767676767676ULL) | word) & 0x8080808080808080ULL;
        return word ? (int)(__builtin_ctzll(word) >> 3) : 8;
    }
    #else
    static inline int digits_of_8(const uint8_t *at) {
        int count = 0;
        while (count < 8 && (uint8_t)(at[count] - '0') <= 9) count++;
        return count;
    }
    #endif

    /* Return the first 8 bytes, or fewer: the others are zero. */
    static inline uint64_t first_bytes(const uint8_t *at, int64_t size) {
        uint64_t word = 0;
        memcpy(&word, at, size < 8 ? (size < 0 ? 0 : size) : 8);
        return word;
    }

    /* Return whether two words of memory begin like those at a place. */
    static inline int begins_with(const uint8_t *at, const uint64_t *words, const uint64_t *masks) {
        uint64_t found[2];
        memcpy(found, at, 16);
        return !(((found[0] ^ words[0]) & masks[0]) | ((found[1] ^ words[1]) & masks[1]));
    }

    static inline const uint8_t *after_digits(const uint8_t *at, const uint8_t *end) {
        while (end - at >= 8) {
            int count = digits_of_8(at);
            at += count;
            if (count < 8) return at;
        }
        while (at < end && (uint8_t)(*at - '0') <= 9) at++;
        return at;
    }
    """
    int digits_of_8(const uint8_t *at) noexcept nogil
    uint64_t first_bytes(const uint8_t *at, int64_t size) noexcept nogil
    bint begins_with(const uint8_t *at, const uint64_t *words, const uint64_t *masks) noexcept nogil
    const uint8_t *after_digits(const uint8_t *at, const uint8_t *end) noexcept nogil

include "plain_numbers.pxi"

ctypedef const uint8_t *Place

cdef enum:
    LF = 10
    CR = 13

# Kinds of values, and what else is known of a column. `known_rows` has the same numbers.
cdef enum:
    KIND = 0x07
    TEXT = 0
    INTEGER = 1
    FLOAT = 2
    SHORT_FLOAT = 3
    BOOLEAN = 4
    WORD = 5
    NOTHING = 6
    SKIPPED = 7
    PADDED = 0x08
    LARGE = 0x10
    MISSING = 0x20
    NUMBERS = 0x40

cdef enum:
    STOPS_TEXT = 1
    STOPS_QUOTED = 2
    STOPS_WORD = 4
    STOPS_FIELD = 8
    BEGINS_WORD = 16
    CONTINUES_WORD = 32

cdef inline bint is_digit(uint8_t byte) noexcept nogil:
    return <uint8_t>(byte - 48) <= 9


cdef struct Number:
    Place whole  # where the digits begin
    int64_t digits  # number of digits before the decimal point
    int64_t decimals  # number of digits after it, or -1 if there is no decimal point


cdef inline Place read_number(Place at, Place end, uint8_t point, Number *number) noexcept nogil:
    """Return the position after the sign, the digits and the decimals."""
    at += at[0] == 45
    number.whole = at
    at = after_digits(at, end)
    number.digits = at - number.whole
    number.decimals = -1
    if at[0] == point and at < end:
        at += 1
        number.decimals = at - number.whole
        at = after_digits(at, end)
        number.decimals = at - number.whole - number.decimals
    return at


cdef inline Place after_exponent(Place at, Place end) noexcept nogil:
    """Return the position after an exponent of up to two digits, if there is one; NULL if it is incomplete."""
    if (at[0] | 32) != 101 or at >= end:
        return at
    at += 1
    at += at[0] == 45 or at[0] == 43
    if not is_digit(at[0]):
        return NULL
    at += 1
    return at + is_digit(at[0])


cdef class _Found:
    """Collects the records of a text."""

    cdef int64_t *starts
    cdef int64_t *ends
    cdef int64_t *others
    cdef int64_t count, unknown, room, unknown_room

    def __cinit__(self):
        self.starts = self.ends = self.others = NULL
        self.count = self.unknown = self.room = self.unknown_room = 0

    def __dealloc__(self):
        free(self.starts)
        free(self.ends)
        free(self.others)

    cdef bint add(self, int64_t start, int64_t end, bint known) noexcept nogil:
        """Add a record. Return False if there is no memory for it."""
        cdef int64_t *larger
        if self.count == self.room:
            self.room = 4 * self.room + 1024
            larger = <int64_t *>realloc(self.starts, self.room * sizeof(int64_t))
            if larger == NULL:
                return False
            self.starts = larger
            larger = <int64_t *>realloc(self.ends, self.room * sizeof(int64_t))
            if larger == NULL:
                return False
            self.ends = larger
        if not known:
            if self.unknown == self.unknown_room:
                self.unknown_room = 4 * self.unknown_room + 64
                larger = <int64_t *>realloc(self.others, self.unknown_room * sizeof(int64_t))
                if larger == NULL:
                    return False
                self.others = larger
            self.others[self.unknown] = self.count
            self.unknown += 1
        self.starts[self.count] = start
        self.ends[self.count] = end
        self.count += 1
        return True

    cdef tuple result(self, int64_t rest):
        return (
            _packed(self.starts, self.count),
            _packed(self.ends, self.count),
            rest,
            _packed(self.others, self.unknown),
        )


cdef bytes _packed(int64_t *numbers, int64_t count):
    return PyBytes_FromStringAndSize(<char *>numbers, count * sizeof(int64_t)) if count else b""


cdef class _Columns:
    """Memory for the values of some columns."""

    cdef int64_t[:, ::1] values
    cdef uint8_t[:, ::1] valid
    cdef int64_t[::1] nulls
    cdef int64_t count, rows

    def __init__(self, values, valid, nulls):
        self.values, self.valid, self.nulls = values, valid, nulls
        self.count, self.rows = values.shape[0], values.shape[1]
        if not self.count == valid.shape[0] == len(nulls) or 8 * valid.shape[1] < self.rows:
            raise ValueError("the memory for values, valid bits and numbers of nulls differs in size")

    cdef inline void add_null(self, int64_t column, int64_t row) noexcept nogil:
        self.values[column, row] = 0
        self.valid[column, row >> 3] &= ~(1 << (row & 7))
        self.nulls[column] += 1


cdef int64_t _wanted(bytes kinds) except -1:
    """Return the number of columns that are read."""
    if not set(kinds) <= {INTEGER, FLOAT, SKIPPED}:
        raise ValueError("only integers and floats can be decoded")
    return sum(kind != SKIPPED for kind in kinds)


cdef class _Words:
    """A few byte strings, one after another."""

    cdef bytes joined
    cdef Place first
    cdef int64_t *stops
    cdef int64_t count

    def __cinit__(self, words):
        cdef int64_t number
        words = list(words)
        self.joined = b"".join(words)
        self.first = <Place>PyBytes_AS_STRING(self.joined)
        self.count = len(words)
        self.stops = <int64_t *>malloc((self.count + 1) * sizeof(int64_t))
        if self.stops == NULL:
            raise MemoryError
        self.stops[0] = 0
        for number in range(self.count):
            self.stops[number + 1] = self.stops[number] + len(words[number])

    def __dealloc__(self):
        free(self.stops)


cdef class _Scanner:
    """Passes the bytes of a block to the methods of a format, which do not hold the lock of the interpreter."""

    cdef bytes kinds
    cdef Place columns
    cdef int64_t width

    def scan(self, bytes data not None, bint last):
        cdef _Found found = _Found()
        cdef Place begin = <Place>PyBytes_AS_STRING(data)
        cdef Place end = begin + PyBytes_GET_SIZE(data)
        cdef int64_t rest
        with nogil:
            rest = self.find(begin, end, last, found)
        if rest < 0:
            raise MemoryError
        return found.result(rest)

    def decode(self, bytes data not None, values, valid, nulls):
        cdef _Columns columns = _Columns(values, valid, nulls)
        cdef Place begin = <Place>PyBytes_AS_STRING(data)
        cdef Place end = begin + PyBytes_GET_SIZE(data)
        cdef bint done
        if columns.count != _wanted(self.kinds):
            raise ValueError("there is memory for another number of columns")
        with nogil:
            done = self.decode_records(begin, end, columns)
        return done

    cdef bint decode_records(self, Place at, Place end, _Columns columns) noexcept nogil:
        """Read the values of all records. Return False if there are others than expected, or values are not plain."""
        return False

    cdef int64_t find(self, Place begin, Place end, bint last, _Found found) noexcept nogil:
        """Find the records. Return where the first incomplete record may begin; -1 if there is not enough memory."""
        return -1


cdef class DelimitedScanner(_Scanner):
    """Scans delimited text (see the stub)."""

    cdef uint8_t delimiter, quote, point
    cdef bint quoted
    cdef _Words nulls, unlike
    cdef uint8_t classes[256]

    def __init__(self, delimiter, quote, point=46, kinds=b"", nulls=(), unlike=()):
        cdef int byte
        if not 0 < delimiter < 128 or not -1 <= quote < 128 or quote == 0 or delimiter in (10, 13, quote):
            raise ValueError("a scanner needs a delimiter and a quotation mark in ASCII")
        if quote in (10, 13) or not 0 < point < 128 or point == delimiter or is_digit(point):
            raise ValueError("a scanner needs a decimal point that is not the delimiter")
        if any(byte in b"0123456789+-.eE" for byte in (delimiter, quote) if byte >= 0):
            raise ValueError("a scanner needs a delimiter and a quotation mark that are not parts of numbers")
        self.delimiter, self.point = delimiter, point
        self.quoted, self.quote = quote >= 0, max(quote, 0)
        self.kinds = kinds
        self.columns, self.width = <Place>PyBytes_AS_STRING(self.kinds), len(self.kinds)
        self.nulls, self.unlike = _Words(nulls), _Words(unlike)
        for byte in range(256):
            self.classes[byte] = 0
            if byte in (0, LF, CR) or byte == quote:
                self.classes[byte] |= STOPS_TEXT | STOPS_QUOTED | STOPS_WORD | STOPS_FIELD
            if byte == self.delimiter:
                self.classes[byte] |= STOPS_TEXT | STOPS_WORD | STOPS_FIELD
            if byte == 92:
                self.classes[byte] |= STOPS_QUOTED | STOPS_WORD
            if chr(byte).isascii() and (chr(byte).isalnum() or byte == 95):
                self.classes[byte] |= CONTINUES_WORD
                if not chr(byte).isdigit():
                    self.classes[byte] |= BEGINS_WORD

    cdef bint decode_records(self, Place at, Place end, _Columns columns) noexcept nogil:
        """Read the values of all records. Return False if there are others than expected, or values are not plain."""
        cdef int64_t row = 0, number, column
        cdef uint8_t kind
        cdef bint marked
        while at < end:
            if at[0] == LF or at[0] == CR:
                at = self.after_line_end(at, end, True)
                continue
            if row == columns.rows:
                return False
            column = 0
            for number in range(self.width):
                if number:
                    if at >= end or at[0] != self.delimiter:
                        return False
                    at += 1
                kind = self.columns[number] & KIND
                marked = self.quoted and at < end and at[0] == self.quote
                if kind == SKIPPED:
                    at = self.after_text(at, end, marked)
                    if at == NULL:
                        return False
                    continue
                if not marked and self.is_field_end(at, end):
                    columns.add_null(column, row)
                else:
                    at += marked
                    if kind == FLOAT:
                        at = read_double(at, end, self.point, <double *>&columns.values[column, row])
                    else:
                        at = read_integer(at, end, &columns.values[column, row])
                    if at == NULL or marked and (at >= end or at[0] != self.quote):
                        return False
                    at += marked
                column += 1
            at = self.after_line_end(at, end, True)
            if at == NULL:
                return False
            row += 1
        return row == columns.rows

    cdef int64_t find(self, Place begin, Place end, bint last, _Found found) noexcept nogil:
        cdef Place at = begin
        cdef Place after
        cdef int64_t size = end - begin
        cdef bint plain = memchr(begin, CR, size) == NULL
        if plain and self.quoted:
            plain = memchr(begin, self.quote, size) == NULL
        while at < end:
            if at[0] == LF or at[0] == CR:
                after = self.after_line_end(at, end, last)
                if after == NULL:
                    break
                at = after
                continue
            after = self.after_known(at, end, last) if self.width else NULL
            if after != NULL:
                if not found.add(at - begin, after - begin, True):
                    return -1
                at = after
                continue
            after = self.after_record(at, end, last, plain)
            if after == NULL:
                break
            if not found.add(at - begin, after - begin, False):
                return -1
            at = after
        return at - begin

    cdef inline Place after_line_end(self, Place at, Place end, bint last) noexcept nogil:
        """Return the position after a line end; NULL if there is none, or if the next block may begin with its LF."""
        if at >= end:
            return at if last else NULL
        if at[0] == LF:
            return at + 1
        if at[0] != CR:
            return NULL
        if at + 1 < end:
            return at + 1 + (at[1] == LF)
        return at + 1 if last else NULL

    cdef Place after_record(self, Place at, Place end, bint last, bint plain) noexcept nogil:
        """Return the position after any record; NULL if it is incomplete."""
        if plain:
            at = <Place>memchr(at, LF, end - at)
            return at + 1 if at != NULL else end if last else NULL
        while True:
            if self.quoted and at < end and at[0] == self.quote:
                at += 1
                while True:
                    at = <Place>memchr(at, self.quote, end - at)
                    if at == NULL:
                        return NULL
                    at += 1
                    if at >= end or at[0] != self.quote:
                        break
                    at += 1
            while at < end and at[0] != self.delimiter and at[0] != LF and at[0] != CR:
                at += 1
            if at >= end or at[0] != self.delimiter:
                return self.after_line_end(at, end, last)
            at += 1

    cdef Place after_known(self, Place at, Place end, bint last) noexcept nogil:
        """Return the position after a record that tells nothing new; NULL if it may tell something."""
        cdef int64_t number
        cdef Place after
        for number in range(self.width):
            if number:
                if at >= end or at[0] != self.delimiter:
                    return NULL
                at += 1
            if self.columns[number] & KIND == FLOAT and end - at >= 24:
                after = self.after_plain_number(at)
                if after != NULL:
                    at = after
                    continue
            after = self.after_field(at, end, self.columns[number])
            if after == NULL:
                return NULL
            at = after
        return self.after_line_end(at, end, last)

    cdef inline Place after_plain_number(self, Place at) noexcept nogil:
        """Return the position after a number with decimals if it is short and ends with a delimiter; NULL if not."""
        cdef int digits, decimals
        at += at[0] == 45
        if is_digit(at[0]) and at[1] == self.point:  # the processor guesses this, and goes on while it is computed
            at += 2
        else:
            digits = digits_of_8(at)
            if at[0] == 48 or not 1 < digits < 8 or at[digits] != self.point:
                return NULL
            at += digits + 1
        decimals = digits_of_8(at)
        return at + decimals if decimals < 8 and at[decimals] == self.delimiter else NULL

    cdef inline Place after_field(self, Place at, Place end, uint8_t column) noexcept nogil:
        cdef Place after
        cdef bint marked = self.quoted and at < end and at[0] == self.quote
        if column & KIND == TEXT:
            return self.after_text(at, end, marked)
        after = self.after_value(at + marked, end, column)
        if marked:
            return after + 1 if after != NULL and after < end and after[0] == self.quote else NULL
        if after != NULL and self.is_field_end(after, end):
            return after
        if not column & MISSING:
            return NULL
        return at if self.is_field_end(at, end) else self.after_null(at, end)

    cdef inline bint is_field_end(self, Place at, Place end) noexcept nogil:
        return at[0] == self.delimiter or at[0] == LF or at[0] == CR or at >= end

    cdef inline Place after_text(self, Place at, Place end, bint marked) noexcept nogil:
        cdef int stop = STOPS_QUOTED if marked else STOPS_TEXT
        at += marked
        while at < end and not self.classes[at[0]] & stop:
            at += 1
        if not marked:
            return at
        return at + 1 if at < end and at[0] == self.quote else NULL

    cdef inline Place after_value(self, Place at, Place end, uint8_t column) noexcept nogil:
        cdef Number number
        cdef Place after
        cdef int kind = column & KIND
        if kind == FLOAT or kind == SHORT_FLOAT or kind == INTEGER:
            after = read_number(at, end, self.point, &number)
            if number.digits > 1 and number.whole[0] == 48 and not column & PADDED:
                return NULL
            if kind == FLOAT:
                return after_exponent(after, end) if number.digits > 0 or number.decimals > 0 else NULL
            if kind == SHORT_FLOAT:
                return after_exponent(after, end) if is_short(&number) else NULL
            if number.decimals >= 0 or not 1 <= number.digits <= (18 if column & LARGE else 15):
                return NULL
            if number.whole[0] == 48 and number.whole != at and not column & PADDED:
                return NULL
            return after
        if kind == BOOLEAN:
            return after_boolean(at, end)
        if kind == WORD:
            return self.after_word(at, end, column)
        return NULL

    cdef Place after_null(self, Place at, Place end) noexcept nogil:
        """Return the position after a text that stands for a missing value."""
        cdef Place after = at
        cdef int64_t number, size
        while after < end and not self.classes[after[0]] & STOPS_FIELD:
            after += 1
        if not self.is_field_end(after, end):
            return NULL
        for number in range(self.nulls.count):
            size = self.nulls.stops[number + 1] - self.nulls.stops[number]
            if size == after - at and not memcmp(at, self.nulls.first + self.nulls.stops[number], size):
                return after
        return NULL

    cdef Place after_word(self, Place at, Place end, uint8_t column) noexcept nogil:
        """Return the position after a word that is no number and does not stand for a missing value.

        After a word for a missing value, only a letter or a digit may follow, because white space at the end is ignored.
        """
        cdef Place after = at
        cdef Place word
        cdef Number digits
        cdef int64_t number, size, place
        if at >= end or not self.classes[at[0]] & BEGINS_WORD:
            if not column & NUMBERS:
                return NULL
            return self.after_value(at, end, INTEGER)
        while after < end and not self.classes[after[0]] & STOPS_WORD:
            after += 1
        for number in range(self.unlike.count):
            size = self.unlike.stops[number + 1] - self.unlike.stops[number]
            if size > after - at:
                continue
            word = self.unlike.first + self.unlike.stops[number]
            place = 0
            while place < size and lower(at[place]) == word[place]:
                place += 1
            if place == size and (size == after - at or not self.classes[at[size]] & CONTINUES_WORD):
                return NULL
        return after


cdef inline uint8_t lower(uint8_t byte) noexcept nogil:
    return byte + 32 if 65 <= byte <= 90 else byte


cdef inline bint is_short(Number *number) noexcept nogil:
    """Return whether float64 distinguishes numbers with so many digits."""
    if number.decimals < 0:
        return 1 <= number.digits <= 15
    if number.decimals == 0 or number.digits == 0:
        return False
    if number.digits == 1:
        return number.decimals <= (17 if number.whole[0] == 48 else 16)
    return number.decimals <= (15 if number.digits == 2 else 11 if number.digits <= 6 else 0)


cdef Place after_boolean(Place at, Place end) noexcept nogil:
    if end - at >= 4 and (not memcmp(at, b"true", 4) or not memcmp(at, b"True", 4) or not memcmp(at, b"TRUE", 4)):
        return at + 4
    if end - at >= 5 and (not memcmp(at, b"false", 5) or not memcmp(at, b"False", 5) or not memcmp(at, b"FALSE", 5)):
        return at + 5
    return NULL


cdef inline int utf8_length(Place at, Place end) noexcept nogil:
    """Return the number of bytes of a character outside of ASCII; 0 if it is not valid."""
    cdef uint8_t first = at[0]
    cdef int size, place
    size = 2 if 0xC2 <= first <= 0xDF else 3 if 0xE0 <= first <= 0xEF else 4 if 0xF0 <= first <= 0xF4 else 0
    if not size or end - at < size:
        return 0
    for place in range(1, size):
        if at[place] & 0xC0 != 0x80:
            return 0
    if first == 0xE0 and at[1] < 0xA0 or first == 0xED and at[1] > 0x9F:
        return 0
    if first == 0xF0 and at[1] < 0x90 or first == 0xF4 and at[1] > 0x8F:
        return 0
    return size


cdef class JsonScanner(_Scanner):
    """Scans JSON Lines (see the stub)."""

    cdef bytes optional
    cdef Place may_miss
    cdef _Words keys
    cdef uint64_t *words
    cdef uint64_t *masks
    cdef int64_t room

    def __cinit__(self, keys=(), *others, **named):
        self.room = len(keys)
        self.words = <uint64_t *>malloc(2 * len(keys) * sizeof(uint64_t) + 1)
        self.masks = <uint64_t *>malloc(2 * len(keys) * sizeof(uint64_t) + 1)
        if self.words == NULL or self.masks == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.words)
        free(self.masks)

    def __init__(self, keys=(), kinds=b"", optional=b""):
        cdef int64_t number, place
        cdef bytes member, ones
        if not len(keys) == len(kinds) == len(optional) == self.room:
            raise ValueError("a scanner needs a kind for each key")
        self.keys = _Words(keys)
        self.kinds, self.optional = kinds, optional
        self.columns, self.width = <Place>PyBytes_AS_STRING(self.kinds), len(kinds)
        self.may_miss = <Place>PyBytes_AS_STRING(self.optional)
        for number, key in enumerate(keys):
            member = (b"," if number else b"") + key + b":"
            ones = b"\xff" * len(member)
            for place in range(2):
                self.words[2 * number + place] = first_bytes(
                    <Place>PyBytes_AS_STRING(member) + min(8 * place, len(member)), len(member) - 8 * place
                )
                self.masks[2 * number + place] = first_bytes(
                    <Place>PyBytes_AS_STRING(ones) + min(8 * place, len(member)), len(member) - 8 * place
                )

    cdef bint decode_records(self, Place at, Place end, _Columns columns) noexcept nogil:
        """Read the values of all lines. Return False if there are others than expected, or values are not plain."""
        cdef int64_t row = 0, number, column
        cdef uint8_t kind
        cdef Place after
        while at < end:
            if at[0] == LF:
                at += 1
                continue
            if row == columns.rows or at[0] != 123:
                return False
            at += 1
            column = 0
            for number in range(self.width):
                kind = self.columns[number] & KIND
                after = self.after_key(at, end, number)
                if after == NULL:  # a missing value
                    if not number:
                        return False
                    if kind != SKIPPED:
                        columns.add_null(column, row)
                        column += 1
                    continue
                at = after
                if kind == SKIPPED:
                    at = after_any_json_value(at, end)
                    if at == NULL:
                        return False
                    continue
                if end - at >= 4 and not memcmp(at, b"null", 4):
                    columns.add_null(column, row)
                    at += 4
                elif kind == FLOAT:
                    at = read_double(at, end, 46, <double *>&columns.values[column, row])
                else:
                    at = read_integer(at, end, &columns.values[column, row])
                if at == NULL:
                    return False
                column += 1
            at = after_json_end(at, end, True)
            if at == NULL:
                return False
            row += 1
        return row == columns.rows

    cdef int64_t find(self, Place begin, Place end, bint last, _Found found) noexcept nogil:
        cdef Place at = begin
        cdef Place after
        cdef Place text
        while at < end:
            after = self.after_known(at, end, last) if self.width else NULL
            if after != NULL:
                if not found.add(at - begin, after - begin, True):
                    return -1
                at = after
                continue
            after = <Place>memchr(at, LF, end - at)
            if after == NULL and not last:
                break
            after = end if after == NULL else after + 1
            text = at
            while text < after and (text[0] == 32 or text[0] == 9 or text[0] == LF or text[0] == CR):
                text += 1
            if text < after and not found.add(at - begin, after - begin, False):
                return -1
            at = after
        return at - begin

    cdef Place after_known(self, Place at, Place end, bint last) noexcept nogil:
        """Return the position after a line that tells nothing new; NULL if it may tell something."""
        cdef int64_t number
        cdef Place after
        if at[0] != 123:
            return NULL
        at += 1
        for number in range(self.width):
            after = self.after_key(at, end, number)
            if after == NULL:
                if not self.may_miss[number]:
                    return NULL
                continue
            at = after_json_value(after, end, self.columns[number])
            if at == NULL:
                return NULL
        return after_json_end(at, end, last)

    cdef inline Place after_key(self, Place at, Place end, int64_t number) noexcept nogil:
        """Return the position after a comma, a key and a colon; NULL if there are others."""
        cdef int64_t start = self.keys.stops[number]
        cdef int64_t size = self.keys.stops[number + 1] - start
        cdef int64_t place
        cdef Place key = self.keys.first + start
        cdef int64_t member = (number > 0) + size + 1
        if member <= 16 and end - at >= 16 and begins_with(at, self.words + 2 * number, self.masks + 2 * number):
            at += member
            return at + (at[0] == 32)
        if number:
            if at[0] != 44:
                return NULL
            at += 1
        at += at[0] == 32
        if end - at < size:
            return NULL
        for place in range(size):
            if at[place] != key[place]:
                return NULL
        at += size
        at += at[0] == 32
        if at[0] != 58:
            return NULL
        at += 1
        return at + (at[0] == 32)


cdef inline Place after_json_end(Place at, Place end, bint last) noexcept nogil:
    """Return the position after the end of an object and of its line; NULL if there is something else."""
    at += at[0] == 32
    if at >= end or at[0] != 125:
        return NULL
    at += 1
    at += at[0] == CR
    if at >= end:
        return at if last and (at - 1)[0] != CR else NULL
    return at + 1 if at[0] == LF else NULL


cdef inline Place after_any_json_value(Place at, Place end) noexcept nogil:
    if at[0] == 34:
        return after_json_value(at, end, TEXT)
    if at[0] == 45 or is_digit(at[0]):
        return after_json_value(at, end, FLOAT)
    return after_json_value(at, end, BOOLEAN | MISSING)


cdef inline Place after_json_value(Place at, Place end, uint8_t column) noexcept nogil:
    cdef Number number
    cdef Place after
    cdef int kind = column & KIND
    cdef int size, digits
    if column & MISSING and end - at >= 4 and not memcmp(at, b"null", 4):
        return at + 4
    if kind == FLOAT and end - at >= 24:
        after = at + (at[0] == 45)
        digits = 1 if is_digit(after[0]) and after[1] == 46 else digits_of_8(after)
        if after[digits] == 46 and (digits == 1 or after[0] != 48 and 1 < digits < 8):
            after += digits + 1
            digits = digits_of_8(after)
            if 0 < digits < 8 and (after[digits] == 44 or after[digits] == 125):
                return after + digits
    if kind == FLOAT or kind == INTEGER:
        after = read_number(at, end, 46, &number)
        if not 1 <= number.digits <= 15 or number.decimals == 0 or number.digits > 1 and number.whole[0] == 48:
            return NULL
        if kind == FLOAT:
            return after_exponent(after, end)
        return NULL if number.decimals > 0 or number.whole[0] == 48 and number.whole != at else after
    if kind == TEXT:
        if at >= end or at[0] != 34:
            return NULL
        at += 1
        while at < end and at[0] != 34:
            if at[0] < 32 or at[0] == 92 or at[0] == 127:
                return NULL
            if at[0] < 128:
                at += 1
                continue
            size = utf8_length(at, end)
            if not size:
                return NULL
            at += size
        return at + 1 if at < end else NULL
    if kind == BOOLEAN:
        if end - at >= 4 and not memcmp(at, b"true", 4):
            return at + 4
        if end - at >= 5 and not memcmp(at, b"false", 5):
            return at + 5
    return NULL
