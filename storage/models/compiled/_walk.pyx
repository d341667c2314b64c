# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Walks rows through trees, many rows at a time and without branches.

A node takes 8 bytes: a threshold, and an integer in which the lowest bits are the column, the next bit says that a
missing value goes right, and the other bits are the index of the left child. The right child is the next node. `NODE`
in the module `nodes` is the same in NumPy.

Thresholds and values are compared as unsigned integers, the keys. The keys of float32 have the same order as the
numbers. The keys of float64 are their ranks among the thresholds of the column. The key of a missing value is the
smallest if it goes left, and larger than that of infinity if it goes right. A row of a block with missing values
therefore has all keys twice, once for each side, and the bit of the node is a bit of the place of the key in the row.
A leaf leads to itself, and its threshold is larger than all keys, so a row that has arrived stays there. The lowest
bits of the threshold are the number that the leaf has in the tree of scikit-learn.

The arrays must have been made by `pack`, which checks them. Nothing is checked while rows walk.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from scoreline.storage.models.compiled._ranks cimport rank_column

VERSION = 7  # that of the module `extension`

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>

    /* A node of a small tree, whose fields are read without a shift or a mask. The place is that of the first of the
       keys of the rows of a group. */
    typedef struct { uint32_t threshold; uint16_t left, place; } Short;

    #define GROUP 8
    #if defined(__GNUC__)
    #define APART __attribute__((noinline))
    #define PREFETCH(address) __builtin_prefetch(address)
    #else
    #define APART
    #define PREFETCH(address)
    #endif
    #define LINE 16  /* keys that are fetched from memory at once */

    #if defined(__GNUC__)
    typedef uint32_t Keys __attribute__((vector_size(16)));

    static inline Keys load_keys(const uint32_t *x)
    {
        Keys keys;
        memcpy(&keys, x, sizeof(keys));
        return keys;
    }

    /* Leave in `at` the place of each row of the groups after three steps. The seven nodes of the first three levels
       are compared with every row, four rows at a time, and no row waits for its node. What follows a leaf is no child
       of it, and never selected, because no key is above the threshold of a leaf. */
    static APART void take_three_steps(
        const Short *tree, const uint32_t *x, int64_t stride, int64_t groups, uint32_t *at)
    {
        const Short *top[7] = {tree, tree + tree->left, tree + tree->left + 1};
        Keys limits[7], lefts[7];
        for (int i = 0; i < 7; i++) {
            if (i > 2)
                top[i] = tree + top[(i - 1) / 2]->left + (i - 1) % 2;
            limits[i] = (Keys) {0} + top[i]->threshold;
            lefts[i] = (Keys) {0} + top[i]->left;
        }
        #define ABOVE(i) ((Keys) (load_keys(x + top[i]->place + lane) > limits[i]))  /* -1, or 0 */
        #define CHILD(i) (lefts[i] - ABOVE(i))
        #define SELECT(above, right, left) (((above) & (right)) | (~(above) & (left)))
        for (; groups; groups--) {
            for (int lane = 0; lane < GROUP; lane += 4) {
                const Keys root = ABOVE(0), first = ABOVE(1), second = ABOVE(2);
                const Keys left = SELECT(first, CHILD(4), CHILD(3)), right = SELECT(second, CHILD(6), CHILD(5));
                const Keys place = SELECT(root, right, left);
                memcpy(at + lane, &place, sizeof(place));
            }
            x += GROUP * stride;
            at += GROUP;
        }
    }
    #endif

    /* Leave in `at` the place of each row of the groups after the first steps, and return their number. */
    static int enter_groups(
        const Short *tree, const uint32_t *x, int64_t stride, int64_t groups, int depth, uint32_t *at)
    {
    #if defined(__GNUC__)
        if (depth >= 3) {
            take_three_steps(tree, x, stride, groups, at);
            return 3;
        }
    #endif
        memset(at, 0, groups * GROUP * sizeof(*at));
        return 0;
    }

    /* Lead each row of the groups from its place in `at` to its leaf, in as many steps as the deepest leaf needs. Places
       are as wide as addresses, so that a step takes seven instructions. Within another function, too few registers are
       left. The keys of the next group are fetched meanwhile, for which memory behind the last one is addressed. */
    static APART void walk_groups(
        const Short *tree, const uint32_t *x, int64_t stride, int64_t groups, int depth, uint32_t *at)
    {
        for (; groups; groups--) {
            uint64_t places[GROUP];
            for (int lane = 0; lane < GROUP; lane++)
                places[lane] = at[lane];
            for (int64_t k = 0; k < GROUP * stride; k += LINE)
                PREFETCH(x + GROUP * stride + k);
            for (int d = 0; d < depth; d++)
                for (int lane = 0; lane < GROUP; lane++) {
                    const Short *node = tree + places[lane];
                    uint64_t child = node->left;
                    child += x[(uint64_t) node->place + lane] > node->threshold;
                    places[lane] = child;
                }
            for (int lane = 0; lane < GROUP; lane++)
                at[lane] = (uint32_t) places[lane];
            x += GROUP * stride;
            at += GROUP;
        }
    }
    """
    ctypedef struct Short:
        uint32_t threshold
        uint16_t left
        uint16_t place
    int GROUP
    int enter_groups(
        const Short* tree, const uint32_t* x, int64_t stride, int64_t groups, int depth, uint32_t* at
    ) noexcept nogil
    void walk_groups(
        const Short* tree, const uint32_t* x, int64_t stride, int64_t groups, int depth, uint32_t* at
    ) noexcept nogil

cdef struct Node:
    uint32_t threshold
    uint32_t packed

cdef enum:
    LANES = 16
    FEW_LANES = 8
    FEW_ROWS = 128
    SHORT = 1 << 16  # more than the largest number of a short node
    ROWS_OF_NODE = 3  # rows for each node of a tree, from which on short nodes save more time than they take
    CATEGORIES_WORDS = 8  # of 32 bits, one for each category
    MISSING_CATEGORY = 255
    LEAF_NUMBER = 0x003FFFFF

cdef uint32_t MISSING_LEFT_KEY = 0
cdef uint32_t MISSING_RIGHT_KEY = 0xFF800001u
cdef uint32_t LEAST_KEY = 0x007FFFFFu  # that of minus infinity; NaN has keys on both sides of those of numbers
cdef uint32_t LARGEST_KEY = 0xFF800000u  # that of infinity


cdef struct Packing:
    int shift
    uint32_t mask


cdef inline uint32_t left_of(Node node, Packing packing) noexcept nogil:
    return node.packed >> packing.shift


cdef inline uint32_t step(const Node* tree, uint32_t at, const uint32_t* x, Packing packing) noexcept nogil:
    cdef Node node = tree[at]
    cdef uint32_t key = x[node.packed & packing.mask], child = node.packed >> packing.shift
    if key > node.threshold:  # which compilers turn into an addition with carry, and not into a branch
        child += 1
    return child


cdef void walk(
    const Node* tree, const uint32_t* x, int64_t stride, int64_t rows, int first, int more, Packing packing,
    uint32_t* at, int32_t* active
) noexcept nogil:
    """Leave in `at` the leaf of each row: `first` steps for all, then `more` at a time for those on their way."""
    cdef int64_t i = 0, j, n = 0, kept, row
    cdef int d, lane
    cdef uint32_t places[LANES]
    cdef const uint32_t* values[FEW_LANES]
    while i + LANES <= rows:
        for lane in range(LANES):
            places[lane] = 0
        for d in range(first):
            for lane in range(LANES):
                places[lane] = step(tree, places[lane], x + (i + lane) * stride, packing)
        for lane in range(LANES):
            at[i + lane] = places[lane]
            active[n] = <int32_t> (i + lane)
            n += left_of(tree[places[lane]], packing) != places[lane]
        i += LANES
    while i < rows:
        at[i] = 0
        active[n] = <int32_t> i
        n += 1
        i += 1
    while n:
        kept = 0
        j = 0
        while j + FEW_LANES <= n:
            for lane in range(FEW_LANES):
                places[lane] = at[active[j + lane]]
                values[lane] = x + active[j + lane] * stride
            for d in range(more):
                for lane in range(FEW_LANES):
                    places[lane] = step(tree, places[lane], values[lane], packing)
            for lane in range(FEW_LANES):
                row = active[j + lane]
                at[row] = places[lane]
                active[kept] = <int32_t> row
                kept += left_of(tree[places[lane]], packing) != places[lane]
            j += FEW_LANES
        while j < n:
            row = active[j]
            places[0] = at[row]
            for d in range(more):
                places[0] = step(tree, places[0], x + row * stride, packing)
            at[row] = places[0]
            active[kept] = <int32_t> row
            kept += left_of(tree[places[0]], packing) != places[0]
            j += 1
        n = kept


cdef void walk_to_depth(
    const Node* tree, const uint32_t* x, int64_t stride, int64_t rows, int depth, Packing packing, uint32_t* at
) noexcept nogil:
    """Leave in `at` the leaf of each row after as many steps as the deepest leaf needs."""
    cdef int64_t i = 0
    cdef int d, lane
    cdef uint32_t places[FEW_LANES]
    while i + FEW_LANES <= rows:
        for lane in range(FEW_LANES):
            places[lane] = 0
        for d in range(depth):
            for lane in range(FEW_LANES):
                places[lane] = step(tree, places[lane], x + (i + lane) * stride, packing)
        for lane in range(FEW_LANES):
            at[i + lane] = places[lane]
        i += FEW_LANES
    while i < rows:
        places[0] = 0
        for d in range(depth):
            places[0] = step(tree, places[0], x + i * stride, packing)
        at[i] = places[0]
        i += 1


cdef void group(const uint32_t* keys, int64_t n_used, int64_t rows, bint missing, uint32_t* groups) noexcept nogil:
    """Copy the keys of each 8 rows, column by column, so that a step finds those of all 8 rows from one address.

    If any value is `missing`, the keys for the right side follow those for the left side. The last group is filled up
    with the last row.
    """
    cdef int64_t i = 0, k, right = n_used * GROUP
    cdef int lane
    cdef uint32_t key
    cdef bint is_number
    cdef const uint32_t* row[FEW_LANES]
    while i < rows:
        for lane in range(GROUP):
            row[lane] = keys + min(i + lane, rows - 1) * n_used
        if missing:
            for k in range(n_used):
                for lane in range(GROUP):
                    key = row[lane][k]
                    is_number = key - LEAST_KEY <= LARGEST_KEY - LEAST_KEY
                    groups[k * GROUP + lane] = key if is_number else MISSING_LEFT_KEY
                    groups[right + k * GROUP + lane] = key if is_number else MISSING_RIGHT_KEY
        else:
            for k in range(n_used):
                for lane in range(GROUP):
                    groups[k * GROUP + lane] = row[lane][k]
        groups += right * (1 + missing)
        i += GROUP


cdef void shorten(
    const Node* tree, int64_t n, int shift, uint32_t bits, int64_t right, Short* nodes
) noexcept nogil:
    """Copy the nodes of a tree as short nodes. The keys for the right side begin `right` columns later."""
    cdef int64_t i, column
    for i in range(n):
        column = (tree[i].packed & bits) + right * ((tree[i].packed >> (shift - 1)) & 1)
        nodes[i].threshold = tree[i].threshold
        nodes[i].left = <uint16_t> (tree[i].packed >> shift)
        nodes[i].place = <uint16_t> (column * GROUP)


cdef void walk_categories(
    const Node* tree, const uint32_t* x, int64_t stride, int64_t rows, int depth, Packing packing,
    const uint32_t* categories, uint32_t first_category, uint32_t bits, uint32_t* at
) noexcept nogil:
    """Leave in `at` the leaf of each row, where the columns from `first_category` on contain categories."""
    cdef int64_t i
    cdef int d
    cdef uint32_t place, column, category
    cdef const uint32_t* row
    cdef Node node
    for i in range(rows):
        row = x + i * stride
        place = 0
        for d in range(depth):
            node = tree[place]
            column = node.packed & bits
            if node.threshold > MISSING_RIGHT_KEY:
                break
            if column >= first_category:
                category = row[column]
                place = left_of(node, packing) + (
                    (categories[node.threshold * CATEGORIES_WORDS + (category >> 5)] >> (category & 31)) & 1
                )
            else:
                place = step(tree, place, row, packing)
        at[i] = place


cdef void add_values(
    const Node* tree, const uint32_t* at, const char* values, int64_t value_stride, int width, double scale,
    double* sums, int64_t stride, int64_t rows
) noexcept nogil:
    """Add the values of the leaf of each row. Each product is rounded before the sum is, as in scikit-learn."""
    cdef int64_t i
    cdef int k
    cdef const double* leaf
    if width == 1:
        for i in range(rows):
            leaf = <const double*> (values + <int64_t> (tree[at[i]].threshold & LEAF_NUMBER) * value_stride)
            sums[i * stride] += scale * leaf[0]
    elif width == 2:
        for i in range(rows):
            leaf = <const double*> (values + <int64_t> (tree[at[i]].threshold & LEAF_NUMBER) * value_stride)
            sums[i * stride] += scale * leaf[0]
            sums[i * stride + 1] += scale * leaf[1]
    else:
        for i in range(rows):
            leaf = <const double*> (values + <int64_t> (tree[at[i]].threshold & LEAF_NUMBER) * value_stride)
            for k in range(width):
                sums[i * stride + k] += scale * leaf[k]


cdef void add_products(
    const Node* tree, int64_t size, const uint32_t* at, const char* values, int64_t value_stride, int width, double scale,
    double* sums, int64_t stride, int64_t rows, double* products
) noexcept nogil:
    """Do what `add_values` does for one or two values of a leaf, where leaves are fewer than rows.

    The product of each value is computed once, and written to the place of the leaf in the tree.
    """
    cdef int64_t i
    cdef int k
    cdef const double* leaf
    for i in range(size):
        if tree[i].threshold > MISSING_RIGHT_KEY:
            leaf = <const double*> (values + <int64_t> (tree[i].threshold & LEAF_NUMBER) * value_stride)
            for k in range(width):
                products[i * width + k] = scale * leaf[k]
    if width == 1:
        for i in range(rows):
            sums[i * stride] += products[at[i]]
    elif stride == 2:  # which takes less time if compilers know it
        for i in range(rows):
            sums[i * 2] += products[<int64_t> at[i] * 2]
            sums[i * 2 + 1] += products[<int64_t> at[i] * 2 + 1]
    else:
        for i in range(rows):
            sums[i * stride] += products[<int64_t> at[i] * 2]
            sums[i * stride + 1] += products[<int64_t> at[i] * 2 + 1]


cdef inline uint32_t key_of(float value) noexcept nogil:
    """Return an integer with the order of float32. That of -0.0 is one less than that of 0.0; no threshold has it."""
    cdef uint32_t bits
    memcpy(&bits, &value, sizeof(bits))
    return bits ^ (0x80000000u | (0 - (bits >> 31)))


cdef bint keys_of_numbers(
    const float* x, int64_t row_stride, int64_t column_stride, int64_t rows, const int32_t[::1] used, int64_t stride,
    uint32_t* keys
) noexcept nogil:
    """Write the keys of a block, and for missing values any that no number has. Return whether any value is missing."""
    cdef int64_t begin = 0, end, i, k
    cdef const float* column
    cdef float value
    cdef bint missing = False
    if column_stride == 1:
        for i in range(rows):
            for k in range(used.shape[0]):
                value = x[i * row_stride + used[k]]
                missing |= value != value
                keys[i * stride + k] = key_of(value)
        return missing
    while begin < rows:  # column by column, but of so few rows that their keys stay in the cache
        end = min(begin + FEW_ROWS, rows)
        for k in range(used.shape[0]):
            column = x + used[k] * column_stride
            for i in range(begin, end):
                value = column[i * row_stride]
                missing |= value != value
                keys[i * stride + k] = key_of(value)
        begin = end
    return missing


cdef void keys_of_both_sides(
    const float* x, int64_t row_stride, int64_t column_stride, int64_t rows, const int32_t[::1] used, int64_t side,
    int64_t stride, uint32_t* keys
) noexcept nogil:
    """Write the keys of a block for both sides on which a missing value may go."""
    cdef int64_t i, k
    cdef float value
    cdef uint32_t key
    for i in range(rows):
        for k in range(used.shape[0]):
            value = x[i * row_stride + used[k] * column_stride]
            key = key_of(value)
            keys[i * stride + k] = MISSING_LEFT_KEY if value != value else key
            keys[i * stride + side + k] = MISSING_RIGHT_KEY if value != value else key


cdef void keys_of_ranks(
    const double* x, int64_t row_stride, int64_t column_stride, int64_t rows, const int32_t[::1] used,
    uint32_t first_category,
    const double[::1] thresholds, const int64_t[::1] offsets, int64_t side, int64_t stride, uint32_t* keys
) noexcept nogil:
    """Write the ranks of a block, or its categories, for both sides on which a missing value may go."""
    cdef int64_t i, k
    cdef double value
    cdef uint32_t category
    for k in range(used.shape[0]):
        if k >= first_category:
            for i in range(rows):
                value = x[i * row_stride + used[k] * column_stride]
                category = <uint32_t> value if value >= 0 else MISSING_CATEGORY
                keys[i * stride + k] = category & 0xFF
            continue
        rank_column(
            x + used[k] * column_stride, row_stride, rows, &thresholds[offsets[k]], offsets[k + 1] - offsets[k],
            keys + k, stride, MISSING_LEFT_KEY
        )
        for i in range(rows):
            value = x[i * row_stride + used[k] * column_stride]
            keys[i * stride + side + k] = MISSING_RIGHT_KEY if value != value else keys[i * stride + k]


cdef inline bint is_small(int64_t size, int64_t rows) noexcept nogil:
    """Return whether there are so many rows for each node of a tree that it is worth while to copy the nodes."""
    return size < SHORT and rows >= ROWS_OF_NODE * size


cdef inline int64_t size_of(const int64_t[::1] roots, int64_t n_nodes, int64_t t) noexcept nogil:
    """Return the number of nodes of a tree."""
    return (roots[t + 1] if t + 1 < roots.shape[0] else n_nodes) - roots[t]


cdef bint all_in_groups(
    const int64_t[::1] roots, int64_t n_nodes, const int32_t[:, ::1] steps, int64_t rows
) noexcept nogil:
    """Return whether so many rows walk in groups through every tree."""
    cdef int64_t t
    for t in range(roots.shape[0]):
        if steps[t, 1] or not is_small(size_of(roots, n_nodes, t), rows):
            return False
    return True


cdef void add_trees(
    const Node* nodes, int64_t n_nodes, const uint32_t* x, int64_t stride, int64_t rows,
    const uint32_t* categories, uint32_t first_category, uint32_t bits,
    const int64_t[::1] roots, const int32_t[:, ::1] steps, const int64_t[::1] addresses,
    int64_t value_stride, int width, Packing packing, const int32_t[::1] columns, double scale,
    double* sums, int64_t sums_stride, uint32_t* at, int32_t* active, const uint32_t* groups, int64_t groups_stride,
    int64_t right, Short* short_nodes, double* products
) noexcept nogil:
    """Add the leaves of all trees for one block of rows."""
    cdef int t, first
    cdef int64_t size, n_groups = (rows + GROUP - 1) // GROUP
    for t in range(roots.shape[0]):
        size = size_of(roots, n_nodes, t)
        if categories != NULL:
            walk_categories(
                nodes + roots[t], x, stride, rows, steps[t, 2], packing, categories, first_category, bits, at
            )
        elif steps[t, 1]:
            walk(nodes + roots[t], x, stride, rows, steps[t, 0], steps[t, 1], packing, at, active)
        elif groups != NULL and is_small(size, rows):
            shorten(nodes + roots[t], size, packing.shift, bits, right, short_nodes)
            first = enter_groups(short_nodes, groups, groups_stride, n_groups, steps[t, 0], at)
            walk_groups(short_nodes, groups, groups_stride, n_groups, steps[t, 0] - first, at)
        else:
            walk_to_depth(nodes + roots[t], x, stride, rows, steps[t, 0], packing, at)
        if products != NULL and is_small(size, rows):
            add_products(
                nodes + roots[t], size, at, <const char*> addresses[t], value_stride, width, scale,
                sums + columns[t], sums_stride, rows, products
            )
        else:
            add_values(
                nodes + roots[t], at, <const char*> addresses[t], value_stride, width, scale,
                sums + columns[t], sums_stride, rows
            )


ctypedef fused Value:
    float
    double


def add_leaves(
    const Value[:, :] x,
    const uint8_t[::1] nodes,
    const uint32_t[:, ::1] categories,
    uint32_t first_category,
    const int32_t[::1] used,
    const double[::1] thresholds,
    const int64_t[::1] offsets,
    const int64_t[::1] roots,
    const int32_t[:, ::1] steps,
    const int64_t[::1] addresses,
    int64_t value_stride,
    int width,
    int shift,
    const int32_t[::1] columns,
    double scale,
    double[:, ::1] out,
    int64_t block,
):
    """Add ``scale`` times the values of the leaf of each row to ``out``, tree by tree.

    Parameters
    ----------
    x : array of float32 or float64, shape (n_rows, n_features)
        Features, row by row or column by column. The keys of float64 are ranks.
    nodes : array of bytes
        The nodes of all trees, `NODE`.
    categories : array of uint32, shape (n_splits, 8)
        For each node that splits categories, a bit for each category that goes right. The threshold of such a node
        is the row. Categories must be less than 255, and a bit for number 255 says that a missing value goes right.
    first_category : int
        The first of the used columns that contain categories. They are the last ones.
    used : array of int32, shape (n_used,)
        The features with which nodes compare, in the order of the columns that nodes name.
    thresholds : array of float64
        The sorted thresholds of each column, of float64 only. Each number of them is one less than a power of two.
    offsets : array of int64, shape (n_used + 1,)
        Where the thresholds of each column begin.
    roots : array of int64, shape (n_trees,)
        The first node of each tree.
    steps : array of int32, shape (n_trees, 3)
        Number of steps before rows that have arrived are left out, and then between two looks; 0 if all have arrived.
        The last number is the depth of the tree.
    addresses : array of int64, shape (n_trees,)
        Where the values of each tree begin in memory.
    value_stride : int
        Number of bytes from the values of one node to those of the next.
    width : int
        Number of values of a node.
    shift : int
        Number of bits below the left child in a packed node.
    columns : array of int32, shape (n_trees,)
        The column of `out` to which the first value of a leaf of the tree is added.
    scale : float
        Factor of all values.
    out : array of float64, shape (n_rows, n_columns)
        Receives the sums.
    block : int
        Number of rows that walk through one tree before they walk through the next.
    """
    cdef uint32_t* at
    cdef int32_t* active
    cdef uint32_t* keys
    cdef uint32_t* groups = NULL
    cdef Short* short_nodes = NULL
    cdef double* products = NULL  # without the memory for them, values are added one by one
    cdef const uint32_t* splits = &categories[0, 0] if categories.shape[0] else NULL
    cdef bint missing = False  # of float64, whose keys are always those of both sides
    cdef Packing packing
    cdef uint32_t bits = (1u << (shift - 1)) - 1
    cdef int64_t side = <int64_t> bits + 1
    cdef int64_t begin = 0, rows, stride, largest = 0, t, size, n_nodes
    cdef int64_t n_used = used.shape[0], n_rows = x.shape[0]
    cdef int64_t row_stride = x.strides[0] // <int64_t> sizeof(Value)
    cdef int64_t column_stride = x.strides[1] // <int64_t> sizeof(Value)
    packing.shift = shift
    if n_rows == 0 or roots.shape[0] == 0:
        return
    at = <uint32_t*> malloc((block + GROUP) * sizeof(uint32_t))
    active = <int32_t*> malloc((block + LANES) * sizeof(int32_t))
    keys = <uint32_t*> malloc(block * (side + n_used) * sizeof(uint32_t))
    n_nodes = nodes.shape[0] // <int64_t> sizeof(Node)
    for t in range(roots.shape[0]):
        size = size_of(roots, n_nodes, t)
        if is_small(size, min(block, n_rows)):
            largest = max(largest, size)
    if largest and width <= 2:
        products = <double*> malloc(largest * width * sizeof(double))
    if largest and Value is float and 2 * n_used * GROUP <= SHORT:
        groups = <uint32_t*> malloc((block + 2 * GROUP) * 2 * n_used * sizeof(uint32_t))
        short_nodes = <Short*> malloc(largest * sizeof(Short))
    if at == NULL or active == NULL or keys == NULL or (groups == NULL) != (short_nodes == NULL):
        free(at)
        free(active)
        free(keys)
        free(groups)
        free(short_nodes)
        free(products)
        raise MemoryError()
    with nogil:
        while begin < n_rows:
            rows = min(block, n_rows - begin)
            stride = side + n_used
            packing.mask = (1u << shift) - 1
            if Value is float:
                missing = keys_of_numbers(&x[begin, 0], row_stride, column_stride, rows, used, n_used, keys)
                if groups != NULL:
                    group(keys, n_used, rows, missing, groups)
                if not missing:
                    stride = n_used
                    packing.mask = bits
                elif groups == NULL or not all_in_groups(roots, n_nodes, steps, rows):
                    keys_of_both_sides(&x[begin, 0], row_stride, column_stride, rows, used, side, stride, keys)
            else:
                keys_of_ranks(
                    &x[begin, 0], row_stride, column_stride, rows, used, first_category, thresholds, offsets, side,
                    stride, keys
                )
            add_trees(
                <const Node*> &nodes[0], n_nodes, keys, stride, rows, splits, first_category, bits, roots, steps,
                addresses, value_stride, width, packing, columns, scale, &out[begin, 0], out.shape[1], at, active,
                groups, n_used * (1 + missing), n_used * missing, short_nodes, products
            )
            begin += rows
    free(at)
    free(active)
    free(keys)
    free(groups)
    free(short_nodes)
    free(products)
