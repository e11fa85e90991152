/* Loops that the compiler turns into vector code (NEON in the guest); built with -O3 -ffast-math. */
#include "bench.h"

enum { S = 4096 };

static uint64_t vfloat(unsigned n) {
    static float a[S], b[S], c[S];
    float s = 0;
    for (int i = 0; i < S; i++) { a[i] = (float)(i % 13); b[i] = (float)(i % 7) * .5f; c[i] = 1; }
    while (n--) {
        for (int i = 0; i < S; i++) c[i] = a[i] * b[i] + c[i] * .5f;
        OPAQUE(n);
    }
    for (int i = 0; i < S; i += 64) s += c[i];
    return bits(s);
}

/* Sums stay small integers, so the order in which a compiler adds them does not matter. */
static uint64_t vreduce(unsigned n) {
    static float a[S], b[S];
    double total = 0;
    for (int i = 0; i < S; i++) { a[i] = (float)(i % 3); b[i] = (float)(i % 5); }
    while (n--) {
        float dot = 0, top = 0;
        for (int i = 0; i < S; i++) dot += a[i] * b[i];
        for (int i = 0; i < S; i++) top = a[i] > top ? a[i] : top;
        total += dot + top;
        a[n % S] = (float)(n % 4);
    }
    return bits(total);
}

static uint64_t vint(unsigned n) {
    static int32_t a[S], b[S], c[S];
    uint64_t sum = 0;
    for (int i = 0; i < S; i++) { a[i] = i * 3; b[i] = i ^ 0x55; }
    while (n--) {
        for (int i = 0; i < S; i++) c[i] = (a[i] * b[i] >> 3) + (c[i] & a[i]) - (b[i] << 2);
        OPAQUE(n);
    }
    for (int i = 0; i < S; i++) sum = mix(sum, (uint32_t)c[i]);
    return sum;
}

static uint64_t vbyte(unsigned n) {
    static uint8_t a[S], b[S], c[S];
    uint64_t sum = 0;
    for (int i = 0; i < S; i++) { a[i] = (uint8_t)(i * 7); b[i] = (uint8_t)(i * 11); }
    while (n--) {
        for (int i = 0; i < S; i++) {
            uint8_t d = a[i] > b[i] ? a[i] - b[i] : b[i] - a[i];
            c[i] = (uint8_t)((a[i] + b[i] + 1) >> 1) ^ (d > 40 ? d : c[i]);
        }
        OPAQUE(n);
    }
    for (int i = 0; i < S; i++) sum = mix(sum, c[i]);
    return sum;
}

/* Widening and narrowing, as in image filters. */
static uint64_t vfilter(unsigned n) {
    static uint8_t a[S + 8], c[S];
    uint64_t sum = 0;
    for (int i = 0; i < S + 8; i++) a[i] = (uint8_t)(i * i);
    while (n--) {
        for (int i = 0; i < S; i++) {
            int v = (a[i] + 4 * a[i + 1] + 6 * a[i + 2] + 4 * a[i + 3] + a[i + 4] + 8) >> 4;
            c[i] = (uint8_t)(v > 255 ? 255 : v);
        }
        a[n % S] ^= c[n % 7];
    }
    for (int i = 0; i < S; i++) sum = mix(sum, c[i]);
    return sum;
}

/* Interleaved colours: structure loads and stores. */
static uint64_t vshuffle(unsigned n) {
    static uint8_t rgb[3 * S], out[4 * S];
    uint64_t sum = 0;
    for (int i = 0; i < 3 * S; i++) rgb[i] = (uint8_t)(i * 5);
    while (n--) {
        for (int i = 0; i < S; i++) {
            out[4 * i] = rgb[3 * i + 2]; out[4 * i + 1] = rgb[3 * i + 1]; out[4 * i + 2] = rgb[3 * i]; out[4 * i + 3] = 255;
        }
        rgb[n % S] ^= out[n % 9];
    }
    for (int i = 0; i < 4 * S; i += 3) sum = mix(sum, out[i]);
    return sum;
}

static const struct row rows[] = {
    { "vfloat", vfloat }, { "vreduce", vreduce }, { "vint", vint }, { "vbyte", vbyte }, { "vfilter", vfilter }, { "vshuffle", vshuffle },
};
BENCH_MAIN(rows)
