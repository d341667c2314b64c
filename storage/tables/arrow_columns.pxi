# Finds the values of the columns of a record batch, which pyarrow hands over in Arrow's C data interface
# (https://arrow.apache.org/docs/format/CDataInterface.html). One call for a batch of thousands of columns replaces
# several Python objects for each column, which would take longer than copying or counting a few thousand values.

from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.stdint cimport int64_t, uintptr_t

cdef extern from *:
    """
    #ifndef ARROW_C_DATA_INTERFACE
    #define ARROW_C_DATA_INTERFACE
    #include <stdint.h>
    struct ArrowSchema {
        const char *format, *name, *metadata;
        int64_t flags, n_children;
        struct ArrowSchema **children, *dictionary;
        void (*release)(struct ArrowSchema *);
        void *private_data;
    };
    struct ArrowArray {
        int64_t length, null_count, offset, n_buffers, n_children;
        const void **buffers;
        struct ArrowArray **children, *dictionary;
        void (*release)(struct ArrowArray *);
        void *private_data;
    };
    #endif
    """
    struct ArrowSchema:
        const char* format
        int64_t n_children
        ArrowSchema** children
        ArrowSchema* dictionary
    struct ArrowArray:
        int64_t length, null_count, offset, n_buffers, n_children
        const void** buffers
        ArrowArray** children


cdef struct Batch:
    ArrowSchema* schema
    ArrowArray* array
    int64_t rows
    int64_t columns


cdef int open_batch(tuple capsules, Batch* found) except -1:
    """Read what `RecordBatch.__arrow_c_array__` returned. The capsules own the memory."""
    schema, array = capsules
    found.schema = <ArrowSchema*> PyCapsule_GetPointer(schema, "arrow_schema")
    found.array = <ArrowArray*> PyCapsule_GetPointer(array, "arrow_array")
    found.rows, found.columns = found.array.length, found.array.n_children
    if found.schema.n_children != found.columns:
        raise ValueError("the schema of a batch has another number of columns")
    return 0


cdef const char* numbers_of(const Batch* batch, int64_t place, char* kind) noexcept nogil:
    """Return where the numbers of a column begin; NULL if it is not a column of numbers, or may have nulls.

    `kind` becomes the format character of Arrow, such as ``g`` for float64.
    """
    cdef ArrowSchema* schema = batch.schema.children[place]
    cdef ArrowArray* array = batch.array.children[place]
    cdef int64_t size
    kind[0] = schema.format[0]
    if kind[0] == 0 or schema.format[1] != 0 or schema.dictionary != NULL or array.n_buffers != 2:
        return NULL
    if array.buffers[0] != NULL and array.null_count != 0:
        return NULL
    if kind[0] == b"g" or kind[0] == b"l" or kind[0] == b"L":
        size = 8
    elif kind[0] == b"f" or kind[0] == b"i" or kind[0] == b"I":
        size = 4
    elif kind[0] == b"s" or kind[0] == b"S":
        size = 2
    elif kind[0] == b"c" or kind[0] == b"C":
        size = 1
    else:
        return NULL
    if array.buffers[1] == NULL or <uintptr_t> array.buffers[1] % size:
        return NULL
    return <const char*> array.buffers[1] + (batch.array.offset + array.offset) * size
