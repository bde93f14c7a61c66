/* Plain C for both: a model of a few megabytes takes some milliseconds, once a load. */
#include "io/checksum.h"

#include <string.h>

/* ---- SHA-256 ------------------------------------------------------------------------------- */

/* The first 32 bits of the fractional parts of the cube roots of the first 64 primes. */
static const uint32_t round_constants[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

static uint32_t turned(uint32_t x, int n) {
    return x >> n | x << (32 - n);
}

/* One round. The standard moves all eight variables along by one; here they stay in registers and
 * the caller turns the names instead. */
static inline void sha256_round(const uint32_t *a, const uint32_t *b, const uint32_t *c,
                                uint32_t *d, const uint32_t *e, const uint32_t *f,
                                const uint32_t *g, uint32_t *h, int t, const uint32_t w[64]) {
    uint32_t s1 = turned(*e, 6) ^ turned(*e, 11) ^ turned(*e, 25);
    uint32_t t1 = *h + s1 + ((*e & *f) ^ (~*e & *g)) + round_constants[t] + w[t];
    uint32_t s0 = turned(*a, 2) ^ turned(*a, 13) ^ turned(*a, 22);
    *d += t1;
    *h = t1 + s0 + ((*a & *b) ^ (*a & *c) ^ (*b & *c));
}

/* One block of 64 bytes into the state; the names are the standard's. */
static void sha256_block(uint32_t state[8], const uint8_t *block) {
    uint32_t w[64], v[8];
    for (int t = 0; t < 16; t++)
        w[t] = (uint32_t)block[4 * t] << 24 | (uint32_t)block[4 * t + 1] << 16 |
               (uint32_t)block[4 * t + 2] << 8 | block[4 * t + 3];
    for (int t = 16; t < 64; t++) {
        uint32_t s0 = turned(w[t - 15], 7) ^ turned(w[t - 15], 18) ^ w[t - 15] >> 3;
        uint32_t s1 = turned(w[t - 2], 17) ^ turned(w[t - 2], 19) ^ w[t - 2] >> 10;
        w[t] = w[t - 16] + s0 + w[t - 7] + s1;
    }
    memcpy(v, state, sizeof v);
    for (int t = 0; t < 64; t += 8) {
        sha256_round(&v[0], &v[1], &v[2], &v[3], &v[4], &v[5], &v[6], &v[7], t, w);
        sha256_round(&v[7], &v[0], &v[1], &v[2], &v[3], &v[4], &v[5], &v[6], t + 1, w);
        sha256_round(&v[6], &v[7], &v[0], &v[1], &v[2], &v[3], &v[4], &v[5], t + 2, w);
        sha256_round(&v[5], &v[6], &v[7], &v[0], &v[1], &v[2], &v[3], &v[4], t + 3, w);
        sha256_round(&v[4], &v[5], &v[6], &v[7], &v[0], &v[1], &v[2], &v[3], t + 4, w);
        sha256_round(&v[3], &v[4], &v[5], &v[6], &v[7], &v[0], &v[1], &v[2], t + 5, w);
        sha256_round(&v[2], &v[3], &v[4], &v[5], &v[6], &v[7], &v[0], &v[1], t + 6, w);
        sha256_round(&v[1], &v[2], &v[3], &v[4], &v[5], &v[6], &v[7], &v[0], t + 7, w);
    }
    for (int i = 0; i < 8; i++)
        state[i] += v[i];
}

void dd_sha256(const void *data, size_t length, uint8_t digest[32]) {
    uint32_t state[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                         0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    const uint8_t *bytes = data;
    size_t whole = length / 64 * 64, left = length - whole;
    for (size_t i = 0; i < whole; i += 64)
        sha256_block(state, bytes + i);
    /* The rest, a one bit, zeros, and the length in bits: one block, or two where it is tight. */
    uint8_t last[128] = {0};
    if (left)
        memcpy(last, bytes + whole, left);
    last[left] = 0x80;
    size_t end = left < 56 ? 64 : 128;
    for (int i = 0; i < 8; i++)
        last[end - 1 - (size_t)i] = (uint8_t)((uint64_t)length * 8 >> 8 * i);
    for (size_t i = 0; i < end; i += 64)
        sha256_block(state, last + i);
    for (int i = 0; i < 32; i++)
        digest[i] = (uint8_t)(state[i / 4] >> (24 - 8 * (i % 4)));
}

/* ---- CRC-32 -------------------------------------------------------------------------------- */

/* Four bits at a time: a table of 16 words needs no set-up and no state. */
uint32_t dd_crc32(const void *data, size_t length) {
    static const uint32_t table[16] = {
        0x00000000, 0x1db71064, 0x3b6e20c8, 0x26d930ac, 0x76dc4190, 0x6b6b51f4,
        0x4db26158, 0x5005713c, 0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c,
        0x9b64c2b0, 0x86d3d2d4, 0xa00ae278, 0xbdbdf21c,
    };
    const uint8_t *bytes = data;
    uint32_t crc = 0xffffffff;
    for (size_t i = 0; i < length; i++) {
        crc ^= bytes[i];
        crc = crc >> 4 ^ table[crc & 15];
        crc = crc >> 4 ^ table[crc & 15];
    }
    return ~crc;
}
