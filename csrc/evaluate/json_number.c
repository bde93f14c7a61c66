/* Decimal to double, correctly rounded, whatever the locale.
 *
 * A number is w · 10^q with w of at most 19 digits nearly always. For small w and q both are exact
 * doubles and one operation rounds once (Clinger 1990); up to |q| = 27, 5^|q| fits 64 bits, so the
 * product or quotient is exact in 128-bit integers plus a sticky bit and is rounded here. What is
 * left (20 digits and more, far exponents) goes to the C library in the "C" locale. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* strtod_l */
#endif
#include "evaluate/json.h"

#include <locale.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#if defined(__APPLE__)
#include <xlocale.h>
#endif

__extension__ typedef unsigned __int128 u128;

static const double POWERS_OF_TEN[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,
                                       1e8,  1e9,  1e10, 1e11, 1e12, 1e13, 1e14, 1e15,
                                       1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};

static int bits_of(uint64_t x) {
    return 64 - __builtin_clzll(x); /* x > 0 */
}

static uint64_t power_of_five(int q) { /* q <= 27 */
    uint64_t p = 1;
    for (uint64_t base = 5; q; q >>= 1, base *= base)
        if (q & 1)
            p *= base;
    return p;
}

/* m · 2^e, rounded to nearest even; `sticky` says that a little more than m is meant. */
static double round_to_double(u128 m, bool sticky, int e) {
    uint64_t high = (uint64_t)(m >> 64);
    int bits = high ? 64 + bits_of(high) : bits_of((uint64_t)m);
    int shift = bits - 53;
    if (shift <= 0) /* only without a sticky bit: quotients have 62 bits and more */
        return ldexp((double)(uint64_t)m, e);
    uint64_t kept = (uint64_t)(m >> shift);
    u128 rest = m & (((u128)1 << shift) - 1), half = (u128)1 << (shift - 1);
    if (rest > half || (rest == half && (sticky || (kept & 1))))
        kept++;
    return ldexp((double)kept, shift + e);
}

/* w · 10^q for w > 0 and |q| <= 27. */
static double scale_exactly(uint64_t w, int q) {
    if (q >= 0)
        return round_to_double((u128)w * power_of_five(q), false, q);
    uint64_t divisor = power_of_five(-q);
    int shift = 63 + bits_of(divisor) - bits_of(w); /* the quotient gets 62 to 64 bits */
    u128 n = (u128)w << shift;
    u128 quotient = n / divisor;
    return round_to_double(quotient, n != quotient * divisor, q - shift);
}

static double by_library(const char *text) {
    locale_t c = newlocale(LC_NUMERIC_MASK, "C", (locale_t)0);
    if (!c)
        return strtod(text, NULL);
    double value = strtod_l(text, NULL, c);
    freelocale(c);
    return value;
}

double dd_json_decimal(const char *text, size_t length) {
    if (length > 4096) /* so that the counters below cannot overflow */
        return by_library(text);
    const char *p = text, *end = text + length;
    bool negative = *p == '-';
    p += negative;
    uint64_t w = 0;
    int digits = 0, q = 0;
    bool fraction = false;
    for (; p < end && *p != 'e' && *p != 'E'; p++) {
        if (*p == '.') {
            fraction = true;
            continue;
        }
        w = w * 10 + (uint64_t)(*p - '0'); /* wraps beyond 19 digits, and is not used then */
        digits += digits || *p != '0';
        q -= fraction;
        if (digits > 19)
            return by_library(text);
    }
    if (p < end) { /* the exponent; beyond 4 digits its size no longer matters */
        int exponent = 0, sign = 1;
        p++;
        if (*p == '+' || *p == '-')
            sign = *p++ == '-' ? -1 : 1;
        for (; p < end; p++)
            exponent = exponent < 10000 ? exponent * 10 + (*p - '0') : exponent;
        q += sign * exponent;
    }
    double value;
    if (w == 0)
        value = 0;
    else if (w <= (uint64_t)DD_JSON_MAX_INT && q >= -22 && q <= 22)
        value = q < 0 ? (double)w / POWERS_OF_TEN[-q] : (double)w * POWERS_OF_TEN[q];
    else if (q >= -27 && q <= 27)
        value = scale_exactly(w, q);
    else
        return by_library(text);
    return negative ? -value : value;
}
