/* Philox4x32-10 (Salmon, Moraes, Dror, Shaw: Parallel Random Numbers: As Easy as 1, 2, 3, 2011).
 *
 * The counter says where in the experiment a number is drawn, the key is the seed; so nothing is
 * carried from draw to draw but a position. A stream has 2^32 blocks of four numbers and starts
 * over after them. */
#include "base/random.h"

#include <math.h>

/* One block: ten rounds on the counter. The constants are those of the paper's table 2. */
static void philox(const uint32_t key[2], const uint32_t counter[4], uint32_t out[4]) {
    uint32_t k0 = key[0], k1 = key[1];
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0;
        uint64_t p1 = (uint64_t)0xCD9E8D57u * c2;
        uint32_t n0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        uint32_t n2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c0 = n0;
        c1 = (uint32_t)p1;
        c2 = n2;
        c3 = (uint32_t)p0;
        k0 += 0x9E3779B9u; /* the golden ratio */
        k1 += 0xBB67AE85u; /* sqrt(3) - 1 */
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

void dd_stream_init(dd_stream *s, uint64_t seed, uint32_t epoch, uint32_t sample, dd_purpose p) {
    *s = (dd_stream){
        .key = {(uint32_t)seed, (uint32_t)(seed >> 32)},
        .counter = {0, (uint32_t)p, sample, epoch},
    };
}

uint32_t dd_stream_u32(dd_stream *s) {
    if (s->left == 0) {
        philox(s->key, s->counter, s->buffer);
        s->counter[0]++;
        s->left = 4;
    }
    return s->buffer[4 - s->left--];
}

uint32_t dd_stream_below(dd_stream *s, uint32_t n) {
    /* Lemire 2019: the high half of a product, with the few draws refused that would make some
     * results likelier than others. */
    uint64_t product = (uint64_t)dd_stream_u32(s) * n;
    if ((uint32_t)product < n) {
        uint32_t threshold = (0u - n) % n;
        while ((uint32_t)product < threshold)
            product = (uint64_t)dd_stream_u32(s) * n;
    }
    return (uint32_t)(product >> 32);
}

double dd_stream_uniform(dd_stream *s) {
    return dd_stream_u32(s) * 0x1p-32;
}

float dd_stream_range(dd_stream *s, float low, float high) {
    double u = dd_stream_uniform(s);
    float value = (float)(low + ((double)high - low) * u);
    /* The rounding to float may reach the open end. */
    return value >= high && high > low ? nextafterf(high, low) : value;
}

float dd_stream_normal(dd_stream *s) {
    /* Two draws a number; the second of the pair (the sine) is given up, so that a stream's
     * position stays a plain count of draws. */
    double radius = sqrt(-2.0 * log((dd_stream_u32(s) + 1.0) * 0x1p-32));
    return (float)(radius * cos(6.283185307179586 * dd_stream_uniform(s)));
}

void dd_stream_shuffle(dd_stream *s, uint32_t *items, uint32_t n) {
    for (uint32_t i = n; i > 1; i--) {
        uint32_t j = dd_stream_below(s, i);
        uint32_t item = items[i - 1];
        items[i - 1] = items[j];
        items[j] = item;
    }
}
