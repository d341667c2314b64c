# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Scales the values of rows, and looks at them on the way.

scikit-learn copies the rows, reads them again to find infinite values, and then NumPy changes the copy twice. Here each
value is read once, and its result is written once. Each operation is rounded as in NumPy: to the type of the rows.

Results may be clipped, which scikit-learn does with arrays of booleans.

A value is refused if it is infinite, if it is so large that a result might overflow, or if it is a NaN that signals.
scikit-learn raises an error or NumPy warns for some of these, so the caller leaves all rows to scikit-learn.
"""

from libc.stdint cimport int64_t

VERSION = 1  # the SCALE_VERSION of the module `extension`

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>

    /* As in `_single`: each loop is compiled for every processor, and for those with AVX2. */
    #if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__) \
        && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    #define FOR_EACH_PROCESSOR __attribute__((target_clones("avx2", "default")))
    #else
    #define FOR_EACH_PROCESSOR
    #endif
    #define CONSTANTS 256

    /* Without the sign, the bits of numbers have the order of the numbers, infinity follows them, then the NaNs that
       signal, and then those that do not. The values that are refused are therefore in one range. */
    #define SCALE(NAME, VALUE, BITS, QUIET, NUMBER, FIRST, SECOND) \
    FOR_EACH_PROCESSOR static int NAME( \
        const VALUE *restrict x, VALUE *restrict out, int64_t n, \
        const NUMBER *restrict first, const NUMBER *restrict second, int64_t period, \
        VALUE limit, VALUE least, VALUE most) \
    { \
        BITS refused = 0, lowest; \
        memcpy(&lowest, &limit, sizeof lowest); \
        const BITS range = QUIET - lowest; \
        for (int64_t begin = 0; begin < n; begin += period) { \
            const int64_t length = n - begin < period ? n - begin : period; \
            for (int64_t i = 0; i < length; i++) { \
                VALUE value = x[begin + i]; \
                BITS bits; \
                memcpy(&bits, &value, sizeof bits); \
                refused |= (bits & ((BITS) -1 >> 1)) - lowest < range; \
                value = (VALUE) ((NUMBER) value FIRST first[i]); \
                value = (VALUE) ((NUMBER) value SECOND second[i]); \
                value = value < least ? least : value; /* a NaN remains */ \
                out[begin + i] = value > most ? most : value; \
            } \
        } \
        return refused != 0; \
    }

    #define SCALE_BOTH(SUFFIX, VALUE, BITS, QUIET, NUMBER) \
    SCALE(center_##SUFFIX, VALUE, BITS, QUIET, NUMBER, -, /) \
    SCALE(stretch_##SUFFIX, VALUE, BITS, QUIET, NUMBER, *, +) \
    static int scale_##SUFFIX( \
        const VALUE *x, VALUE *out, int64_t n, const NUMBER *first, const NUMBER *second, int64_t period, \
        VALUE limit, VALUE least, VALUE most, int stretches) \
    { \
        return (stretches ? stretch_##SUFFIX : center_##SUFFIX)( \
            x, out, n, first, second, period, limit, least, most); \
    } \
    /* Scale a column, whose values all have the same two numbers. */ \
    static int scale_column_##SUFFIX( \
        const VALUE *x, VALUE *out, int64_t n, NUMBER first, NUMBER second, \
        VALUE limit, VALUE least, VALUE most, int stretches) \
    { \
        NUMBER firsts[CONSTANTS], seconds[CONSTANTS]; \
        for (int64_t i = 0; i < CONSTANTS && i < n; i++) { \
            firsts[i] = first; \
            seconds[i] = second; \
        } \
        return scale_##SUFFIX(x, out, n, firsts, seconds, CONSTANTS, limit, least, most, stretches); \
    }

    SCALE_BOTH(wide, double, uint64_t, 0x7FF8000000000000u, double)
    SCALE_BOTH(narrow, float, uint32_t, 0x7FC00000u, float)
    SCALE_BOTH(mixed, float, uint32_t, 0x7FC00000u, double)
    """
    int scale_wide(
        const double*, double*, int64_t, const double*, const double*, int64_t, double, double, double, bint
    ) noexcept nogil
    int scale_narrow(
        const float*, float*, int64_t, const float*, const float*, int64_t, float, float, float, bint
    ) noexcept nogil
    int scale_mixed(
        const float*, float*, int64_t, const double*, const double*, int64_t, float, float, float, bint
    ) noexcept nogil
    int scale_column_wide(
        const double*, double*, int64_t, double, double, double, double, double, bint) noexcept nogil
    int scale_column_narrow(const float*, float*, int64_t, float, float, float, float, float, bint) noexcept nogil
    int scale_column_mixed(const float*, float*, int64_t, double, double, float, float, float, bint) noexcept nogil

ctypedef fused Value:
    float
    double

ctypedef fused Number:
    float
    double


cdef struct Rule:
    double limit
    double least
    double most
    bint stretches


def scale(x, out, first, second, double limit, double least, double most, bint stretches):
    """Compute ``(x - first) / second`` or, if `stretches`, ``x * first + second``, rounded after each operation.

    Parameters
    ----------
    x : array of float32 or float64, shape (n,) or (n_features, n_rows), or list of arrays of shape (n_rows,)
        Values of rows one after the other; or of columns. All are contiguous.
    out : array of the same type, shape (n,) or (n_features, n_rows)
        Receives the results. It does not share memory with `x`.
    first, second : array of float32 or float64, shape (period,) or (n_features,)
        The numbers of values one after the other, which begin again after each period; or those of the columns. They
        are float32 only if `x` is.
    limit : float
        Positive power of two: values from it on are refused.
    least, most : float
        The ends between which results are clipped. They may be infinite.
    stretches : bool
        Which of the two formulas is computed.

    Returns
    -------
    accepted : bool
        Whether no value was refused. Otherwise, what `out` received has no meaning.
    """
    cdef Rule rule
    rule.limit, rule.least, rule.most, rule.stretches = limit, least, most, stretches
    if out.itemsize == sizeof(double):
        return not scale_as[double, double](0, x, out, first, second, rule)
    if first.itemsize == sizeof(double):
        return not scale_as[float, double](0, x, out, first, second, rule)
    return not scale_as[float, float](0, x, out, first, second, rule)


cdef int scale_as(Value kind, x, out, const Number[::1] first, const Number[::1] second, Rule rule) except -1:
    """Return whether a value was refused. The type of `kind` is that of the values."""
    cdef const Value[::1] values
    cdef Value[::1] results
    cdef const Value[:, ::1] matrix
    cdef Value[:, ::1] columns
    cdef int refused = 0
    cdef int64_t k, n, period = first.shape[0]
    if second.shape[0] != period or not period:
        raise ValueError("expected two numbers for each feature")
    if out.ndim == 1:
        values, results = x, out
        n = values.shape[0]
        if results.shape[0] != n:
            raise ValueError(f"expected {n} results, got {results.shape[0]}")
        if n:
            with nogil:
                refused = scale_run(&values[0], &results[0], n, &first[0], &second[0], period, rule)
        return refused
    columns = out
    n = columns.shape[1]
    if columns.shape[0] != period or len(x) != period:
        raise ValueError(f"expected {period} columns, got {len(x)}, and {columns.shape[0]} for the results")
    if isinstance(x, list):
        for k in range(period):
            values = x[k]
            if values.shape[0] != n:
                raise ValueError(f"expected {n} rows, got {values.shape[0]}")
            if n:
                with nogil:
                    refused |= scale_column(&values[0], &columns[k, 0], n, first[k], second[k], rule)
        return refused
    matrix = x
    if matrix.shape[1] != n:
        raise ValueError(f"expected {n} rows, got {matrix.shape[1]}")
    if n:
        with nogil:
            for k in range(period):
                refused |= scale_column(&matrix[k, 0], &columns[k, 0], n, first[k], second[k], rule)
    return refused


cdef int scale_run(
    const Value* x, Value* out, int64_t n, const Number* first, const Number* second, int64_t period, Rule rule
) noexcept nogil:
    cdef Value limit = <Value> rule.limit, least = <Value> rule.least, most = <Value> rule.most
    if Value is double and Number is double:
        return scale_wide(x, out, n, first, second, period, limit, least, most, rule.stretches)
    elif Value is float and Number is float:
        return scale_narrow(x, out, n, first, second, period, limit, least, most, rule.stretches)
    elif Value is float:
        return scale_mixed(x, out, n, first, second, period, limit, least, most, rule.stretches)
    else:
        return 1  # there are no such numbers


cdef int scale_column(
    const Value* x, Value* out, int64_t n, Number first, Number second, Rule rule
) noexcept nogil:
    cdef Value limit = <Value> rule.limit, least = <Value> rule.least, most = <Value> rule.most
    if Value is double and Number is double:
        return scale_column_wide(x, out, n, first, second, limit, least, most, rule.stretches)
    elif Value is float and Number is float:
        return scale_column_narrow(x, out, n, first, second, limit, least, most, rule.stretches)
    elif Value is float:
        return scale_column_mixed(x, out, n, first, second, limit, least, most, rule.stretches)
    else:
        return 1
