# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Walks rows through one tree, and looks at their values on the way.

For a single tree, validating and copying the rows takes longer than the walk. Here the values of a block of rows become
keys, and are looked at for values that are not finite, and the rows walk while the block is in the cache. If any value
might be refused, the caller asks scikit-learn.

Nodes and keys are those of `_walk`, but the columns are the features themselves. A block is stored row by row or column
by column, as its rows are. If it has missing values, it contains all keys twice, once for each side to which a missing
value may go, and the bit of the node selects one of the two.

If the rows are stored row by row, and the leaves of a small tree have about the same depth, each node is first copied to
a spread node. It has its fields apart, and for each missing value a block then contains one key, which is larger than all
others. The number of rows does not matter, so that the rows of a comparison walk as all others do.

The nodes must have been made by `nodes.pack_single`, which checks them. Nothing is checked while rows walk.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

VERSION = 7  # that of the module `extension`

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>

    /* The loops over values are compiled twice for x86-64: for every processor, and for those with AVX2, which the
       program finds when it starts. Both convert in the same way. Sanitizers cannot run before the choice is made. */
    #if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__) \
        && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    #define FOR_EACH_PROCESSOR __attribute__((target_clones("avx2", "default")))
    #define ALWAYS_INLINE inline __attribute__((always_inline))
    #else
    #define FOR_EACH_PROCESSOR
    #define ALWAYS_INLINE inline
    #endif
    #if defined(__GNUC__)
    #define FETCH(address) __builtin_prefetch(address)
    #define APART __attribute__((noinline))
    #else
    #define FETCH(address)
    #define APART
    #endif
    #define LANES 16
    #define MISSING_LEFT_KEY 0u
    #define INFINITE_KEY 0xFF800000u
    #define MISSING_RIGHT_KEY 0xFF800001u
    #define MISSING_KEY 0xFFFFFFFFu /* if there is one for both sides */
    #define ONE_KEY -1 /* in place of how far the keys of the right side are behind */
    #define LEAF_NUMBER 0x003FFFFFu
    #define GROUP 8

    /* What was found among values. */
    enum { NOT_FINITE = 1, MISSING = 2, INFINITE = 4, SIGNALS = 8 };

    static ALWAYS_INLINE uint32_t bits_at(const void *x, int wide, int64_t i)
    {
        const float value = wide ? (float) ((const double *) x)[i] : ((const float *) x)[i];
        uint32_t bits;
        memcpy(&bits, &value, sizeof bits);
        return bits;
    }

    static ALWAYS_INLINE uint32_t key_of(uint32_t bits)
    {
        return bits ^ (0x80000000u | (0 - (bits >> 31)));
    }

    /* Write the keys of n values, without those of missing values. */
    static ALWAYS_INLINE int keys_of_numbers(const void *x, int wide, int64_t n, uint32_t *keys)
    {
        uint32_t special = 0;
        for (int64_t i = 0; i < n; i++) {
            const uint32_t bits = bits_at(x, wide, i);
            special |= (bits & 0x7F800000u) == 0x7F800000u;
            keys[i] = key_of(bits);
        }
        return special ? NOT_FINITE : 0;
    }

    /* Write the keys of n values for both sides on which a missing value may go, or one key for both. NumPy warns of a
       NaN that signals: its highest bit is 0, until a conversion sets it. */
    static ALWAYS_INLINE int keys_of_both_sides(
        const void *x, int wide, int64_t n, int sides, uint32_t *left, uint32_t *right)
    {
        const uint64_t quiet_bit = (uint64_t) 1 << 51;
        uint32_t missing = 0, infinite = 0, quiet = 0; /* bits that are 0 in a missing value */
        uint64_t quiet_wide = 0;
        for (int64_t i = 0; i < n; i++) {
            const uint32_t bits = bits_at(x, wide, i), number = bits & 0x7FFFFFFFu;
            const uint32_t is_missing = 0 - (uint32_t) (number > 0x7F800000u);
            const uint32_t key = key_of(bits) & ~is_missing;
            missing |= is_missing;
            infinite |= 0 - (uint32_t) (number == 0x7F800000u);
            if (wide) {
                const double value = ((const double *) x)[i];
                uint64_t all;
                memcpy(&all, &value, sizeof all);
                quiet_wide |= (0 - (uint64_t) (value != value)) & ~all;
            } else
                quiet |= is_missing & ~bits;
            left[i] = key | (is_missing & (sides == 1 ? MISSING_KEY : MISSING_LEFT_KEY));
            if (sides == 2)
                right[i] = key | (is_missing & MISSING_RIGHT_KEY);
        }
        return (missing ? MISSING : 0) | (infinite ? INFINITE : 0)
            | ((quiet & 0x00400000u) || (quiet_wide & quiet_bit) ? SIGNALS : 0);
    }

    /* Write the keys of rows one after the other. `side` is 0, how far the keys of the right side are behind, or
       ONE_KEY. */
    static ALWAYS_INLINE int keys_of_rows(
        const void *x, int wide, int64_t step, int64_t rows, int64_t n, int64_t side, uint32_t *keys)
    {
        int found = 0;
        if (step == n) {
            n *= rows;
            rows = 1;
        }
        for (int64_t i = 0; i < rows; i++) {
            const void *row = (const char *) x + i * step * (wide ? 8 : 4);
            uint32_t *left = keys + i * n;
            if (side == ONE_KEY)
                found |= keys_of_both_sides(row, wide, n, 1, left, left);
            else
                found |= side ? keys_of_both_sides(row, wide, n, 2, left, left + side)
                              : keys_of_numbers(row, wide, n, left);
        }
        return found;
    }

    FOR_EACH_PROCESSOR
    static int keys_of_doubles(
        const double *x, int64_t step, int64_t rows, int64_t n, int64_t side, uint32_t *keys)
    {
        return keys_of_rows(x, 1, step, rows, n, side, keys);
    }

    FOR_EACH_PROCESSOR
    static int keys_of_floats(
        const float *x, int64_t step, int64_t rows, int64_t n, int64_t side, uint32_t *keys)
    {
        return keys_of_rows(x, 0, step, rows, n, side, keys);
    }

    /* A node with its fields apart. A row goes right if its key is one of the `span` keys from `above` on: those above
       the threshold, with or without that of a missing value. No row goes right at a leaf. */
    typedef struct { uint32_t above, span, left, feature; } Spread;

    static Spread spread_node(uint32_t threshold, uint32_t packed, int shift, uint32_t at)
    {
        const uint32_t last = packed >> (shift - 1) & 1 ? MISSING_KEY : INFINITE_KEY; /* of those that go right */
        Spread node = {threshold + 1, last - threshold, packed >> shift, packed & ((1u << (shift - 1)) - 1)};
        if (node.left == at) {
            node.above = threshold;
            node.span = 0;
        }
        return node;
    }

    /* Leave in `leaves` the number of the leaf of each row after as many steps as the deepest leaf needs, for some
       groups of 8 rows. Meanwhile, fetch so many bytes for each group from `next` on. Compilers turn the comparison
       into an addition with carry. Within another function, too few registers are left. */
    static APART void walk_spread(const Spread *nodes, const uint32_t *keys, int64_t n, int64_t groups, int depth,
        uint32_t *leaves, const char *next, int64_t bytes)
    {
        for (; groups; groups--) {
            uint64_t places[GROUP] = {0};
            const uint32_t *rows[GROUP];
            for (int64_t k = 0; k < bytes; k += 64)
                FETCH(next + k);
            for (int lane = 0; lane < GROUP; lane++)
                rows[lane] = keys + lane * n;
            for (int d = 0; d < depth; d++)
                for (int lane = 0; lane < GROUP; lane++) {
                    const Spread *node = nodes + places[lane];
                    uint64_t child = node->left;
                    child += (uint32_t) (rows[lane][node->feature] - node->above) < node->span;
                    places[lane] = child;
                }
            for (int lane = 0; lane < GROUP; lane++)
                leaves[lane] = nodes[places[lane]].above & LEAF_NUMBER;
            keys += GROUP * n;
            leaves += GROUP;
            next += bytes;
        }
    }
    """
    ctypedef struct Spread:
        pass
    Spread spread_node(uint32_t threshold, uint32_t packed, int shift, uint32_t at) noexcept nogil
    void walk_spread(
        const Spread* nodes, const uint32_t* keys, int64_t n, int64_t groups, int depth, uint32_t* leaves,
        const char* next, int64_t bytes
    ) noexcept nogil
    void FETCH(const char* address) noexcept nogil
    int GROUP, LANES, NOT_FINITE, MISSING, INFINITE, SIGNALS, ONE_KEY
    uint32_t LEAF_NUMBER
    int keys_of_doubles(
        const double* x, int64_t step, int64_t rows, int64_t n, int64_t side, uint32_t* keys
    ) noexcept nogil
    int keys_of_floats(
        const float* x, int64_t step, int64_t rows, int64_t n, int64_t side, uint32_t* keys
    ) noexcept nogil

cdef struct Node:
    uint32_t threshold
    uint32_t packed

cdef struct Tree:
    const Node* nodes
    int shift  # number of bits below the left child in a packed node
    int first  # steps before rows that have arrived are left out
    int more  # steps between two looks at which rows have arrived, or 0 if all have

cdef struct Column:
    const char* values
    int64_t step  # bytes from one value to the next

cdef struct Rows:
    int64_t n
    int64_t n_features
    bint wide  # whether values are float64; otherwise they are float32
    const char* values  # of the first row, unless rows are read column by column
    int64_t row_step  # bytes from one row to the next
    Column* columns  # or NULL

cdef struct Wanted:
    uint32_t* leaves  # or NULL
    double* values  # or NULL
    const char* tree_values
    int64_t value_stride
    int64_t width

cdef enum:
    LANE_BITS = 4  # of LANES
    LINE = 64  # bytes that memory delivers at once
    FEW_LANES = 8
    BLOCK = 1 << 12  # most rows of a block
    BLOCK_BYTES = 1 << 14  # of the keys of rows
    SPREAD_BYTES = 1 << 12  # of those of rows that walk through spread nodes
    SPREAD_NODES = 1 << 12  # most nodes of a tree that are spread, which takes some microseconds in each call
    SHALLOW = 4  # steps that take less time than reading the next block, which the processor fetches by itself
    COLUMNS_BYTES = 1 << 19  # of the keys of columns

ctypedef fused Value:
    float
    double


cdef inline uint32_t step(Tree tree, uint32_t at, const uint32_t* x, uint32_t mask, int bits) noexcept nogil:
    """Return the child of a node to which a row goes. The keys of a row are 2 ** bits apart."""
    cdef Node node = tree.nodes[at]
    cdef uint32_t key = x[(node.packed & mask) << bits], child = node.packed >> tree.shift
    if key > node.threshold:  # which compilers turn into an addition with carry, and not into a branch
        child += 1
    return child


cdef inline bint is_leaf(Tree tree, uint32_t at) noexcept nogil:
    return tree.nodes[at].packed >> tree.shift == at


cdef inline void fetch(const Rows* x, int64_t begin) noexcept nogil:
    """Ask for the values of some rows of the next block, which arrive while rows of this one walk."""
    cdef int64_t k = 0
    cdef const char* at
    if begin + LANES > x.n:
        return
    if x.columns == NULL:
        at = x.values + begin * x.row_step
        while k < LANES * x.row_step:
            FETCH(at + k)
            k += LINE
        return
    for k in range(x.n_features):
        at = x.columns[k].values + begin * x.columns[k].step
        FETCH(at)
        if x.wide:
            FETCH(at + LINE)


cdef inline int64_t place_of(int64_t row, int64_t n, int bits) noexcept nogil:
    """Return where the keys of a row begin in a block with n keys for each row."""
    return ((row >> bits) * n << bits) + (row & ((1 << bits) - 1))


cdef inline void walk(
    Tree tree, const uint32_t* keys, int64_t n_keys, int64_t rows, uint32_t mask, int bits, uint32_t* at,
    int32_t* active, const Rows* x, int64_t next
) noexcept nogil:
    """Leave in `at` the leaf of each row of a block: `first` steps for all, then `more` for those on their way."""
    cdef int64_t i = 0, j, n = 0, kept, row
    cdef int d, lane
    cdef uint32_t places[1 << LANE_BITS]
    cdef const uint32_t* group
    cdef const uint32_t* values[FEW_LANES]
    while i + LANES <= rows:
        fetch(x, next + i)
        group = keys + i * n_keys
        for lane in range(LANES):
            places[lane] = 0
        for d in range(tree.first):
            for lane in range(LANES):
                places[lane] = step(tree, places[lane], group + (lane if bits else lane * n_keys), mask, bits)
        for lane in range(LANES):
            at[i + lane] = places[lane]
        i += LANES
    while i < rows:
        at[i] = 0
        for d in range(tree.first):
            at[i] = step(tree, at[i], keys + place_of(i, n_keys, bits), mask, bits)
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
                values[lane] = keys + place_of(active[j + lane], n_keys, bits)
            for d in range(tree.more):
                for lane in range(FEW_LANES):
                    places[lane] = step(tree, places[lane], values[lane], mask, bits)
            for lane in range(FEW_LANES):
                row = active[j + lane]
                at[row] = places[lane]
                active[kept] = <int32_t> row
                kept += not is_leaf(tree, places[lane])
            j += FEW_LANES
        while j < n:
            row = active[j]
            for d in range(tree.more):
                at[row] = step(tree, at[row], keys + place_of(row, n_keys, bits), mask, bits)
            active[kept] = <int32_t> row
            kept += not is_leaf(tree, at[row])
            j += 1
        n = kept


cdef int keys_of(
    const char* x, bint wide, int64_t step, int64_t rows, int64_t n, int64_t side, uint32_t* keys
) noexcept nogil:
    """Write the keys of rows of n values. Return what was found among them."""
    if wide:
        return keys_of_doubles(<const double*> x, step // 8, rows, n, side, keys)
    return keys_of_floats(<const float*> x, step // 4, rows, n, side, keys)


cdef int keys_of_columns(const Rows* x, int64_t begin, int64_t rows, int64_t side, uint32_t* keys) noexcept nogil:
    """Write the keys of a block, 16 rows of a column after the other. Return what was found among its values."""
    cdef double apart[BLOCK]
    cdef uint32_t run[2 * BLOCK]
    cdef int64_t k, i, size = 8 if x.wide else 4
    cdef const char* column
    cdef uint32_t* own
    cdef int found = 0
    for k in range(x.n_features):
        column = x.columns[k].values + begin * x.columns[k].step
        if x.columns[k].step != size:
            for i in range(rows):
                memcpy(<char*> apart + i * size, column + i * x.columns[k].step, size)
            column = <const char*> apart
        found |= keys_of(column, x.wide, 0, 1, rows, BLOCK if side else 0, run)
        own = keys + (k << LANE_BITS)
        i = 0
        while i < rows:  # the last keys of a block without 16 more rows are those of no row
            memcpy(own + i * x.n_features, run + i, LANES * sizeof(uint32_t))
            if side:
                memcpy(own + side + i * x.n_features, run + BLOCK + i, LANES * sizeof(uint32_t))
            i += LANES
    return found


cdef int keys_of_block(const Rows* x, int64_t begin, int64_t rows, int64_t side, uint32_t* keys) noexcept nogil:
    """Write the keys of a block. Return what was found among its values."""
    if x.columns != NULL:
        return keys_of_columns(x, begin, rows, side, keys)
    return keys_of(x.values + begin * x.row_step, x.wide, x.row_step, rows, x.n_features, side, keys)


cdef Spread* spread(Tree tree, int64_t n) noexcept nogil:
    """Return a copy of the nodes, or NULL if there is no memory for it."""
    cdef int64_t i
    cdef Spread* nodes = <Spread*> malloc(n * sizeof(Spread))
    if nodes != NULL:
        for i in range(n):
            nodes[i] = spread_node(tree.nodes[i].threshold, tree.nodes[i].packed, tree.shift, <uint32_t> i)
    return nodes


cdef bint find(
    const Rows* x, Tree tree, int64_t n_nodes, bint checked, bint missing_allowed, Wanted wanted
) except -1:
    """Find the leaf of each row. Return whether no value might be refused."""
    cdef int bits = 0 if x.columns == NULL else LANE_BITS
    cdef int64_t n = x.n_features, bytes = BLOCK_BYTES if x.columns == NULL else COLUMNS_BYTES
    cdef int64_t columns = 1ll << (tree.shift - 1), side = columns << bits  # the left side of a block ends there
    cdef int64_t begin = 0, most, rows, ahead = 0
    cdef int refused = 0 if checked else INFINITE | SIGNALS | (0 if missing_allowed else MISSING)
    cdef int found = 0
    cdef bint both = False, accepted = True
    cdef uint32_t at[BLOCK]
    cdef int32_t active[BLOCK]
    cdef uint32_t mask
    cdef uint32_t* keys
    cdef Spread* nodes = NULL
    if x.columns == NULL and tree.more == 0 and n_nodes <= SPREAD_NODES:
        nodes = spread(tree, n_nodes)
    if nodes != NULL:
        bytes = SPREAD_BYTES
    most = max(LANES, min(BLOCK, bytes // (4 * n), side // n))
    most -= most % LANES
    keys = <uint32_t*> malloc((side + n * most) * sizeof(uint32_t))  # what is not written takes no memory
    if keys == NULL:
        free(nodes)
        raise MemoryError()
    with nogil:
        while begin < x.n and accepted:
            rows = min(most, x.n - begin)
            if not both:
                both = keys_of_block(x, begin, rows, 0, keys) != 0
            if both:
                rows = min(rows, side // n)  # fewer only if the tree has too many nodes
                found = keys_of_block(x, begin, rows, ONE_KEY if nodes != NULL else side, keys)
                accepted = not found & refused
            mask = <uint32_t> (2 * columns - 1 if both else columns - 1)
            if accepted and nodes != NULL:
                ahead = GROUP * x.row_step if tree.first > SHALLOW and begin + 2 * most <= x.n else 0
                walk_spread(
                    nodes, keys, n, (rows + GROUP - 1) // GROUP, tree.first, at,
                    x.values + (begin + (rows if ahead else 0)) * x.row_step, max(0, ahead)
                )
            elif accepted and bits:
                walk(tree, keys, n, rows, mask, LANE_BITS, at, active, x, begin + rows)
            elif accepted:
                walk(tree, keys, n, rows, mask, 0, at, active, x, begin + rows)
            if accepted and nodes == NULL:
                number(tree, at, rows)
            if accepted:
                give(at, begin, rows, wanted)
            both = both and found != 0  # the next block is probably like this one
            begin += rows
    free(keys)
    free(nodes)
    return accepted


cdef void number(Tree tree, uint32_t* at, int64_t rows) noexcept nogil:
    """Replace the place of the leaf of each row by the number of the leaf."""
    cdef int64_t i
    for i in range(rows):
        at[i] = tree.nodes[at[i]].threshold & LEAF_NUMBER


cdef void give(const uint32_t* at, int64_t begin, int64_t rows, Wanted wanted) noexcept nogil:
    """Write the number or the values of the leaf of each row of a block."""
    cdef int64_t i, k
    cdef const double* leaf
    cdef double* out
    if wanted.leaves != NULL:
        memcpy(wanted.leaves + begin, at, rows * sizeof(uint32_t))
    if wanted.values == NULL:
        return
    out = wanted.values + begin * wanted.width
    if wanted.width == 1:
        for i in range(rows):
            out[i] = (<const double*> (wanted.tree_values + <int64_t> at[i] * wanted.value_stride))[0]
    elif wanted.width == 2:
        for i in range(rows):
            leaf = <const double*> (wanted.tree_values + <int64_t> at[i] * wanted.value_stride)
            out[2 * i] = leaf[0]
            out[2 * i + 1] = leaf[1]
    else:
        for i in range(rows):
            leaf = <const double*> (wanted.tree_values + <int64_t> at[i] * wanted.value_stride)
            for k in range(wanted.width):
                out[i * wanted.width + k] = leaf[k]


def find_leaves(
    x,
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
    x : array of float32 or float64, shape (n_rows, n_features), or list of arrays of shape (n_rows,)
        Features, or each feature. All have the same type.
    nodes : array of bytes
        The nodes of the tree, `NODE`.
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
    cdef Rows rows
    cdef Tree tree
    cdef Wanted wanted
    tree.nodes = <const Node*> &nodes[0]
    tree.shift = shift
    tree.first = first
    tree.more = more
    wanted.leaves = &leaves[0] if leaves.shape[0] else NULL
    wanted.values = &values[0, 0] if values.shape[0] else NULL
    wanted.tree_values = <const char*> address
    wanted.value_stride = value_stride
    wanted.width = values.shape[1]
    rows.columns = NULL
    try:
        if isinstance(x, list):
            read_columns(x, &rows)
        elif x.itemsize == sizeof(double):
            read_matrix[double](x, &rows)
        else:
            read_matrix[float](x, &rows)
        if not rows.n:
            return True
        return find(&rows, tree, nodes.shape[0] // <int64_t> sizeof(Node), checked, missing_allowed, wanted)
    finally:
        free(rows.columns)


cdef int read_matrix(const Value[:, :] x, Rows* rows) except -1:
    """Say where the values of a matrix are."""
    cdef int64_t k
    rows.n = x.shape[0]
    rows.n_features = x.shape[1]
    rows.wide = sizeof(Value) == sizeof(double)
    rows.values = <const char*> &x[0, 0]
    rows.row_step = x.strides[0]
    if rows.n and rows.n_features > 1 and x.strides[1] != sizeof(Value):
        allocate_columns(rows)
        for k in range(rows.n_features):
            rows.columns[k].values = rows.values + k * x.strides[1]
            rows.columns[k].step = x.strides[0]
    return 0


cdef int read_columns(list columns, Rows* rows) except -1:
    """Say where the values of columns are."""
    cdef int64_t k
    rows.n = len(columns[0])
    rows.n_features = len(columns)
    rows.wide = columns[0].itemsize == sizeof(double)
    allocate_columns(rows)
    for k in range(rows.n_features):
        if rows.wide:
            read_column[double](columns[k], rows.n, rows.columns + k)
        else:
            read_column[float](columns[k], rows.n, rows.columns + k)
    return 0


cdef int read_column(const Value[:] values, int64_t n, Column* column) except -1:
    """Say where the values of a column are."""
    if values.shape[0] != n:
        raise ValueError(f"expected a column of {n} rows, got {values.shape[0]}")
    column.values = <const char*> &values[0]
    column.step = values.strides[0]
    return 0


cdef int allocate_columns(Rows* rows) except -1:
    rows.columns = <Column*> malloc(rows.n_features * sizeof(Column))
    if rows.columns == NULL:
        raise MemoryError()
    return 0
