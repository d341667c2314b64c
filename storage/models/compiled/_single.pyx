# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Walks rows through one tree, and looks at their values on the way.

For a single tree, validating and copying the rows takes longer than the walk. Here a block of rows is converted to
float32, looked at for values that are not finite, and walked while it is in the cache. If any value might be refused,
the caller asks scikit-learn.

A node takes 8 bytes: a threshold in float32, and the integer of `_walk`. The columns are the features themselves. A
value that is not a number goes to the side that the node says. The threshold of a leaf is no number, so every row that
has arrived stays there, and its lowest bits are the number that the leaf has in the tree of scikit-learn.

The nodes must have been made by `nodes.pack_single`, which checks them. Nothing is checked while rows walk.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

VERSION = 6  # that of the module `extension`

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>

    /* The loops over values are compiled twice for x86-64: for every processor, and for those with AVX2, which the
       program finds when it starts. Both convert in the same way. Sanitizers cannot run before the choice is made. */
    #if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__) \
        && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    #define FOR_EACH_PROCESSOR __attribute__((target_clones("avx2", "default")))
    #else
    #define FOR_EACH_PROCESSOR
    #endif

    static inline uint32_t bits_of(float value)
    {
        uint32_t bits;
        memcpy(&bits, &value, sizeof bits);
        return bits;
    }

    /* Write values in float32. Return whether any of these is not finite. */
    FOR_EACH_PROCESSOR
    static int narrow(const double *x, int64_t n, float *out)
    {
        uint32_t special = 0;
        for (int64_t i = 0; i < n; i++) {
            out[i] = (float) x[i];
            special |= (bits_of(out[i]) & 0x7F800000u) == 0x7F800000u;
        }
        return special != 0;
    }

    /* Return whether any value is not finite. */
    FOR_EACH_PROCESSOR
    static int has_special(const float *x, int64_t n)
    {
        uint32_t special = 0;
        for (int64_t i = 0; i < n; i++)
            special |= (bits_of(x[i]) & 0x7F800000u) == 0x7F800000u;
        return special != 0;
    }

    /* Return whether any value is infinite in float32, or missing though none may be. NumPy warns of a NaN that signals
       (its highest bit is 0), so this is one that may be refused, too. */
    FOR_EACH_PROCESSOR
    static int refuses_doubles(const double *x, int64_t n, int missing_allowed)
    {
        const int64_t rounded_to_infinity = 0x47EFFFFFF0000000, infinity = 0x7FF0000000000000;
        const int64_t last_refused = missing_allowed ? infinity + ((int64_t) 1 << 51) - 1 : INT64_MAX;
        int64_t refused = 0;
        for (int64_t i = 0; i < n; i++) {
            int64_t bits;
            memcpy(&bits, x + i, sizeof bits);
            bits &= INT64_MAX;
            refused |= (int64_t) (bits >= rounded_to_infinity) & (bits <= last_refused);
        }
        return refused != 0;
    }

    FOR_EACH_PROCESSOR
    static int refuses_floats(const float *x, int64_t n, int missing_allowed)
    {
        const int32_t infinity = 0x7F800000, last_refused = missing_allowed ? 0x7FBFFFFF : INT32_MAX;
        int32_t refused = 0;
        for (int64_t i = 0; i < n; i++) {
            const int32_t bits = (int32_t) (bits_of(x[i]) & 0x7FFFFFFFu);
            refused |= (bits >= infinity) & (bits <= last_refused);
        }
        return refused != 0;
    }
    """
    bint refuses_doubles(const double* x, int64_t n, bint missing_allowed) noexcept nogil
    bint refuses_floats(const float* x, int64_t n, bint missing_allowed) noexcept nogil
    bint narrow(const double* x, int64_t n, float* out) noexcept nogil
    bint has_special(const float* x, int64_t n) noexcept nogil

cdef struct Node:
    float threshold
    uint32_t packed

cdef struct Tree:
    const Node* nodes
    int shift  # number of bits below the left child in a packed node
    uint32_t columns  # the bits of the column
    int first  # steps before rows that have arrived are left out
    int more  # steps between two looks at which rows have arrived, or 0 if all have

cdef enum:
    LANES = 16
    FEW_LANES = 8
    BLOCK_BITS = 10
    BLOCK = 1 << BLOCK_BITS  # rows
    BLOCK_BYTES = 1 << 16  # of rows that are not stored by column
    BY_COLUMN = 256  # most columns of a block that is stored by column
    LEAF_NUMBER = 0x003FFFFF

ctypedef fused Value:
    float
    double


cdef inline uint32_t step(const Tree* tree, uint32_t at, const float* x, int by_column, bint missing) noexcept nogil:
    """Return the child of a node to which a row goes. The values of a block that is stored by column lie apart."""
    cdef Node node = tree.nodes[at]
    cdef const float* value = x + ((node.packed & tree.columns) << (BLOCK_BITS if by_column else 0))
    cdef uint32_t bits, right = value[0] > node.threshold
    if missing:
        memcpy(&bits, value, sizeof(bits))  # an integer, because compilers make a branch of a comparison with NaN
        right |= <uint32_t> ((bits & 0x7FFFFFFFu) > 0x7F800000u) & (node.packed >> (tree.shift - 1))
    return (node.packed >> tree.shift) + right


cdef inline bint is_leaf(const Tree* tree, uint32_t at) noexcept nogil:
    return tree.nodes[at].packed >> tree.shift == at


cdef inline void walk(
    const Tree* tree, const float* x, int64_t stride, int64_t rows, int by_column, bint missing, uint32_t* at,
    int32_t* active
) noexcept nogil:
    """Leave in `at` the leaf of each row of a block: `first` steps for all, then `more` for those on their way."""
    cdef int64_t i = 0, j, n = 0, kept, row
    cdef int d, lane
    cdef uint32_t places[LANES]
    cdef const float* values[FEW_LANES]
    while i + LANES <= rows:
        for lane in range(LANES):
            places[lane] = 0
        for d in range(tree.first):
            for lane in range(LANES):
                places[lane] = step(tree, places[lane], x + (i + lane) * stride, by_column, missing)
        for lane in range(LANES):
            at[i + lane] = places[lane]
        i += LANES
    while i < rows:
        at[i] = 0
        for d in range(tree.first):
            at[i] = step(tree, at[i], x + i * stride, by_column, missing)
        i += 1
    if tree.more == 0:
        return
    for i in range(rows):
        active[n] = <int32_t> i
        n += not is_leaf(tree, at[i])
    while n:
        kept = 0
        j = 0
        while j + FEW_LANES <= n:
            for lane in range(FEW_LANES):
                places[lane] = at[active[j + lane]]
                values[lane] = x + active[j + lane] * stride
            for d in range(tree.more):
                for lane in range(FEW_LANES):
                    places[lane] = step(tree, places[lane], values[lane], by_column, missing)
            for lane in range(FEW_LANES):
                row = active[j + lane]
                at[row] = places[lane]
                active[kept] = <int32_t> row
                kept += not is_leaf(tree, places[lane])
            j += FEW_LANES
        while j < n:
            row = active[j]
            for d in range(tree.more):
                at[row] = step(tree, at[row], x + row * stride, by_column, missing)
            active[kept] = <int32_t> row
            kept += not is_leaf(tree, at[row])
            j += 1
        n = kept


cdef bint convert(
    const Value* x, int64_t row_stride, int64_t column_stride, int64_t rows, int64_t columns, bint by_column,
    float* block
) noexcept nogil:
    """Write a block in float32, row by row or column by column. Return whether any value is not finite."""
    cdef bint special = False
    cdef int64_t i, k
    if by_column:
        for k in range(columns):
            special |= convert_run(x + k * column_stride, rows, block + (k << BLOCK_BITS))
        return special
    if column_stride == 1 and row_stride == columns:
        return convert_run(x, rows * columns, block)
    for i in range(rows):
        if column_stride == 1:
            special |= convert_run(x + i * row_stride, columns, block + i * columns)
            continue
        for k in range(columns):
            block[i * columns + k] = <float> x[i * row_stride + k * column_stride]
        special |= has_special(block + i * columns, columns)
    return special


cdef inline bint convert_run(const Value* x, int64_t n, float* out) noexcept nogil:
    if Value is double:
        return narrow(<const double*> x, n, out)
    else:
        memcpy(out, x, n * sizeof(float))
        return has_special(out, n)


cdef bint may_be_refused(
    const Value* x, int64_t row_stride, int64_t column_stride, int64_t rows, int64_t columns, bint missing_allowed
) noexcept nogil:
    """Return whether scikit-learn might refuse or warn of any value of a block."""
    cdef int64_t i, k
    cdef bint refused = False
    if column_stride == 1 and row_stride == columns:
        return refuses_run(x, rows * columns, missing_allowed)
    if row_stride == 1:
        for k in range(columns):
            refused |= refuses_run(x + k * column_stride, rows, missing_allowed)
        return refused
    for i in range(rows):
        for k in range(columns):
            refused |= refuses_run(x + i * row_stride + k * column_stride, 1, missing_allowed)
    return refused


cdef inline bint refuses_run(const Value* x, int64_t n, bint missing_allowed) noexcept nogil:
    if Value is double:
        return refuses_doubles(<const double*> x, n, missing_allowed)
    else:
        return refuses_floats(<const float*> x, n, missing_allowed)


def find_leaves(
    const Value[:, :] x,
    const uint8_t[::1] nodes,
    int shift,
    int first,
    int more,
    bint checked,
    bint missing_allowed,
    uint32_t[::1] leaves,
    int64_t address,
    int64_t value_stride,
    double[:, ::1] values,
):
    """Find the leaf of each row, unless scikit-learn might refuse a value.

    Parameters
    ----------
    x : array of float32 or float64, shape (n_rows, n_features)
        Features.
    nodes : array of bytes
        The nodes of the tree, `SINGLE_NODE`.
    shift : int
        Number of bits below the left child in a packed node.
    first, more : int
        Number of steps before rows that have arrived are left out, and then between two looks; 0 if all have arrived.
    checked : bool
        Whether scikit-learn has accepted the values.
    missing_allowed : bool
        Whether scikit-learn accepts missing values.
    leaves : array of uint32, shape (n_rows,) or (0,)
        Receives the numbers of the leaves in the tree of scikit-learn.
    address : int
        Where the values of the tree begin in memory.
    value_stride : int
        Number of bytes from the values of one node to those of the next.
    values : array of float64, shape (n_rows, width) or (0, width)
        Receives the values of the leaves.

    Returns
    -------
    accepted : bool
        Whether no value might be refused. Otherwise, what was received has no meaning.
    """
    cdef int64_t n_rows = x.shape[0], n_features = x.shape[1], begin = 0, rows, i
    cdef int64_t row_stride = x.strides[0] // <int64_t> sizeof(Value)
    cdef int64_t column_stride = x.strides[1] // <int64_t> sizeof(Value)
    cdef int64_t width = values.shape[1]
    cdef bint by_column = column_stride != 1 and row_stride == 1 and n_rows >= BLOCK and n_features <= BY_COLUMN
    cdef bint in_place = sizeof(Value) == sizeof(float) and column_stride == 1
    cdef bint wanted_leaves = leaves.shape[0] > 0, wanted_values = values.shape[0] > 0
    cdef int64_t stride = 1 if by_column else row_stride if in_place else n_features
    cdef int64_t most = BLOCK if by_column or in_place else max(LANES, min(BLOCK, BLOCK_BYTES // (4 * n_features)))
    cdef bint special, accepted = True
    cdef uint32_t at[BLOCK]
    cdef int32_t active[BLOCK]
    cdef float* block = NULL
    cdef const float* walked
    cdef Tree tree
    if n_rows == 0:
        return True
    tree.nodes = <const Node*> &nodes[0]
    tree.shift = shift
    tree.columns = (1u << (shift - 1)) - 1
    tree.first = first
    tree.more = more
    most = min(most, n_rows)
    if not in_place:
        block = <float*> malloc(most * n_features * sizeof(float))
        if block == NULL:
            raise MemoryError()
    with nogil:
        while begin < n_rows and accepted:
            rows = min(most, n_rows - begin)
            if in_place:
                walked = <const float*> &x[begin, 0]
                special = False
                for i in range(rows):
                    special |= has_special(walked + i * stride, n_features)
            else:
                walked = block
                special = convert(&x[begin, 0], row_stride, column_stride, rows, n_features, by_column, block)
            if special and not checked and may_be_refused(
                &x[begin, 0], row_stride, column_stride, rows, n_features, missing_allowed
            ):
                accepted = False
            elif by_column and special:
                walk(&tree, walked, stride, rows, 1, True, at, active)
            elif by_column:
                walk(&tree, walked, stride, rows, 1, False, at, active)
            elif special:
                walk(&tree, walked, stride, rows, 0, True, at, active)
            else:
                walk(&tree, walked, stride, rows, 0, False, at, active)
            if accepted:
                for i in range(rows):
                    at[i] = leaf_number(tree.nodes[at[i]])
                if wanted_leaves:
                    memcpy(&leaves[begin], at, rows * sizeof(uint32_t))
                if wanted_values:
                    copy_values(at, rows, <const char*> address, value_stride, width, &values[begin, 0])
            begin += rows
    free(block)
    return accepted


cdef inline uint32_t leaf_number(Node node) noexcept nogil:
    cdef uint32_t bits
    memcpy(&bits, &node.threshold, sizeof(bits))
    return bits & LEAF_NUMBER


cdef void copy_values(
    const uint32_t* leaves, int64_t rows, const char* values, int64_t value_stride, int64_t width, double* out
) noexcept nogil:
    """Write the values of the leaf of each row."""
    cdef int64_t i, k
    cdef const double* leaf
    for i in range(rows):
        leaf = <const double*> (values + <int64_t> leaves[i] * value_stride)
        for k in range(width):
            out[i * width + k] = leaf[k]
