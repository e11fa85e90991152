/* What every benchmark file shares: rows by name, and a checksum that must be the same on every emulator.
 *
 *   program ROW N        does N units of that row's work and prints its checksum
 *
 * No time is measured here: the caller takes the CPU time of the whole process tree.
 */
#ifndef BENCH_H
#define BENCH_H
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct row {
    const char *name;
    uint64_t (*run)(unsigned n);
};

/* Keeps a value alive and unknown to the optimizer. */
#define OPAQUE(x) __asm__ volatile("" : "+r"(x))
#define NOINLINE __attribute__((noinline))

static inline uint32_t next_random(uint32_t *state) {
    uint32_t x = *state;
    x ^= x << 13;
    x ^= x >> 17;
    x ^= x << 5;
    return *state = x;
}

static inline uint64_t mix(uint64_t sum, uint64_t value) {
    return (sum ^ value) * 0x100000001b3ull;
}

static inline uint64_t bits(double x) {
    uint64_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

static inline void *must(void *p) {
    if (!p) {
        perror("bench");
        exit(2);
    }
    return p;
}

static inline void check(int failed, const char *what) {
    if (failed) {
        perror(what);
        exit(2);
    }
}

#define BENCH_MAIN(rows)                                                         \
    int main(int argc, char **argv) {                                            \
        for (size_t i = 0; argc == 3 && i < sizeof rows / sizeof *rows; i++)     \
            if (!strcmp(argv[1], rows[i].name)) {                                \
                printf("%s %016llx\n", argv[1],                                  \
                       (unsigned long long)rows[i].run((unsigned)atol(argv[2]))); \
                return 0;                                                        \
            }                                                                    \
        fprintf(stderr, "%s ROW N, with ROW one of:", argv[0]);                  \
        for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)                  \
            fprintf(stderr, " %s", rows[i].name);                                \
        fprintf(stderr, "\n");                                                   \
        return 1;                                                                \
    }

#endif
