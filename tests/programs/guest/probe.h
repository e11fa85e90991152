/* Small programs that ask one question each of the kernel interface or the processor.
 *
 *   program PROBE        prints "PROBE ok", or the line and condition that did not hold, and exits 1;
 *                        exits 77 where this kernel has no answer
 *
 * Every probe passes on a real kernel: the portable ones are also run natively by the test.
 */
#ifndef PROBE_H
#define PROBE_H
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct probe {
    const char *name;
    void (*run)(void);
};

#define CHECK(condition)                                                                              \
    do {                                                                                              \
        if (!(condition)) {                                                                           \
            printf("%s:%d: %s (errno %d, %s)\n", __FILE__, __LINE__, #condition, errno, strerror(errno)); \
            exit(1);                                                                                  \
        }                                                                                             \
    } while (0)

/* The kernel, or the container, lacks what is asked about: natively as well, then. */
#define ABSENT 77
static inline void absent(void) {
    printf("absent (%s)\n", strerror(errno));
    exit(ABSENT);
}

#define NOINLINE __attribute__((noinline))

static inline double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* How long a probe goes on that can go on for any time: PROBE_SECONDS, or its standard. */
static inline double seconds(double standard) {
    const char *text = getenv("PROBE_SECONDS");
    return text ? atof(text) : standard;
}

#define PROBE_MAIN(probes)                                                   \
    int main(int argc, char **argv) {                                        \
        setvbuf(stdout, 0, _IOLBF, 0);                                       \
        for (size_t i = 0; argc > 1 && i < sizeof probes / sizeof *probes; i++) \
            if (!strcmp(argv[1], probes[i].name)) {                          \
                probes[i].run();                                             \
                printf("%s ok\n", argv[1]);                                  \
                return 0;                                                    \
            }                                                                \
        for (size_t i = 0; i < sizeof probes / sizeof *probes; i++)          \
            puts(probes[i].name);                                            \
        return 2;                                                            \
    }

#endif
