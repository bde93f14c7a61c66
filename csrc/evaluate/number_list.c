/* Eight bytes at a time: where the run of digits ends is a count of bits, not a loop. */
#include "evaluate/number_list.h"

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* How many digits stand at p. */
static size_t count_digits(const char *p, const char *limit) {
    size_t n = 0;
    while (p + n < limit) {
        uint64_t v;
        memcpy(&v, p + n, 8);
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
        v = __builtin_bswap64(v);
#endif
        v ^= 0x3030303030303030u;
        uint64_t other = ((v + 0x7676767676767676u) | v) & 0x8080808080808080u;
        if (other)
            return n + (size_t)__builtin_ctzll(other) / 8;
        n += 8;
    }
    return n;
}

/* Behind the number at p, or NULL. */
static const char *number_end(const char *p, const char *limit) {
    p += *p == '-';
    size_t n = count_digits(p, limit);
    if (!n || (*p == '0' && n > 1) || n > 300) /* 300 digits: in a double's range */
        return NULL;
    p += n;
    if (*p != '.')
        return p;
    n = count_digits(p + 1, limit);
    return n ? p + 1 + n : NULL;
}

/* Behind the flat list of numbers at p. */
static const char *flat_end(const char *p, const char *limit) {
    if (*p++ != '[')
        return NULL;
    if (*p == ']')
        return p + 1;
    for (;;) {
        p = number_end(p, limit);
        if (!p || p >= limit)
            return NULL;
        if (*p == ']')
            return p + 1;
        if (*p++ != ',')
            return NULL;
        p += *p == ' ';
    }
}

const char *dd_number_list_end(const char *p, const char *limit) {
    if (p >= limit || *p != '[')
        return NULL;
    if (p[1] != '[')
        return flat_end(p, limit);
    p++;
    for (;;) {
        p = flat_end(p, limit);
        if (!p || p >= limit)
            return NULL;
        if (*p == ']')
            return p + 1;
        if (*p++ != ',')
            return NULL;
        p += *p == ' ';
        if (p >= limit)
            return NULL;
    }
}
