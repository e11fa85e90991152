/* Memory: streams, copies, string scans, the allocator, dependent loads. */
#include "bench.h"

static uint64_t stream(unsigned n) {
    enum { S = 1 << 18 };
    double *a = must(malloc(S * 8)), *b = must(malloc(S * 8)), *c = must(malloc(S * 8));
    for (int i = 0; i < S; i++) { a[i] = 1; b[i] = 2; c[i] = 0; }
    while (n--) {
        for (int i = 0; i < S; i++) c[i] = a[i];
        for (int i = 0; i < S; i++) b[i] = 3 * c[i];
        for (int i = 0; i < S; i++) c[i] = a[i] + b[i];
        for (int i = 0; i < S; i++) a[i] = b[i] + 0.25 * c[i] - 3;
    }
    uint64_t r = bits(a[17]);
    free(a); free(b); free(c);
    return r;
}

static uint64_t copies(unsigned n) {
    static char a[65536], b[65536 + 64];
    for (unsigned i = 0; i < sizeof a; i++) a[i] = (char)i;
    for (unsigned i = 0; i < n; i++) {
        memcpy(b + (i & 31), a + (i & 7), 60000);
        memmove(b + 8, b, 5000);
        memset(a + (i % 1000), (int)i, 3000);
        a[i % sizeof a] = b[i % sizeof b];
    }
    return mix(mix(0, (uint8_t)b[777]), (uint8_t)a[4000]);
}

static uint64_t small_copies(unsigned n) {
    char a[128] = "some words that are copied again and again", b[128];
    uint64_t sum = 0;
    for (unsigned i = 0; i < n; i++) {
        unsigned len = 1 + i % 40;
        OPAQUE(len);
        memcpy(b, a + i % 8, len);
        sum += (uint8_t)b[len - 1];
        a[i % 41] = (char)(sum | 1);
    }
    return sum;
}

static uint64_t strings(unsigned n) {
    static char text[4096];
    uint64_t sum = 0;
    memset(text, 'a', sizeof text - 1);
    while (n--) {
        char *t = text + n % 16;
        OPAQUE(t);
        sum += strlen(t) + (strchr(t, 'b') == 0) + (size_t)(strcmp(t, text) != 0) + (memchr(t, 0, 4000) != 0);
        text[4000 - n % 64] ^= 1;
    }
    return sum;
}

static uint64_t allocate(unsigned n) {
    void *slots[256] = { 0 };
    uint32_t seed = 99;
    uint64_t sum = 0;
    while (n--) {
        uint32_t r = next_random(&seed), k = r & 255;
        free(slots[k]);
        uint32_t size = 8 + (r >> 8) % (r & 4096 ? 2000 : 64);
        slots[k] = must(malloc(size));
        memset(slots[k], (int)r, 8);
        sum += size;
    }
    for (int k = 0; k < 256; k++) free(slots[k]);
    return sum;
}

static uint64_t chase(unsigned n) {
    enum { S = 1 << 16 };
    uint32_t *next = must(malloc(S * 4)), seed = 13, at = 0;
    for (uint32_t i = 0; i < S; i++) next[i] = i;
    for (uint32_t i = S - 1; i > 0; i--) { uint32_t k = next_random(&seed) % i, t = next[i]; next[i] = next[k]; next[k] = t; }
    uint64_t sum = 0;
    while (n--) { at = next[at]; sum += at; }
    free(next);
    return sum;
}

static const struct row rows[] = {
    { "stream", stream }, { "copies", copies }, { "small_copies", small_copies }, { "strings", strings }, { "allocate", allocate }, { "chase", chase },
};
BENCH_MAIN(rows)
