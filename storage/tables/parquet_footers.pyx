# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, binding=True
"""Read the footers of small Parquet files, and join files with equal columns into one that is decoded at once.

This module is compiled where there is a compiler. Without it, Arrow reads each footer, and decodes each file on its
own, which takes four times as long for a file of 200 rows: Arrow spends most of this time on preparing to read a
column.

The bytes come from strangers. A reader reads no byte beyond the end of the file. It knows only what it needs of the
format, and leaves every file to Arrow in which anything is unusual. Arrow then reads the file, or explains what is
wrong.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memcmp

# Types of the compact protocol of Thrift
cdef enum:
    TRUE = 1
    FALSE = 2
    I8 = 3
    I16 = 4
    I32 = 5
    I64 = 6
    DOUBLE = 7
    BINARY = 8
    LIST = 9
    SET = 10
    STRUCT = 12

cdef enum:
    MOST_DEPTH = 16
    DATA_PAGE = 0
    DICTIONARY_PAGE = 2
    DATA_PAGE_V2 = 3

cdef struct Cursor:
    const uint8_t *at
    const uint8_t *end
    bint is_bad
    int field  # the number of the last field of the struct, or 0

cdef struct Chunk:
    # Positions within the file of the two offsets, as encoded, their sizes and values; a size of 0 if one is absent
    int64_t data_at
    int64_t data_size
    int64_t dictionary_at
    int64_t dictionary_size
    int64_t kind  # the physical type
    int64_t data
    int64_t dictionary
    int64_t uncompressed
    int64_t compressed
    int64_t values
    int64_t nulls


cdef uint64_t varint(Cursor *cursor) noexcept nogil:
    cdef uint64_t value = 0
    cdef int shift = 0
    cdef uint8_t byte
    while cursor.at < cursor.end and shift < 64:
        byte = cursor.at[0]
        cursor.at += 1
        value |= (<uint64_t>(byte & 0x7F)) << shift
        if byte < 0x80:
            return value
        shift += 7
    cursor.is_bad = True
    return 0


cdef int64_t number(Cursor *cursor) noexcept nogil:
    cdef uint64_t value = varint(cursor)
    return <int64_t>(value >> 1) ^ -<int64_t>(value & 1)


cdef void leap(Cursor *cursor, uint64_t size) noexcept nogil:
    if size > <uint64_t>(cursor.end - cursor.at):
        cursor.is_bad = True
    else:
        cursor.at += size


cdef int next_field(Cursor *cursor) noexcept nogil:
    """Return the type of the next field of a struct; 0 at its end. Fields in another order are bad."""
    cdef uint8_t byte
    cdef int64_t wanted
    if cursor.is_bad or cursor.at >= cursor.end:
        cursor.is_bad = True
        return 0
    byte = cursor.at[0]
    cursor.at += 1
    if byte == 0:
        return 0
    if byte >> 4:
        cursor.field += byte >> 4
    else:
        wanted = number(cursor)
        if wanted <= cursor.field or wanted > 1000:
            cursor.is_bad = True
            return 0
        cursor.field = <int>wanted
    if byte & 0x0F == 0 or byte & 0x0F > STRUCT:
        cursor.is_bad = True
        return 0
    return byte & 0x0F


cdef int64_t list_size(Cursor *cursor, int kind) noexcept nogil:
    """Return the number of items of a list, which must be of type `kind`."""
    cdef uint8_t byte
    cdef uint64_t size
    if cursor.at >= cursor.end:
        cursor.is_bad = True
        return 0
    byte = cursor.at[0]
    cursor.at += 1
    size = byte >> 4
    if size == 15:
        size = varint(cursor)
    if byte & 0x0F != kind or size > <uint64_t>(cursor.end - cursor.at):  # an item takes at least a byte
        cursor.is_bad = True
        return 0
    return <int64_t>size


cdef void skip(Cursor *cursor, int kind, int depth, bint in_list) noexcept nogil:
    cdef int inner
    cdef int64_t size, count
    cdef int field
    if depth > MOST_DEPTH:
        cursor.is_bad = True
    if cursor.is_bad:
        return
    if kind == TRUE or kind == FALSE:
        if in_list:  # otherwise the header of the field has the value
            leap(cursor, 1)
    elif kind == I8:
        leap(cursor, 1)
    elif kind == I16 or kind == I32 or kind == I64:
        varint(cursor)
    elif kind == DOUBLE:
        leap(cursor, 8)
    elif kind == BINARY:
        leap(cursor, varint(cursor))
    elif kind == LIST or kind == SET:
        if cursor.at >= cursor.end:
            cursor.is_bad = True
            return
        inner = cursor.at[0] & 0x0F
        size = list_size(cursor, inner)
        for count in range(size):
            if cursor.is_bad:
                return
            skip(cursor, inner, depth + 1, True)
    elif kind == STRUCT:
        field = cursor.field
        cursor.field = 0
        while True:
            inner = next_field(cursor)
            if inner == 0 or cursor.is_bad:
                break
            skip(cursor, inner, depth + 1, False)
        cursor.field = field
    else:
        cursor.is_bad = True


cdef int64_t number_in(Cursor *cursor, int wanted, int wanted_kind) noexcept nogil:
    """Read a struct, and return the number in one of its fields; -1 if the struct does not have the field."""
    cdef int kind, field = cursor.field
    cdef int64_t found = -1
    cursor.field = 0
    while True:
        kind = next_field(cursor)
        if kind == 0 or cursor.is_bad:
            break
        if cursor.field == wanted and kind == wanted_kind:
            found = number(cursor)
        else:
            skip(cursor, kind, 1, False)
    cursor.field = field
    return found


cdef void read_column(Cursor *cursor, Chunk *chunk, const uint8_t *begin) noexcept nogil:
    """Read the metadata of a column chunk."""
    cdef int kind, field = cursor.field
    cdef int seen = 0
    cdef const uint8_t *at
    cursor.field = 0
    chunk.nulls = -1
    chunk.data_size = chunk.dictionary_size = 0
    while True:
        kind = next_field(cursor)
        if kind == 0 or cursor.is_bad:
            break
        if cursor.field <= 12:
            seen |= 1 << cursor.field
        at = cursor.at
        if cursor.field == 1 and kind == I32:
            chunk.kind = number(cursor)
        elif cursor.field == 5 and kind == I64:
            chunk.values = number(cursor)
        elif cursor.field == 6 and kind == I64:
            chunk.uncompressed = number(cursor)
        elif cursor.field == 7 and kind == I64:
            chunk.compressed = number(cursor)
        elif cursor.field == 9 and kind == I64:
            chunk.data = number(cursor)
            chunk.data_at = at - begin
            chunk.data_size = cursor.at - at
        elif cursor.field == 11 and kind == I64:
            chunk.dictionary = number(cursor)
            chunk.dictionary_at = at - begin
            chunk.dictionary_size = cursor.at - at
        elif cursor.field == 12 and kind == STRUCT:
            chunk.nulls = number_in(cursor, 3, I64)  # the null count of the statistics
        elif kind == (
            I32 if cursor.field == 4
            else LIST if cursor.field == 2 or cursor.field == 3
            else I64 if cursor.field == 10
            else kind if cursor.field == 8 or cursor.field > 12
            else 0
        ):
            skip(cursor, kind, 1, False)
        else:
            cursor.is_bad = True
    cursor.field = field
    # Fields 1 to 7 and 9 are required
    if seen & 0x2FE != 0x2FE or chunk.kind & 7 != chunk.kind or chunk.values < 0 or chunk.data <= 0:
        cursor.is_bad = True
    if chunk.uncompressed < 0 or chunk.compressed < 0:
        cursor.is_bad = True


cdef void read_chunk(Cursor *cursor, Chunk *chunk, const uint8_t *begin) noexcept nogil:
    """Read a column chunk. A chunk in another file, or an encrypted one, is bad."""
    cdef int kind, field = cursor.field
    cdef int seen = 0
    cursor.field = 0
    while True:
        kind = next_field(cursor)
        if kind == 0 or cursor.is_bad:
            break
        if cursor.field == 3 and kind == STRUCT:
            read_column(cursor, chunk, begin)
            seen |= 2
        elif cursor.field == 2 and kind == I64:
            varint(cursor)
            seen |= 1
        elif 4 <= cursor.field <= 7:
            skip(cursor, kind, 1, False)
        else:
            cursor.is_bad = True
    cursor.field = field
    if seen != 3:
        cursor.is_bad = True


cdef bint has_all_pages(const uint8_t *begin, int64_t size, int64_t values) noexcept nogil:
    """Return whether the pages of a column chunk fill it exactly, and have so many values."""
    cdef Cursor cursor
    cdef int kind
    cdef int64_t page, length, count, found = 0
    cursor.at, cursor.end, cursor.is_bad = begin, begin + size, False
    while cursor.at < cursor.end:
        page = length = count = -1
        cursor.field = 0
        while True:
            kind = next_field(&cursor)
            if kind == 0 or cursor.is_bad:
                break
            if cursor.field == 1 and kind == I32:
                page = number(&cursor)
            elif cursor.field == 3 and kind == I32:
                length = number(&cursor)
            elif kind == STRUCT and cursor.field == (5 if page == DATA_PAGE else 8 if page == DATA_PAGE_V2 else 0):
                count = number_in(&cursor, 1, I32)  # the number of values in the header of the page
            else:
                skip(&cursor, kind, 1, False)
        if page == DATA_PAGE or page == DATA_PAGE_V2:
            if not 0 <= count <= values - found:
                return False
            found += count
        elif page != DICTIONARY_PAGE:
            return False
        if length < 0:
            return False
        leap(&cursor, <uint64_t>length)
        if cursor.is_bad:
            return False
    return found == values


cdef class Footer:
    """The footer of a small file whose rows are in one row group (see the stub)."""

    cdef readonly bytes data
    cdef readonly bytes layout
    cdef readonly int64_t rows
    cdef readonly int64_t size
    cdef readonly bint ends_with_columns
    cdef int64_t stop
    """Position of the footer, which is the end of all columns."""
    cdef int64_t group_at, group_stop
    """Positions of the row group within the file."""
    cdef int64_t head_at, head_stop
    """Positions of the fields before the number of rows, within the file."""
    cdef bytes tail
    cdef bytes chunks

    @property
    def columns(self):
        return PyBytes_GET_SIZE(self.chunks) // <Py_ssize_t>sizeof(Chunk)

    def nulls(self, Py_ssize_t column):
        return self.chunk(column).nulls

    def bytes_of(self, Py_ssize_t column):
        return self.chunk(column).uncompressed

    cdef const Chunk *chunk(self, Py_ssize_t column) except NULL:
        if not 0 <= column < PyBytes_GET_SIZE(self.chunks) // <Py_ssize_t>sizeof(Chunk):
            raise IndexError(column)
        return <const Chunk *>PyBytes_AS_STRING(self.chunks) + column


def read_footer(bytes data not None):
    """Read the footer of a file (see the stub)."""
    cdef Py_ssize_t size = PyBytes_GET_SIZE(data)
    cdef const uint8_t *begin = <const uint8_t *>PyBytes_AS_STRING(data)
    cdef Cursor cursor
    cdef Footer footer
    cdef int64_t length, count, place, total, columns = 0, seen = 0, start
    cdef int kind, inner
    cdef bytearray chunks, kinds
    cdef Chunk *chunk
    if size < 12 or memcmp(begin, b"PAR1", 4) or memcmp(begin + size - 4, b"PAR1", 4):
        return None
    length = <int64_t>begin[size - 8] | <int64_t>begin[size - 7] << 8 | <int64_t>begin[size - 6] << 16
    length |= <int64_t>begin[size - 5] << 24
    if length > size - 12:
        return None
    footer = Footer.__new__(Footer)
    footer.data, footer.stop = data, size - 8 - length
    cursor.at, cursor.end, cursor.is_bad, cursor.field = begin + footer.stop, begin + size - 8, False, 0
    footer.head_at = footer.stop
    # Version and schema
    kind = next_field(&cursor)
    if kind != I32 or cursor.field != 1:
        return None
    varint(&cursor)
    kind = next_field(&cursor)
    if kind != LIST or cursor.field != 2:
        return None
    skip(&cursor, LIST, 1, False)
    kind = next_field(&cursor)
    if kind != I64 or cursor.field != 3:
        return None
    footer.head_stop = cursor.at - begin
    footer.rows = number(&cursor)
    kind = next_field(&cursor)
    if kind != LIST or cursor.field != 4 or list_size(&cursor, STRUCT) != 1 or cursor.is_bad:
        return None
    # The only row group
    footer.group_at = cursor.at - begin
    cursor.field = 0
    chunks = bytearray()
    total = footer.size = -1
    while True:
        kind = next_field(&cursor)
        if kind == 0 or cursor.is_bad:
            break
        if cursor.field == 1 and kind == LIST:
            columns = list_size(&cursor, STRUCT)
            chunks = bytearray(columns * sizeof(Chunk))
            chunk = <Chunk *><char *>chunks
            for place in range(columns):
                read_chunk(&cursor, chunk + place, begin)
                if cursor.is_bad:
                    return None
        elif cursor.field == 2 and kind == I64:
            footer.size = number(&cursor)
        elif cursor.field == 3 and kind == I64:
            total = number(&cursor)
        elif cursor.field > 3:
            skip(&cursor, kind, 1, False)
        else:
            return None
    footer.group_stop = cursor.at - begin
    if cursor.is_bad or total != footer.rows or footer.rows <= 0 or footer.size < 0 or columns == 0:
        return None
    # The other fields; not those of encrypted files
    cursor.field = 4
    while True:
        kind = next_field(&cursor)
        if kind == 0 or cursor.is_bad:
            break
        if cursor.field > 7:
            return None
        skip(&cursor, kind, 1, False)
    if cursor.is_bad or cursor.at != cursor.end:
        return None
    chunk = <Chunk *><char *>chunks
    kinds = bytearray(columns)
    for place in range(columns):
        kinds[place] = chunk[place].kind
        start = chunk_start(chunk + place)
        if start < 4 or start > footer.stop or chunk[place].compressed > footer.stop - start:
            return None
        if chunk[place].data > footer.stop or chunk[place].dictionary > footer.stop:
            return None
        footer.ends_with_columns = start + chunk[place].compressed == footer.stop
    footer.chunks = bytes(chunks)
    footer.tail = data[footer.group_stop : size - 8]
    footer.layout = data[footer.head_at : footer.head_stop] + footer.tail + kinds
    return footer


cdef int64_t chunk_start(const Chunk *chunk) noexcept nogil:
    """Return the position of the first page of a column chunk, as Arrow does."""
    if chunk.dictionary_size and 0 < chunk.dictionary < chunk.data:
        return chunk.dictionary
    return chunk.data


cdef void put_varint(bytearray out, uint64_t left):
    while left >= 0x80:
        out.append(<uint8_t>(left & 0x7F) | 0x80)
        left >>= 7
    out.append(<uint8_t>left)


cdef void put_number(bytearray out, int64_t value):
    put_varint(out, (<uint64_t>value << 1) ^ <uint64_t>(value >> 63))


def join(footers not None):
    """Return a file with a row group for each file (see the stub)."""
    cdef Footer footer, first
    cdef const Chunk *chunk
    cdef const uint8_t *begin
    cdef int64_t place, base = 0, rows = 0, at
    cdef bytearray groups = bytearray()
    cdef list pieces = []
    first = footers[0]
    for footer in footers:
        if footer.layout != first.layout or footer.columns != first.columns:
            return None
        begin = <const uint8_t *>PyBytes_AS_STRING(footer.data)
        chunk = <const Chunk *>PyBytes_AS_STRING(footer.chunks)
        view = memoryview(footer.data)
        at = footer.group_at
        for place in range(footer.columns):
            if chunk[place].values != footer.rows:
                return None
            if not has_all_pages(begin + chunk_start(chunk + place), chunk[place].compressed, footer.rows):
                return None
            groups += view[at : chunk[place].data_at]
            put_number(groups, chunk[place].data + base)
            at = chunk[place].data_at + chunk[place].data_size
            if chunk[place].dictionary_size and chunk[place].dictionary > 0:
                groups += view[at : chunk[place].dictionary_at]
                put_number(groups, chunk[place].dictionary + base)
                at = chunk[place].dictionary_at + chunk[place].dictionary_size
        groups += view[at : footer.group_stop]
        pieces.append(view[: footer.stop])
        base += footer.stop
        rows += footer.rows
    end = bytearray(memoryview(first.data)[first.head_at : first.head_stop])
    put_number(end, rows)
    end.append(0x19)  # the next field is a list
    if len(footers) < 15:
        end.append(<uint8_t>(len(footers) << 4) | STRUCT)
    else:
        end.append(0xF0 | STRUCT)
        put_varint(end, len(footers))
    end += groups
    end += first.tail
    pieces += [end, len(end).to_bytes(4, "little"), b"PAR1"]
    return b"".join(pieces)
