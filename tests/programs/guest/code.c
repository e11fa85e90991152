/* Code that changes while the program runs. ARM only. */
#include "probe.h"

/* mov r0, #value; bx lr */
static void emit(uint32_t *at, unsigned value) {
    at[0] = 0xe3000000 | (value & 0xf000) << 4 | (value & 0xfff);
    at[1] = 0xe12fff1e;
}
typedef unsigned (*function)(void);
static void flush(void *p, size_t n) { __builtin___clear_cache((char *)p, (char *)p + n); }
static void *pages(int protection) {
    void *p = mmap(0, 8192, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(p != MAP_FAILED);
    return p;
}
enum { RWX = PROT_READ | PROT_WRITE | PROT_EXEC };

static void rewritten(void) {
    uint32_t *code = pages(RWX);
    for (unsigned i = 0; i < 3000; i++) {
        emit(code + i % 8 * 2, i);
        flush(code, 128);
        CHECK(((function)(code + i % 8 * 2))() == i);
    }
}
static int memory_file(void) {
    int fd = (int)syscall(SYS_memfd_create, "code", 0);
    CHECK(fd >= 0 && ftruncate(fd, 4096) == 0);
    return fd;
}
static void second_mapping(void) {
    int fd = memory_file();
    uint32_t *w = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    uint32_t *x = mmap(0, 4096, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
    CHECK(w != MAP_FAILED && x != MAP_FAILED);
    for (unsigned i = 1; i < 200; i++) {
        emit(w, i);
        flush(w, 8);
        flush(x, 8);
        CHECK(((function)x)() == i);
    }
}
static void written_by_a_call(void) {
    int fd = memory_file();
    uint32_t *x = mmap(0, 4096, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0), buffer[2];
    CHECK(x != MAP_FAILED);
    for (unsigned i = 1; i < 200; i++) {
        emit(buffer, i);
        CHECK(pwrite(fd, buffer, sizeof buffer, 0) == sizeof buffer);
        flush(x, 8);
        CHECK(((function)x)() == i);
    }
}
static void read_into_code(void) {
    int fd = memory_file();
    uint32_t *code = pages(RWX), buffer[2];
    for (unsigned i = 1; i < 200; i++) {
        emit(buffer, i);
        CHECK(pwrite(fd, buffer, 8, 0) == 8 && pread(fd, code, 8, 0) == 8);
        flush(code, 8);
        CHECK(((function)code)() == i);
    }
}
static void protection_toggled(void) {
    uint32_t *code = pages(PROT_READ | PROT_WRITE);
    for (unsigned i = 1; i < 300; i++) {
        emit(code, i);
        CHECK(mprotect(code, 4096, PROT_READ | PROT_EXEC) == 0);
        flush(code, 8);
        CHECK(((function)code)() == i);
        CHECK(mprotect(code, 4096, PROT_READ | PROT_WRITE) == 0);
    }
}
static void remapped(void) {
    uint32_t *code = pages(RWX);
    for (unsigned i = 1; i < 300; i++) {
        uint32_t *again = mmap(code, 8192, RWX, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
        CHECK(again == code && code[0] == 0);
        emit(code, i);
        flush(code, 8);
        CHECK(((function)code)() == i);
    }
}
static uint32_t *shared;
static volatile unsigned wanted, stop;
static void *call_on(void *p) {
    (void)p;
    while (!stop) {
        unsigned want = wanted;
        double begun = now();
        while (((function)shared)() < want) CHECK(now() - begun < 60);
        __sync_synchronize();
    }
    return 0;
}
static void patched_by_another_thread(void) {
    pthread_t t[2];
    shared = pages(RWX);
    emit(shared, 0);
    flush(shared, 8);
    for (int i = 0; i < 2; i++) CHECK(!pthread_create(&t[i], 0, call_on, 0));
    double until = now() + seconds(0);
    for (unsigned i = 1; i < 400 || (now() < until && i < 60000); i++) {
        __atomic_store_n(shared, 0xe3000000 | (i & 0xf000) << 4 | (i & 0xfff), __ATOMIC_SEQ_CST);
        flush(shared, 8);
        wanted = i;
        usleep(500);
    }
    stop = 1;
    for (int i = 0; i < 2; i++) CHECK(!pthread_join(t[i], 0));
}
/* Code whose loop body changes its own page's data, and data next to code. */
static void data_beside_code(void) {
    uint32_t *code = pages(RWX);
    volatile uint32_t *data = code + 64;
    emit(code, 7);
    flush(code, 8);
    unsigned sum = 0;
    for (unsigned i = 0; i < 20000; i++) { *data = i; sum += ((function)code)() + *data - i; }
    CHECK(sum == 7 * 20000);
}

static const struct probe probes[] = {
    { "rewritten", rewritten }, { "second_mapping", second_mapping }, { "written_by_a_call", written_by_a_call },
    { "read_into_code", read_into_code }, { "protection_toggled", protection_toggled }, { "remapped", remapped },
    { "patched_by_another_thread", patched_by_another_thread }, { "data_beside_code", data_beside_code },
};
PROBE_MAIN(probes)
