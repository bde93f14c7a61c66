/* Counter-based random numbers (Philox4x32-10; Salmon et al. 2011): a draw is a pure function of
 * (seed, epoch, sample, purpose, index), whatever the order and the threads. */
#ifndef DD_BASE_RANDOM_H
#define DD_BASE_RANDOM_H

#include <stdint.h>

/* What a number is for; two purposes never share a stream. Append only: streams are a contract. */
typedef enum dd_purpose {
    DD_FOR_INIT = 1,
    DD_FOR_SHUFFLE,
    DD_FOR_AUGMENT,
    DD_FOR_MIX,
    DD_FOR_DROPOUT,
    DD_FOR_SPLIT,
    DD_FOR_SYNTHETIC,
    DD_FOR_TEST,
} dd_purpose;

typedef struct dd_stream {
    uint32_t key[2];     /* seed */
    uint32_t counter[4]; /* block, purpose, sample, epoch */
    uint32_t buffer[4];
    int left;
} dd_stream;

void dd_stream_init(dd_stream *s, uint64_t seed, uint32_t epoch, uint32_t sample, dd_purpose p);
uint32_t dd_stream_u32(dd_stream *s);
uint32_t dd_stream_below(dd_stream *s, uint32_t n);                /* 0..n-1 without bias, n >= 1 */
double dd_stream_uniform(dd_stream *s);                            /* [0, 1), 32 bits */
float dd_stream_range(dd_stream *s, float low, float high);        /* [low, high) */
float dd_stream_normal(dd_stream *s);                              /* N(0, 1), Box-Muller */
void dd_stream_shuffle(dd_stream *s, uint32_t *items, uint32_t n); /* Fisher-Yates */

#endif
