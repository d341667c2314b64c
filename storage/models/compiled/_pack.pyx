# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Reads the arrays of trees: checks them, lays out their nodes for `_walk`, and finds what leads to a leaf.

The arrays may be damaged. No index is used before it has been found to be in range.
"""

from libc.math cimport INFINITY
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

VERSION = 7  # that of the module `extension`

cdef struct Node:  # as in `_walk`
    uint32_t threshold
    uint32_t packed

cdef struct Draft:  # a node in the order of the tree itself
    uint32_t threshold
    uint32_t packed  # without the left child
    int32_t left  # of a leaf, the number of nodes, which no node has
    int32_t right

cdef enum:
    NO_COLUMN = -1
    WORK = 24

    SOUND = 0
    NO_TREE = 1
    UNKNOWN_FEATURE = 2
    NO_NUMBER = 3
    UNKNOWN_SPLIT = 4
    NOT_PROVEN = 5

cdef uint32_t LEAF_KEY = 0xFFC00000u  # larger than the key of any number
cdef uint32_t INFINITY_KEY = 0xFF800000u
cdef uint32_t NEGATIVE_ZERO_KEY = 0x7FFFFFFFu  # which no number has, because that of zero is the next one


cdef inline uint32_t key_at_or_below(double threshold) noexcept nogil:
    """Return the key of the largest float32 that is not above a threshold. Both zeros have the same."""
    cdef float number = <float> threshold
    cdef bint above = <double> number > threshold
    cdef uint32_t bits, key
    number = number + <float> 0
    memcpy(&bits, &number, sizeof(bits))
    key = (bits ^ (0x80000000u | (0 - (bits >> 31)))) - above
    return key - (key == NEGATIVE_ZERO_KEY)


cpdef bint divides_as(uint32_t key, double threshold) noexcept nogil:
    """Return whether the float32 of a key is at or below a threshold, and the next float32 above it.

    The key is decoded, and not computed again, so this proves that the key divides all float32 as the threshold does.
    """
    return (float_of(key) <= threshold) & ((float_of(key + 1) > threshold) | (key == INFINITY_KEY))


cdef inline double float_of(uint32_t key) noexcept nogil:
    """Return the float32 that has a key."""
    cdef float number
    cdef uint32_t bits = key ^ (0x80000000u if key >> 31 else 0xFFFFFFFFu)
    memcpy(&number, &bits, sizeof(number))
    return number


cdef inline uint32_t rank_of(double threshold, const double* thresholds, int64_t n) noexcept nogil:
    """Return how many of the sorted thresholds are below one."""
    cdef int64_t low = 0, high = n, middle
    while low < high:
        middle = (low + high) >> 1
        if thresholds[middle] < threshold:
            low = middle + 1
        else:
            high = middle
    return <uint32_t> low


def mark_features(
    const int64_t[:] left, const int64_t[:] feature, const int64_t[:] splits, uint8_t[::1] numeric,
    uint8_t[::1] categorical, int64_t missing,
):
    """Mark the features that a tree compares as numbers or as categories. Others than those of the rows are ignored.

    At most `missing` features have no mark as a number yet. Return how many have none then. The search ends if it is 0.
    """
    cdef int64_t i, f, n = left.shape[0], n_features = numeric.shape[0]
    cdef bint by_category = splits.shape[0] > 0
    with nogil:
        for i in range(n):
            if missing == 0:
                break
            f = feature[i]
            if left[i] < 0 or f < 0 or f >= n_features:
                continue
            if by_category and splits[i] >= 0:
                categorical[f] = 1
            elif not numeric[f]:
                numeric[f] = 1
                missing -= 1
    return missing


def lay_out(
    const int64_t[:] left,
    const int64_t[:] right,
    const int64_t[:] feature,
    const double[:] threshold,
    const uint8_t[:] missing_left,
    const int64_t[:] splits,
    const int64_t[:] rows,
    int64_t n_splits,
    const int32_t[::1] columns,
    bint ranked,
    const double[::1] thresholds,
    const int64_t[::1] offsets,
    int shift,
    uint8_t[::1] nodes,
    uint8_t[::1] work,
):
    """Check a tree, and write its nodes breadth first, so that the two children of a node are neighbours.

    Parameters
    ----------
    left, right : array of int64, shape (n_nodes,)
        Children; -1 on the left marks a leaf.
    feature, threshold, missing_left : array, shape (n_nodes,)
        What a node compares, and whether a missing value goes left.
    splits : array of int64, shape (n_nodes,) or (0,)
        The row of the table of splits of each node that splits categories, and negative elsewhere.
    rows : array of int64, shape (n_nodes,) or (0,)
        The row of each node in the values, which the caller has checked. If it is empty, each node has its own.
    n_splits : int
        Number of rows of the table of splits.
    columns : array of int32, shape (n_features,)
        The column of each feature, or -1.
    ranked : bool
        Whether thresholds are stored as ranks among `thresholds`, of which those of each column begin at `offsets`.
    shift : int
        Number of bits below the left child in a packed node.
    nodes : array of bytes
        Receives the nodes, `NODE`.
    work : array of bytes
        Aligned memory for the work, at least `WORK` bytes for each node and one more.

    Returns
    -------
    problem : int
        0, or why the arrays are not those of a tree.
    depth : int
        Depth of the deepest leaf.
    depths : int
        Sum of the depths of all leaves.
    """
    cdef int64_t n = left.shape[0], depth = 0, depths = 0
    cdef int problem
    cdef Draft* drafts = <Draft*> &work[0]
    cdef int32_t* order = <int32_t*> (drafts + n)
    cdef uint8_t* seen = <uint8_t*> (order + n + 2)
    if work.shape[0] < n * WORK + WORK:
        raise ValueError("the memory for the work is too small")
    if not (right.shape[0] == feature.shape[0] == threshold.shape[0] == missing_left.shape[0] == n):
        raise ValueError("the arrays of the tree differ in length")
    if splits.shape[0] not in (0, n) or rows.shape[0] not in (0, n) or nodes.shape[0] < 8 * n:
        raise ValueError("the arrays for the nodes differ in length from the tree")
    with nogil:
        problem = draft(
            left, right, feature, threshold, missing_left, splits, rows, n_splits, columns, ranked, thresholds, offsets,
            shift, drafts
        )
        if problem == SOUND:
            problem = arrange(drafts, n, shift, order, seen, <Node*> &nodes[0], &depth, &depths)
    return problem, depth, depths


cdef int draft(
    const int64_t[:] left, const int64_t[:] right, const int64_t[:] feature, const double[:] threshold,
    const uint8_t[:] missing_left, const int64_t[:] splits, const int64_t[:] rows, int64_t n_splits,
    const int32_t[::1] columns, bint ranked, const double[::1] thresholds, const int64_t[::1] offsets, int shift,
    Draft* drafts
) noexcept nogil:
    """Check the numbers of each node, and write the node, in one pass over the memory of the tree.

    Each key and rank is also proven to decide as the threshold does, for every value. Leaves and splits alternate at
    random, so no branch depends on which of them a node is.
    """
    cdef int64_t n = left.shape[0], n_features = columns.shape[0], i, a, b, f, column, split, first
    cdef bint by_category = splits.shape[0] > 0, own_rows = rows.shape[0] == 0, inner, known
    cdef bint no_tree = False, unknown = False, no_number = False, no_split = False, proven = True
    cdef uint32_t bits, own
    for i in range(n):
        a = left[i]
        b = right[i]
        f = feature[i]
        inner = a != -1
        no_tree |= inner & ((a < 0) | (a >= n) | (b < 0) | (b >= n) | (a == b))
        known = (f >= 0) & (f < n_features)
        column = columns[f if known else 0]
        known &= column != NO_COLUMN
        unknown |= inner & (not known)
        split = splits[i] if by_category else -1
        no_split |= inner & (split >= n_splits)
        no_number |= inner & (split < 0) & (threshold[i] != threshold[i])
        if split >= 0:
            bits = <uint32_t> split
        elif not ranked:
            bits = key_at_or_below(threshold[i])
            proven &= divides_as(bits, threshold[i]) | (not inner) | (threshold[i] != threshold[i])
        elif inner and known:
            first = offsets[column]
            bits = rank_of(threshold[i], &thresholds[first], offsets[column + 1] - first)
            first += bits
            proven &= (bits == 0 or thresholds[first - 1] < threshold[i]) and (
                thresholds[first] == threshold[i] if first < offsets[column + 1] else threshold[i] == INFINITY
            ) or threshold[i] != threshold[i]
        else:
            bits = 0
        own = <uint32_t> (missing_left[i] == 0) << (shift - 1) | <uint32_t> column
        drafts[i].threshold = bits if inner else LEAF_KEY | <uint32_t> (i if own_rows else rows[i])
        drafts[i].packed = own if inner else 0
        drafts[i].left = <int32_t> (a if inner else n)
        drafts[i].right = <int32_t> (b if inner else n)
    return NO_TREE if no_tree else UNKNOWN_FEATURE if unknown else NO_NUMBER if no_number else (
        UNKNOWN_SPLIT if no_split else SOUND if proven else NOT_PROVEN
    )


cdef int arrange(
    const Draft* drafts, int64_t n, int shift, int32_t* order, uint8_t* seen, Node* nodes, int64_t* depth,
    int64_t* depths
) noexcept nogil:
    """Write the nodes breadth first. Each is reached once, or the drafts are not those of a tree.

    `order` has room for the two children that a leaf does not have, and `seen` for their number, which is `n`.
    """
    cdef int64_t head = 0, tail = 1, level_end = 1
    cdef Draft node
    cdef bint inner
    memset(seen, 0, n + 1)
    order[0] = 0
    seen[0] = 1
    while head < tail:
        if head == level_end:
            level_end = tail
            depth[0] += 1
        node = drafts[order[head]]
        inner = node.left != n
        if inner & (seen[node.left] | seen[node.right]):
            return NO_TREE
        seen[node.left] = 1
        seen[node.right] = 1
        order[tail] = node.left
        order[tail + 1] = node.right
        nodes[head].threshold = node.threshold
        nodes[head].packed = node.packed | (<uint32_t> (tail if inner else head) << shift)
        depths[0] += 0 if inner else depth[0]
        tail += 2 * inner
        head += 1
    return SOUND if tail == n else NO_TREE


def boxes(
    const int64_t[:] left,
    const int64_t[:] right,
    const int64_t[:] feature,
    const double[:] threshold,
    const int64_t[::1] leaves,
    double[:, ::1] low,
    double[:, ::1] high,
):
    """Narrow an interval for each leaf and feature, from which values lead to the leaf: above `low`, at most `high`.

    The tree must be one that `lay_out` has accepted.
    """
    cdef int64_t j
    cdef bint found = True
    with nogil:
        for j in range(leaves.shape[0]):
            found &= descend(left, right, feature, threshold, leaves[j], NULL, NULL)
        if found:
            for j in range(leaves.shape[0]):
                descend(left, right, feature, threshold, leaves[j], &low[j, 0], &high[j, 0])
    if not found:
        ascend(left, right, feature, threshold, leaves, low, high)


cdef bint descend(
    const int64_t[:] left, const int64_t[:] right, const int64_t[:] feature, const double[:] threshold, int64_t leaf,
    double* low, double* high
) noexcept nogil:
    """Go from the root to a leaf, as if nodes were numbered depth first; return whether they are, on this path.

    Then a node is on the right of another if its number is not below that of the right child. This looks at a few nodes
    instead of all. The interval of the leaf is narrowed, unless it is NULL.
    """
    cdef int64_t at = 0, f
    while left[at] >= 0:
        f = feature[at]
        if leaf < right[at]:
            if high != NULL:
                high[f] = min(high[f], threshold[at])
            at = left[at]
        else:
            if low != NULL:
                low[f] = max(low[f], threshold[at])
            at = right[at]
    return at == leaf


cdef int ascend(
    const int64_t[:] left, const int64_t[:] right, const int64_t[:] feature, const double[:] threshold,
    const int64_t[::1] leaves, double[:, ::1] low, double[:, ::1] high
) except -1:
    """Go from each leaf to the root, wherever the nodes are."""
    cdef int64_t n = left.shape[0], i, j, at, above, f
    cdef int32_t* parents = <int32_t*> malloc(n * sizeof(int32_t))
    if parents == NULL:
        raise MemoryError()
    with nogil:
        parents[0] = -1
        for i in range(n):
            if left[i] >= 0:
                parents[left[i]] = <int32_t> i
                parents[right[i]] = <int32_t> i
        for j in range(leaves.shape[0]):
            at = leaves[j]
            above = parents[at]
            while above >= 0:
                f = feature[above]
                if left[above] == at:
                    high[j, f] = min(high[j, f], threshold[above])
                else:
                    low[j, f] = max(low[j, f], threshold[above])
                at = above
                above = parents[at]
    free(parents)
    return 0
