# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Finds the leaves of small trees for many rows at once. No row walks: every split is decided for every row.

The values of a tile of rows are stored column by column: numbers in float32, or ranks of float64 among the thresholds
of the column (`_ranks`), which fit into a byte. From the last split of a tree to the first one, each decides for all
rows of the tile which of its sides they take, and selects from the leaves that the splits or leaves there have found.
These loops have no branches, and compilers turn them into instructions for 4 to 16 rows. Numbers are compared 16 or,
on processors with AVX2, 32 at a time.

The arrays must have been made by `nodes.pack`, which checks them. Nothing is checked here.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from scoreline.storage.models.compiled._ranks cimport rank_column

VERSION = 7  # that of the module `extension`

cdef struct Split:
    uint32_t threshold  # of float32 its bits, of ranks the rank, and of categories the row in the table
    uint32_t column
    uint8_t left  # the number of a leaf, or of a split if it is at least FIRST_SPLIT
    uint8_t right
    uint8_t missing_right
    uint8_t by_category

ctypedef fused Cell:
    float
    uint8_t

ctypedef fused Value:
    float
    double

cdef enum:
    TILE = 256
    MAX_LEAVES = 64
    FIRST_SPLIT = 64
    VECTOR = 32  # rows that are decided together
    TREES = 4  # whose values are added in one pass over the sums
    CATEGORIES_WORDS = 8
    MISSING = 255


cdef extern from *:
    """
    #if defined(__SSE2__)  /* every x86-64 */
    #include <emmintrin.h>
    #endif

    /* Write, for each row, a byte from `rights` if the number is above the threshold, or is NaN and `missing` is not 0,
       and otherwise a byte from `lefts`. `left_rows` is 0 if the first 32 bytes of `lefts` are for all rows, and -1 if
       each row has its own byte; `right_rows` likewise. All arrays have room for a multiple of 32 rows. Compilers do
       not find the instructions that narrow four comparisons to bytes. */
    static inline void split_rows(const float *x, float threshold, const int missing, int64_t rows,
        const uint8_t *lefts, int64_t left_rows, const uint8_t *rights, int64_t right_rows, uint8_t *found)
    {
    #if defined(__SSE2__)
        const __m128 limit = _mm_set1_ps(threshold);
        #define COMPARED(k) _mm_castps_si128(missing ? _mm_cmpnle_ps(_mm_loadu_ps(x + i + (k)), limit) \
                                                     : _mm_cmpgt_ps(_mm_loadu_ps(x + i + (k)), limit))
        for (int64_t i = 0; i < rows; i += 16) {
            const __m128i low = _mm_packs_epi32(COMPARED(0), COMPARED(4));
            const __m128i high = _mm_packs_epi32(COMPARED(8), COMPARED(12));
            const __m128i above = _mm_packs_epi16(low, high);
            const __m128i right = _mm_loadu_si128((const __m128i *) (rights + (i & right_rows)));
            const __m128i left = _mm_loadu_si128((const __m128i *) (lefts + (i & left_rows)));
            _mm_storeu_si128((__m128i *) (found + i),
                _mm_or_si128(_mm_and_si128(above, right), _mm_andnot_si128(above, left)));
        }
        #undef COMPARED
    #else
        for (int64_t i = 0; i < rows; i++)
            found[i] = (missing ? !(x[i] <= threshold) : x[i] > threshold) ? rights[right_rows ? i : 0]
                                                                           : lefts[left_rows ? i : 0];
    #endif
    }

    #if defined(__x86_64__) && defined(__GNUC__)  /* 32 rows at a time, on processors with AVX2 */
    #include <immintrin.h>
    #define SPLIT_ROWS_AVX2(NAME, ORDER)                                                                              \
        __attribute__((target("avx2")))                                                                               \
        static void NAME(const float *x, float threshold, int64_t rows, const uint8_t *lefts, int64_t left_rows,      \
            const uint8_t *rights, int64_t right_rows, uint8_t *found)                                                \
        {                                                                                                             \
            const __m256 limit = _mm256_set1_ps(threshold);                                                           \
            const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);                                          \
            for (int64_t i = 0; i < rows; i += 32) {                                                                  \
                const __m256i low = _mm256_packs_epi32(                                                               \
                    _mm256_castps_si256(_mm256_cmp_ps(_mm256_loadu_ps(x + i), limit, ORDER)),                         \
                    _mm256_castps_si256(_mm256_cmp_ps(_mm256_loadu_ps(x + i + 8), limit, ORDER)));                    \
                const __m256i high = _mm256_packs_epi32(                                                              \
                    _mm256_castps_si256(_mm256_cmp_ps(_mm256_loadu_ps(x + i + 16), limit, ORDER)),                    \
                    _mm256_castps_si256(_mm256_cmp_ps(_mm256_loadu_ps(x + i + 24), limit, ORDER)));                   \
                const __m256i above = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(low, high), order);              \
                const __m256i right = _mm256_loadu_si256((const __m256i *) (rights + (i & right_rows)));              \
                const __m256i left = _mm256_loadu_si256((const __m256i *) (lefts + (i & left_rows)));                 \
                _mm256_storeu_si256((__m256i *) (found + i), _mm256_blendv_epi8(left, right, above));                 \
            }                                                                                                         \
        }
    SPLIT_ROWS_AVX2(split_rows_avx2, _CMP_GT_OQ)
    SPLIT_ROWS_AVX2(split_rows_or_missing_avx2, _CMP_NLE_UQ)
    static int has_wide_vectors(void) { return __builtin_cpu_supports("avx2") != 0; }
    #else
    #define split_rows_avx2(...)
    #define split_rows_or_missing_avx2(...)
    static int has_wide_vectors(void) { return 0; }
    #endif

    static void split_numbers(int wide, const float *x, float threshold, int missing, int64_t rows,
        const uint8_t *lefts, int64_t left_rows, const uint8_t *rights, int64_t right_rows, uint8_t *found)
    {
        if (wide && missing)
            split_rows_or_missing_avx2(x, threshold, rows, lefts, left_rows, rights, right_rows, found);
        else if (wide)
            split_rows_avx2(x, threshold, rows, lefts, left_rows, rights, right_rows, found);
        else if (missing)
            split_rows(x, threshold, 1, rows, lefts, left_rows, rights, right_rows, found);
        else
            split_rows(x, threshold, 0, rows, lefts, left_rows, rights, right_rows, found);
    }
    """
    int has_wide_vectors() noexcept nogil
    void split_numbers(
        int wide, const float* x, float threshold, int missing, int64_t rows, const uint8_t* lefts, int64_t left_rows,
        const uint8_t* rights, int64_t right_rows, uint8_t* found
    ) noexcept nogil


cdef int wide_vectors = has_wide_vectors()


def use_wide_vectors(bint wanted):
    """Use vectors of 32 bytes if the processor has them and they are `wanted`, and return whether they are used.

    The results are the same without these vectors. The extension uses them by default.
    """
    global wide_vectors
    wide_vectors = wanted and has_wide_vectors()
    return bool(wide_vectors)


cdef inline void decide(
    const uint8_t* column, Split split, const uint32_t* categories, int64_t rows, uint8_t* goes_right
) noexcept nogil:
    """Write 255 for each row that goes right by its rank or category, and 0 for the others."""
    cdef int64_t i
    cdef uint8_t rank
    cdef const uint32_t* bits
    if split.by_category:
        bits = categories + <int64_t> split.threshold * CATEGORIES_WORDS
        for i in range(rows):
            goes_right[i] = <uint8_t> (0 - ((bits[column[i] >> 5] >> (column[i] & 31)) & 1))
    elif split.missing_right:
        rank = <uint8_t> split.threshold
        for i in range(rows):
            goes_right[i] = 255 if column[i] > rank else 0
    else:
        rank = <uint8_t> (split.threshold + 1)  # one more on both sides makes the number for missing values 0
        for i in range(rows):
            goes_right[i] = 255 if <uint8_t> (column[i] + 1) > rank else 0


cdef inline void select(
    const uint8_t* goes_right, Split split, uint8_t* found, int64_t rows, uint8_t* leaves
) noexcept nogil:
    """Write the leaf of each row below a split, from those that the splits on both of its sides have found."""
    cdef int64_t i
    cdef uint8_t left = split.left, right = split.right
    cdef const uint8_t* lefts = found + (left - FIRST_SPLIT) * TILE
    cdef const uint8_t* rights = found + (right - FIRST_SPLIT) * TILE
    if left < FIRST_SPLIT and right < FIRST_SPLIT:
        for i in range(rows):
            leaves[i] = (goes_right[i] & right) | (~goes_right[i] & left)
    elif left < FIRST_SPLIT:
        for i in range(rows):
            leaves[i] = (goes_right[i] & rights[i]) | (~goes_right[i] & left)
    elif right < FIRST_SPLIT:
        for i in range(rows):
            leaves[i] = (goes_right[i] & right) | (~goes_right[i] & lefts[i])
    else:
        for i in range(rows):
            leaves[i] = (goes_right[i] & rights[i]) | (~goes_right[i] & lefts[i])


cdef inline const uint8_t* side_of(uint8_t side, const uint8_t* found) noexcept nogil:
    """Return the leaves on a side of a split: a leaf for each row if the side is a split, otherwise one leaf repeated."""
    return found + (side - FIRST_SPLIT) * TILE if side >= FIRST_SPLIT else found + MAX_LEAVES * TILE + side * VECTOR


cdef inline void find_leaves(
    const Cell* tile, const Split* splits, int64_t n_splits, const uint32_t* categories, int64_t rows,
    uint8_t* found, uint8_t* goes_right, uint8_t* leaves
) noexcept nogil:
    """Write the leaf of each row of a tile in one tree."""
    cdef int64_t s = n_splits - 1
    cdef float threshold
    cdef Split split
    if n_splits == 0:
        memset(leaves, 0, rows)
    while s >= 0:
        split = splits[s]
        if Cell is float:
            memcpy(&threshold, &split.threshold, sizeof(threshold))
            split_numbers(
                wide_vectors, tile + split.column * TILE, threshold, split.missing_right, rows,
                side_of(split.left, found), -(split.left >= FIRST_SPLIT),
                side_of(split.right, found), -(split.right >= FIRST_SPLIT), found + s * TILE if s else leaves
            )
        else:
            decide(tile + split.column * TILE, split, categories, rows, goes_right)
            select(goes_right, split, found, rows, found + s * TILE if s else leaves)
        s -= 1


cdef void add_single_values(
    const uint8_t* leaves, const double* values, int n_trees, double* sums, int64_t stride, int64_t rows
) noexcept nogil:
    """Add the products of some trees, one tree after another."""
    cdef int64_t i
    cdef int t
    cdef double total
    if n_trees == TREES:
        for i in range(rows):
            total = sums[i * stride] + values[leaves[i]]
            total += values[MAX_LEAVES + leaves[TILE + i]]
            total += values[2 * MAX_LEAVES + leaves[2 * TILE + i]]
            sums[i * stride] = total + values[3 * MAX_LEAVES + leaves[3 * TILE + i]]
        return
    for t in range(n_trees):
        for i in range(rows):
            sums[i * stride] += values[t * MAX_LEAVES + leaves[t * TILE + i]]


cdef void add_rows_of_values(
    const uint8_t* leaves, const int32_t* numbers, const char* values, int64_t value_stride, int width, double scale,
    double* sums, int64_t stride, int64_t rows
) noexcept nogil:
    """Add the products of one tree whose leaves have several values."""
    cdef int64_t i
    cdef int k
    cdef const double* leaf
    for i in range(rows):
        leaf = <const double*> (values + numbers[leaves[i]] * value_stride)
        for k in range(width):
            sums[i * stride + k] += scale * leaf[k]


cdef void add_tile(
    const Cell* tile, const Split* splits, const uint32_t* categories, const int64_t[::1] roots,
    const int32_t[::1] numbers, const int64_t[::1] addresses, int64_t value_stride, int width,
    const int32_t[::1] columns, double scale, double* sums, int64_t stride, int64_t rows, uint8_t* found
) noexcept nogil:
    """Add the leaves of all trees for one tile of rows."""
    cdef int64_t t, n_trees = columns.shape[0], n_splits, first
    cdef int kept = 0, leaf
    cdef uint8_t goes_right[TILE]
    cdef uint8_t leaves[TREES * TILE]
    cdef double values[TREES * MAX_LEAVES]
    for t in range(n_trees):
        n_splits = roots[t + 1] - roots[t]
        first = roots[t] + t  # a tree has one leaf more than splits
        find_leaves(
            tile, splits + roots[t], n_splits, categories, rows, found, goes_right, leaves + kept * TILE
        )
        if width > 1:
            add_rows_of_values(
                leaves, &numbers[first], <const char*> addresses[t], value_stride, width, scale,
                sums + columns[t], stride, rows
            )
            continue
        for leaf in range(n_splits + 1):
            values[kept * MAX_LEAVES + leaf] = (
                scale * (<const double*> (<const char*> addresses[t] + numbers[first + leaf] * value_stride))[0]
            )
        kept += 1
        if kept == TREES or t == n_trees - 1 or columns[t + 1] != columns[t]:
            add_single_values(leaves, values, kept, sums + columns[t], stride, rows)
            kept = 0


cdef void fill_tile(
    const Value* x, int64_t row_stride, int64_t column_stride, int64_t rows, const int32_t[::1] used,
    uint32_t first_category,
    const double[::1] thresholds, const int64_t[::1] offsets, Cell* tile
) noexcept nogil:
    """Write the columns that trees use: numbers as they are, or ranks and categories."""
    cdef int64_t i, k
    cdef Value value
    for k in range(used.shape[0]):
        if Cell is float and Value is float:
            for i in range(rows):
                tile[k * TILE + i] = x[i * row_stride + used[k] * column_stride]
        elif Cell is uint8_t and Value is double:
            if k < first_category:
                rank_column(
                    x + used[k] * column_stride, row_stride, rows, &thresholds[offsets[k]], offsets[k + 1] - offsets[k],
                    tile + k * TILE, 1, <uint8_t> MISSING
                )
            else:
                for i in range(rows):
                    value = x[i * row_stride + used[k] * column_stride]
                    tile[k * TILE + i] = <uint8_t> value if value >= 0 else MISSING


def add_small(
    const Value[:, :] x,
    const uint8_t[::1] splits,
    const uint32_t[:, ::1] categories,
    uint32_t first_category,
    const int32_t[::1] used,
    const double[::1] thresholds,
    const int64_t[::1] offsets,
    const int64_t[::1] roots,
    const int32_t[::1] numbers,
    const int64_t[::1] addresses,
    int64_t value_stride,
    int width,
    const int32_t[::1] columns,
    double scale,
    double[:, ::1] out,
):
    """Add ``scale`` times the values of the leaf of each row to ``out``, tree by tree.

    Parameters
    ----------
    x : array of float32 or float64, shape (n_rows, n_features)
        Features, row by row or column by column. Those of float64 are compared by rank.
    splits : array of bytes
        The splits of all trees, `SPLIT`. Each is behind the one above it.
    categories, first_category, used, thresholds, offsets
        As in `_walk.add_leaves`. A column has at most 255 thresholds.
    roots : array of int64, shape (n_trees + 1,)
        The first split of each tree, and the number of all.
    numbers : array of int32, shape (n_leaves,)
        The numbers of the leaves of each tree in scikit-learn.
    addresses, value_stride, width, columns, scale, out
        As in `_walk.add_leaves`.
    """
    cdef void* tile
    cdef uint8_t* found
    cdef int leaf
    cdef int64_t begin = 0, rows, n_rows = x.shape[0]
    cdef int64_t row_stride = x.strides[0] // <int64_t> sizeof(Value)
    cdef int64_t column_stride = x.strides[1] // <int64_t> sizeof(Value)
    cdef const Split* first = NULL
    cdef const uint32_t* bits = &categories[0, 0] if categories.shape[0] else NULL
    if n_rows == 0 or columns.shape[0] == 0:
        return
    if splits.shape[0]:
        first = <const Split*> &splits[0]
    tile = malloc(TILE * (used.shape[0] + 1) * sizeof(float))
    found = <uint8_t*> malloc(TILE * MAX_LEAVES + VECTOR * FIRST_SPLIT)
    if tile == NULL or found == NULL:
        free(tile)
        free(found)
        raise MemoryError()
    for leaf in range(FIRST_SPLIT):
        memset(found + TILE * MAX_LEAVES + VECTOR * leaf, leaf, VECTOR)
    with nogil:
        while begin < n_rows:
            rows = min(TILE, n_rows - begin)
            if Value is float:
                fill_tile[float, float](
                    &x[begin, 0], row_stride, column_stride, rows, used, first_category, thresholds, offsets,
                    <float*> tile
                )
                add_tile[float](
                    <const float*> tile, first, bits, roots, numbers, addresses, value_stride, width, columns, scale,
                    &out[begin, 0], out.shape[1], rows, found
                )
            else:
                fill_tile[double, uint8_t](
                    &x[begin, 0], row_stride, column_stride, rows, used, first_category, thresholds, offsets,
                    <uint8_t*> tile
                )
                add_tile[uint8_t](
                    <const uint8_t*> tile, first, bits, roots, numbers, addresses, value_stride, width, columns,
                    scale, &out[begin, 0], out.shape[1], rows, found
                )
            begin += rows
    free(tile)
    free(found)
