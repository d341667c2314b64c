# Numbers that are written plainly, as `row_scanner` reads them.

cdef extern from *:
    """
    #include <float.h>
    #include <math.h>

    #if defined(__GNUC__) && defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    #define HAS_WORDS_OF_DIGITS 1
    #else
    #define HAS_WORDS_OF_DIGITS 0
    #endif

    static const uint64_t TENS[20] = {
        1ULL, 10ULL, 100ULL, 1000ULL, 10000ULL, 100000ULL, 1000000ULL, 10000000ULL, 100000000ULL, 1000000000ULL,
        10000000000ULL, 100000000000ULL, 1000000000000ULL, 10000000000000ULL, 100000000000000ULL, 1000000000000000ULL,
        10000000000000000ULL, 100000000000000000ULL, 1000000000000000000ULL, 10000000000000000000ULL};
    /* float64 holds these exactly, and no higher power of 10. */
    static const double EXACT_TENS[23] = {1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14,
                                          1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};

    /* Return the value of up to 8 digits. */
    static inline uint64_t value_of_digits(const uint8_t *at, int count) {
    #if HAS_WORDS_OF_DIGITS
        uint64_t word;
        memcpy(&word, at, 8);
        word = (word ^ 0x3030303030303030ULL) << (64 - 8 * count); /* zeros come first */
        word = word * 10 + (word >> 8);                            /* pairs of digits */
        return (((word & 0x000000FF000000FFULL) * 0x000F424000000064ULL) +
                (((word >> 16) & 0x000000FF000000FFULL) * 0x0000271000000001ULL)) >> 32;
    #else
        uint64_t value = 0;
        int place;
        for (place = 0; place < count; place++) value = value * 10 + (at[place] - '0');
        return value;
    #endif
    }

    /* Append digits to a value. Return the position after them, or NULL if the value has more than 64 bits. */
    static inline const uint8_t *add_digits(const uint8_t *at, const uint8_t *end, uint64_t *value) {
        while (end - at >= 8) {
            int count = digits_of_8(at);
            if (!count) return at;
            if (*value >= UINT64_MAX / TENS[count]) return NULL;
            *value = *value * TENS[count] + value_of_digits(at, count);
            at += count;
            if (count < 8) return at;
        }
        while (at < end && (uint8_t)(*at - '0') <= 9) {
            if (*value >= UINT64_MAX / 10) return NULL;
            *value = *value * 10 + (*at - '0');
            at++;
        }
        return at;
    }

    #if defined(__SIZEOF_INT128__)
    /* Return value / 10**decimals, rounded once. The value has more than 53 bits, and there are up to 22 decimals. */
    static double rounded_quotient(uint64_t value, int decimals) {
        int zeros = __builtin_clzll(value), bits, shift, inexact;
        unsigned __int128 left = (unsigned __int128)(value << zeros) << 64;
        uint64_t first = TENS[decimals > 19 ? 19 : decimals], second = TENS[decimals > 19 ? decimals - 19 : 0], kept;
        unsigned __int128 quotient = left / first;
        inexact = left % first != 0;
        inexact |= quotient % second != 0;
        quotient /= second;
        bits = quotient >> 64 ? 128 - __builtin_clzll((uint64_t)(quotient >> 64)) : 64 - __builtin_clzll((uint64_t)quotient);
        shift = bits - 54; /* the quotient has at least 54 bits: those of a float64, and one more to round by */
        inexact |= (quotient & (((unsigned __int128)1 << shift) - 1)) != 0;
        kept = (uint64_t)(quotient >> shift);
        kept = (kept >> 1) + ((kept & 1) && (inexact || (kept & 2)));
        return ldexp((double)kept, shift + 1 - 64 - zeros);
    }
    #endif

    /* Set value / 10**decimals, as Python and Arrow round it. Return 0 if this takes more than a division. */
    static inline int to_double(uint64_t value, int64_t decimals, int negative, double *out) {
    #if FLT_EVAL_METHOD == 0
        double found;
        if (value <= 1ULL << 53 && 0 <= decimals && decimals <= 22)
            found = (double)value / EXACT_TENS[decimals];
        else if (value <= 1ULL << 53 && -22 <= decimals && decimals < 0)
            found = (double)value * EXACT_TENS[-decimals];
    #if defined(__SIZEOF_INT128__)
        else if (value > 1ULL << 53 && 0 <= decimals && decimals <= 22)
            found = rounded_quotient(value, (int)decimals);
    #endif
        else
            return 0;
        *out = negative ? -found : found;
        return 1;
    #else
        return 0;
    #endif
    }

    /* Read a number as JSON writes it. Return the position after it; NULL if it is not plain or has too many digits. */
    static inline const uint8_t *read_double(const uint8_t *at, const uint8_t *end, uint8_t point, double *out) {
        uint64_t value = 0;
        int64_t decimals = 0;
        int negative = *at == '-', count;
        const uint8_t *begin = at += negative;
        if (end - at >= 24 && (uint8_t)(at[0] - '0') <= 9 && at[1] == point && (count = digits_of_8(at + 2)) < 8 && count) {
            value = (at[0] - '0') * TENS[count] + value_of_digits(at + 2, count);
            at += 2 + count;
            decimals = count;
        } else {
            at = add_digits(at, end, &value);
            if (!at || at == begin || (at - begin > 1 && *begin == '0')) return NULL;
            if (at < end && *at == point) {
                begin = ++at;
                at = add_digits(at, end, &value);
                if (!at || at == begin) return NULL;
                decimals = at - begin;
            }
        }
        if (at < end && (*at | 32) == 'e') {
            int exponent = 0, less;
            at++;
            less = *at == '-';
            at += less || *at == '+';
            for (begin = at; at < end && (uint8_t)(*at - '0') <= 9 && at - begin < 3; at++)
                exponent = exponent * 10 + (*at - '0');
            if (at == begin) return NULL;
            decimals += less ? exponent : -exponent;
        }
        return to_double(value, decimals, negative, out) ? at : NULL;
    }

    /* Read an integer of up to 18 digits without leading zeros. Return the position after it; NULL if there is none. */
    static inline const uint8_t *read_integer(const uint8_t *at, const uint8_t *end, int64_t *out) {
        uint64_t value = 0;
        int negative = *at == '-';
        const uint8_t *begin = at += negative;
        at = add_digits(at, end, &value);
        if (!at || at == begin || at - begin > 18 || (*begin == '0' && (negative || at - begin > 1))) return NULL;
        *out = negative ? -(int64_t)value : (int64_t)value;
        return at;
    }
    """
    const uint8_t *read_double(const uint8_t *at, const uint8_t *end, uint8_t point, double *out) noexcept nogil
    const uint8_t *read_integer(const uint8_t *at, const uint8_t *end, int64_t *out) noexcept nogil
