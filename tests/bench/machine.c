/* What is the guest kernel's work in a machine; for a program under user-mode emulation it would be the host's. */
#include "bench.h"
#include <sched.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

/* Every page of 16 MiB for the first time. */
static uint64_t touch_row(unsigned n) {
    uint64_t sum = 0;
    while (n--) {
        char *p = mmap(0, 16 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        check(p == MAP_FAILED, "mmap");
        madvise(p, 16 << 20, MADV_NOHUGEPAGE);
        for (size_t at = 0; at < 16 << 20; at += 4096) { p[at] = (char)(at >> 12); sum += (unsigned char)p[at] + (unsigned char)p[at + 9]; }
        munmap(p, 16 << 20);
    }
    return sum;
}
static uint64_t yield_row(unsigned n) {
    pid_t child = fork();
    check(child < 0, "fork");
    for (unsigned i = 0; i < n; i++) sched_yield();
    if (!child) _exit(0);
    waitpid(child, 0, 0);
    return n;
}

static const struct row rows[] = {
    { "touch", touch_row }, { "yield", yield_row },
};
BENCH_MAIN(rows)
