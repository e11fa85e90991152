/* More live values than any register file has. */
#include "probe.h"

static uint64_t rotl(uint64_t x, int n) { return x << n | x >> (64 - n); }
#define ROUND (v0 += v1, v1 = rotl(v1, 13) ^ v0, v0 = rotl(v0, 32), v2 += v3, v3 = rotl(v3, 16) ^ v2, \
               v0 += v3, v3 = rotl(v3, 21) ^ v0, v2 += v1, v1 = rotl(v1, 17) ^ v2, v2 = rotl(v2, 32))

/* 64-bit additions whose carries live across spills. The vector is that of the algorithm's paper. */
static uint64_t siphash(const uint8_t *in, size_t n, const uint64_t key[2], int middle, int last) {
    uint64_t v0 = key[0] ^ 0x736f6d6570736575ull, v1 = key[1] ^ 0x646f72616e646f6dull;
    uint64_t v2 = key[0] ^ 0x6c7967656e657261ull, v3 = key[1] ^ 0x7465646279746573ull, m = (uint64_t)n << 56;
    for (; n >= 8; n -= 8, in += 8) {
        uint64_t w;
        memcpy(&w, in, 8);
        v3 ^= w;
        for (int i = 0; i < middle; i++) ROUND;
        v0 ^= w;
    }
    for (size_t i = 0; i < n; i++) m |= (uint64_t)in[i] << (8 * i);
    v3 ^= m;
    if (middle == 2) { ROUND; ROUND; } else { ROUND; }
    v0 ^= m;
    v2 ^= 255;
    if (last == 4) { ROUND; ROUND; ROUND; ROUND; } else { ROUND; ROUND; ROUND; }
    return v0 ^ v1 ^ v2 ^ v3;
}
static void carries_and_spills(void) {
    static const uint64_t key[2] = { 0x0706050403020100ull, 0x0f0e0d0c0b0a0908ull };
    uint8_t in[64];
    uint64_t sum = 0;
    for (int i = 0; i < 64; i++) in[i] = (uint8_t)i;
    CHECK(siphash(in, 15, key, 2, 4) == 0xa129ca6149be45e5ull);
    CHECK(siphash(in, 0, key, 2, 4) == 0x726fdb47dd0e0e31ull);
    for (size_t n = 0; n < 64; n++) sum = sum * 31 + siphash(in, n, key, 1, 3);
    CHECK(sum == 0x71020056298ad661ull);
}

/* Twenty-four values that all stay live, in integer and in floating-point registers. */
#define EACH(f) f(0) f(1) f(2) f(3) f(4) f(5) f(6) f(7) f(8) f(9) f(10) f(11)
static void many_values(void) {
    uint32_t s = 12345;
    for (int round = 0; round < 200; round++) {
#define DECLARE(k) uint32_t a##k = s * (2 * k + 3) + round; double d##k = (double)(a##k & 0xffff) + k;
        EACH(DECLARE)
#define STEP(k) a##k = (a##k << (k + 1) | a##k >> (31 - k)) + (a0 ^ a11) + (a##k > a5); d##k = d##k * 0.5 + d0 - d11 * 0.25;
        EACH(STEP)
        EACH(STEP)
        EACH(STEP)
#define TOTAL(k) s = s * 33 + a##k + (uint32_t)(int32_t)d##k;
        EACH(TOTAL)
    }
    CHECK(s == 0x968ae489u);
}

static const struct probe probes[] = { { "carries_and_spills", carries_and_spills }, { "many_values", many_values } };
PROBE_MAIN(probes)
