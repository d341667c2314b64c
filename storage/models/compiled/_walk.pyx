# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Walks rows through trees, many rows at a time and without branches.

A node takes 8 bytes: a threshold in float32, and an integer in which the lowest bits are the feature, the next bit says
that a missing value goes right, and the other bits are the index of the left child. The right child is the next node. A
leaf leads to itself, and its threshold is NaN, above which no value is, so a row that has arrived stays there. The bits
of this NaN contain the number that the leaf has in the tree of scikit-learn. `NODE` in the module `nodes` is the same
in NumPy.

The arrays must have been made by `pack`, which checks them. Nothing is checked while rows walk.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

VERSION = 1  # that of the module `extension`

cdef struct Node:
    float threshold
    uint32_t packed

cdef struct WideNode:
    double threshold
    uint32_t left
    uint32_t feature  # the highest bit says that a missing value goes right, and the next one that it splits categories

ctypedef fused AnyNode:
    Node
    WideNode

ctypedef fused Value:
    float
    double

cdef enum:
    LANES = 16
    FEW_LANES = 8
    NO_NODE = -1
    CATEGORIES_WORDS = 8  # of 32 bits, one for each category


cdef struct Packing:
    int shift
    uint32_t mask


cdef inline uint32_t left_of(AnyNode node, Packing packing) noexcept nogil:
    if AnyNode is Node:
        return node.packed >> packing.shift
    else:
        return node.left


cdef inline uint32_t feature_of(AnyNode node, Packing packing) noexcept nogil:
    if AnyNode is Node:
        return node.packed & packing.mask
    else:
        return node.feature & 0x3FFFFFFFu


cdef inline int64_t leaf_number(AnyNode node) noexcept nogil:
    """Return the number of a leaf, which its threshold contains."""
    cdef uint32_t bits
    cdef uint64_t wide_bits
    if AnyNode is Node:
        memcpy(&bits, &node.threshold, sizeof(bits))
        return <int64_t> (bits & 0x003FFFFFu)
    else:
        memcpy(&wide_bits, &node.threshold, sizeof(wide_bits))
        return <int64_t> (wide_bits & 0xFFFFFFFFu)


cdef inline uint32_t missing_goes_right(AnyNode node, Packing packing) noexcept nogil:
    if AnyNode is Node:
        return (node.packed >> (packing.shift - 1)) & 1
    else:
        return node.feature >> 31


cdef inline uint32_t step(const AnyNode* tree, uint32_t at, const Value* x, Packing packing) noexcept nogil:
    cdef AnyNode node = tree[at]
    return left_of(node, packing) + <uint32_t> (x[feature_of(node, packing)] > node.threshold)


cdef inline uint32_t step_missing(
    const AnyNode* tree, uint32_t at, const Value* x, const uint32_t* categories, Packing packing
) noexcept nogil:
    """Do a step where values may be missing, or are categories if `categories` is not NULL."""
    cdef AnyNode node = tree[at]
    cdef Value value = x[feature_of(node, packing)]
    cdef uint32_t category
    if AnyNode is WideNode:
        if categories != NULL and node.feature & 0x40000000u:
            if not value >= 0:
                return node.left + (node.feature >> 31)
            category = (<uint32_t> value) & 0xFFu
            return node.left + (
                (categories[leaf_number(node) * CATEGORIES_WORDS + (category >> 5)] >> (category & 31)) & 1
            )
    return left_of(node, packing) + (
        <uint32_t> (value > node.threshold) | (<uint32_t> (value != value) & missing_goes_right(node, packing))
    )


def place_children(
    const int64_t[::1] left,
    const int64_t[::1] right,
    int32_t[::1] order,
    int32_t[::1] places,
):
    """Number the nodes of a tree breadth first, so that the two children of a node are neighbours.

    Parameters
    ----------
    left, right : array of int64, shape (n_nodes,)
        Children; -1 on the left marks a leaf. The caller has checked that no other number is negative.
    order, places : array of int32, shape (n_nodes,)
        Filled with the old number of each new place, and with the place of each old number.

    Returns
    -------
    depth : int
        Depth of the deepest leaf, or -1 if these are not the children of one tree: a child is out of range, or is
        reached twice, or a node is not reached.
    depths : int
        Sum of the depths of all leaves.
    """
    cdef int64_t n = left.shape[0]
    cdef int64_t head = 0, tail = 1, level_end = 1, a, b, depth = 0, depths = 0
    cdef int64_t i
    with nogil:
        for i in range(n):
            places[i] = NO_NODE
        order[0] = 0
        places[0] = 0
        while head < tail:
            if head == level_end:
                level_end = tail
                depth += 1
            i = order[head]
            head += 1
            a = left[i]
            if a < 0:
                depths += depth
                continue
            b = right[i]
            if a >= n or b < 0 or b >= n or a == b or places[a] != NO_NODE or places[b] != NO_NODE:
                depth = -1
                break
            places[a] = <int32_t> tail
            order[tail] = <int32_t> a
            places[b] = <int32_t> (tail + 1)
            order[tail + 1] = <int32_t> b
            tail += 2
    if tail != n:
        depth = -1
    return depth, depths


cdef void walk(
    const AnyNode* tree, const Value* x, int64_t stride, int64_t rows, int first, int more, Packing packing,
    uint32_t* at, int32_t* active
) noexcept nogil:
    """Leave in `at` the leaf of each row: `first` steps for all, then `more` at a time for those on their way."""
    cdef int64_t i = 0, j, n = 0, kept, row
    cdef int d, lane
    cdef uint32_t places[LANES]
    cdef const Value* values[FEW_LANES]
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
    const AnyNode* tree, const Value* x, int64_t stride, int64_t rows, int depth, Packing packing, uint32_t* at
) noexcept nogil:
    """Leave in `at` the leaf of each row after as many steps as the deepest leaf needs."""
    cdef int64_t i = 0
    cdef int d, lane
    cdef uint32_t places[LANES]
    while i + LANES <= rows:
        for lane in range(LANES):
            places[lane] = 0
        for d in range(depth):
            for lane in range(LANES):
                places[lane] = step(tree, places[lane], x + (i + lane) * stride, packing)
        for lane in range(LANES):
            at[i + lane] = places[lane]
        i += LANES
    while i < rows:
        places[0] = 0
        for d in range(depth):
            places[0] = step(tree, places[0], x + i * stride, packing)
        at[i] = places[0]
        i += 1


cdef void walk_missing(
    const AnyNode* tree, const Value* x, int64_t stride, int64_t rows, const uint32_t* categories, Packing packing,
    uint32_t* at
) noexcept nogil:
    """Leave in `at` the leaf of each row, where values may be missing or categories."""
    cdef int64_t i = 0
    cdef int lane
    cdef uint32_t places[LANES]
    cdef uint32_t place, moved
    while i + LANES <= rows:
        for lane in range(LANES):
            places[lane] = 0
        moved = 1
        while moved:
            moved = 0
            for lane in range(LANES):
                place = step_missing(tree, places[lane], x + (i + lane) * stride, categories, packing)
                moved |= place ^ places[lane]
                places[lane] = place
        for lane in range(LANES):
            at[i + lane] = places[lane]
        i += LANES
    while i < rows:
        place = 0
        while True:
            moved = step_missing(tree, place, x + i * stride, categories, packing)
            if moved == place:
                break
            place = moved
        at[i] = place
        i += 1


cdef void add_values(
    const AnyNode* tree, const uint32_t* at, const char* values, int64_t value_stride, int width, double scale,
    double* sums, int64_t stride, int64_t rows
) noexcept nogil:
    """Add the values of the leaf of each row. Each product is rounded before the sum is, as in scikit-learn."""
    cdef int64_t i
    cdef int k
    cdef const double* leaf
    if width == 1:
        for i in range(rows):
            leaf = <const double*> (values + leaf_number(tree[at[i]]) * value_stride)
            sums[i * stride] += scale * leaf[0]
    elif width == 2:
        for i in range(rows):
            leaf = <const double*> (values + leaf_number(tree[at[i]]) * value_stride)
            sums[i * stride] += scale * leaf[0]
            sums[i * stride + 1] += scale * leaf[1]
    else:
        for i in range(rows):
            leaf = <const double*> (values + leaf_number(tree[at[i]]) * value_stride)
            for k in range(width):
                sums[i * stride + k] += scale * leaf[k]


cdef void add_trees(
    const AnyNode* nodes, const Value* x, int64_t n_rows, int64_t n_features, bint missing,
    const uint32_t* categories, const int64_t[::1] roots, const int32_t[:, ::1] steps, const int64_t[::1] addresses,
    int64_t value_stride, int width, Packing packing, const int32_t[::1] columns, double scale,
    double* sums, int64_t sums_stride, int64_t block, uint32_t* at, int32_t* active
) noexcept nogil:
    """Add the leaves of all trees, for one block of rows after another."""
    cdef int64_t begin = 0, rows
    cdef int t
    while begin < n_rows:
        rows = min(block, n_rows - begin)
        for t in range(roots.shape[0]):
            if missing or categories != NULL:
                walk_missing(
                    nodes + roots[t], x + begin * n_features, n_features, rows, categories, packing, at
                )
            elif steps[t, 1] == 0:
                walk_to_depth(
                    nodes + roots[t], x + begin * n_features, n_features, rows, steps[t, 0], packing, at
                )
            else:
                walk(
                    nodes + roots[t], x + begin * n_features, n_features, rows, steps[t, 0], steps[t, 1], packing,
                    at, active
                )
            add_values(
                nodes + roots[t], at, <const char*> addresses[t], value_stride, width, scale,
                sums + begin * sums_stride + columns[t], sums_stride, rows
            )
        begin += rows


def add_leaves(
    const Value[:, ::1] x,
    bint missing,
    const uint8_t[::1] nodes,
    const uint32_t[:, ::1] categories,
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
        Features. They decide which nodes are meant: those of `NODE` have float32.
    missing : bool
        Whether any value of `x` is NaN.
    nodes : array of bytes
        The nodes of all trees, `NODE` or `WIDE_NODE`.
    categories : array of uint32, shape (n_splits, 8)
        For each node that splits categories, a bit for each category that goes right. The threshold of such a node
        contains the row. Values of these features must be less than 256. Only wide nodes split categories.
    roots : array of int64, shape (n_trees,)
        The first node of each tree.
    steps : array of int32, shape (n_trees, 2)
        Number of steps before rows that have arrived are left out, and then between two looks; 0 if all have arrived.
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
    cdef const uint32_t* splits = &categories[0, 0] if categories.shape[0] else NULL
    cdef Packing packing
    packing.shift = shift
    packing.mask = (1u << (shift - 1)) - 1
    if x.shape[0] == 0 or roots.shape[0] == 0:
        return
    at = <uint32_t*> malloc(block * sizeof(uint32_t))
    active = <int32_t*> malloc((block + LANES) * sizeof(int32_t))
    if at == NULL or active == NULL:
        free(at)
        free(active)
        raise MemoryError()
    with nogil:
        if Value is float:
            add_trees(
                <const Node*> &nodes[0], &x[0, 0], x.shape[0], x.shape[1], missing, splits, roots, steps, addresses,
                value_stride, width, packing, columns, scale, &out[0, 0], out.shape[1], block, at, active
            )
        else:
            add_trees(
                <const WideNode*> &nodes[0], &x[0, 0], x.shape[0], x.shape[1], missing, splits, roots, steps,
                addresses, value_stride, width, packing, columns, scale, &out[0, 0], out.shape[1], block, at, active
            )
    free(at)
    free(active)
