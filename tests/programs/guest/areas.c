/* What a kernel keeps about a program's memory: limits, areas that grow, questions about mappings. */
#include "probe.h"
#include <linux/types.h>
#include <setjmp.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/uio.h>

enum { RW = PROT_READ | PROT_WRITE, PRIVATE = MAP_PRIVATE | MAP_ANONYMOUS, MIB = 1 << 20, PAGE = 4096 };

static int has_room(size_t size, int prot, int flags) {
    char *p = mmap(0, size, prot, flags, -1, 0);
    return p != MAP_FAILED && munmap(p, size) == 0;
}

static void data_limit(void) {
    struct rlimit limit = { 64 * MIB, 64 * MIB };
    char *reading = mmap(0, 96 * MIB, PROT_READ, PRIVATE, -1, 0);
    CHECK(reading != MAP_FAILED && setrlimit(RLIMIT_DATA, &limit) == 0);
    CHECK(!has_room(96 * MIB, RW, PRIVATE) && errno == ENOMEM);
    CHECK(has_room(96 * MIB, PROT_READ, PRIVATE) && has_room(96 * MIB, RW, MAP_SHARED | MAP_ANONYMOUS) && has_room(32 * MIB, RW, PRIVATE));
    CHECK(mprotect(reading, 96 * MIB, RW) == -1 && errno == ENOMEM && mprotect(reading, 16 * MIB, RW) == 0);
    CHECK(!has_room(56 * MIB, RW, PRIVATE) && errno == ENOMEM);
    CHECK(sbrk(96 * MIB) == (void *)-1 && errno == ENOMEM && sbrk(MIB) != (void *)-1);
    char *small = mmap(0, MIB, RW, PRIVATE, -1, 0);
    CHECK(small != MAP_FAILED && mremap(small, MIB, 96 * MIB, MREMAP_MAYMOVE) == MAP_FAILED && errno == ENOMEM);
    CHECK(has_room(96 * MIB, RW, PRIVATE | MAP_GROWSDOWN));
    int status;
    pid_t child = fork();
    if (!child) _exit(has_room(96 * MIB, RW, PRIVATE));
    CHECK(waitpid(child, &status, 0) == child && status == 0);
}

static sigjmp_buf out;
static char *volatile fault_at;
static void on_fault(int sig, siginfo_t *info, void *context) {
    (void)sig; (void)context;
    fault_at = info->si_addr;
    siglongjmp(out, 1);
}
static int faults(volatile char *p) {
    fault_at = 0;
    if (sigsetjmp(out, 1)) return fault_at == p;
    *p = 1;
    return 0;
}
static void catch_faults(void) {
    static char room[65536];
    stack_t stack = { .ss_sp = room, .ss_size = sizeof room };
    struct sigaction a = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK };
    CHECK(sigaltstack(&stack, 0) == 0 && sigaction(SIGSEGV, &a, 0) == 0 && sigaction(SIGBUS, &a, 0) == 0);
}
/* An area of one page that grows into `room` bytes below it, where nothing is. */
static char *growing(size_t room) {
    char *all = mmap(0, room + PAGE, PROT_NONE, PRIVATE, -1, 0), *page = all + room;
    CHECK(all != MAP_FAILED && munmap(all, room + PAGE) == 0);
    CHECK(mmap(page, PAGE, RW, PRIVATE | MAP_GROWSDOWN | MAP_FIXED_NOREPLACE, -1, 0) == page);
    return page;
}
static long size_in_maps(char *end) {
    char line[256];
    unsigned long from, to;
    long size = -1;
    FILE *f = fopen("/proc/self/maps", "r");
    while (fgets(line, sizeof line, f)) if (sscanf(line, "%lx-%lx", &from, &to) == 2 && to == (uintptr_t)end) size = (long)(to - from);
    fclose(f);
    return size;
}
static void area_grows(void) {
    catch_faults();
    char *page = growing(4 * MIB);
    page[0] = 'x';
    page[-1] = 'y';
    CHECK(size_in_maps(page + PAGE) == 2 * PAGE);
    CHECK(page[-5 * PAGE] == 0 && page[-1] == 'y' && page[0] == 'x' && size_in_maps(page + PAGE) == 6 * PAGE);
    /* Also for the kernel, wherever the address is. */
    int p[2], status;
    CHECK(pipe(p) == 0 && write(p[1], page - 8 * PAGE, 3) == 3 && read(p[0], page - 9 * PAGE, 3) == 3);
    struct iovec v = { page - 11 * PAGE, 3 };
    CHECK(writev(p[1], &v, 1) == 3);
    v.iov_base = page - 13 * PAGE;
    CHECK(readv(p[0], &v, 1) == 3);
    CHECK(clock_gettime(CLOCK_MONOTONIC, (struct timespec *)(void *)(page - 15 * PAGE)) == 0);
    CHECK(access(page - 17 * PAGE, F_OK) == -1 && errno == ENOENT);
    __atomic_fetch_add((int *)(void *)(page - 19 * PAGE), 1, __ATOMIC_SEQ_CST);
    CHECK(size_in_maps(page + PAGE) == 20 * PAGE);
    /* What is mapped without a place keeps away from it. */
    char *other = mmap(page - 21 * PAGE, PAGE, RW, PRIVATE, -1, 0);
    CHECK(other != MAP_FAILED && (other > page || page - 19 * PAGE - (other + PAGE) >= MIB) && munmap(other, PAGE) == 0);
    pid_t child = fork();
    if (!child) { page[-30 * PAGE] = 1; _exit(size_in_maps(page + PAGE) == 31 * PAGE ? 9 : 1); }
    CHECK(waitpid(child, &status, 0) == child && WEXITSTATUS(status) == 9 && size_in_maps(page + PAGE) == 20 * PAGE);
    /* A hole is filled again, by the part above it. */
    CHECK(munmap(page - 10 * PAGE, 5 * PAGE) == 0 && page[-7 * PAGE] == 0);
    CHECK(mprotect(page, PAGE, PROT_READ | PROT_GROWSDOWN) == 0 && faults(page) && faults(page - PAGE));
    CHECK(mprotect(page, PAGE, PROT_READ | PROT_GROWSDOWN | PROT_GROWSUP) == -1 && errno == EINVAL);
    CHECK(mprotect(page, PAGE, PROT_READ | PROT_GROWSUP) == -1 && errno == EINVAL);
    CHECK(mmap(0, PAGE, RW, MAP_SHARED | MAP_ANONYMOUS | MAP_GROWSDOWN, -1, 0) == MAP_FAILED && errno == EINVAL);
    char *fixed = mmap(0, 2 * PAGE, RW, PRIVATE, -1, 0);
    CHECK(mprotect(fixed + PAGE, PAGE, PROT_READ | PROT_GROWSDOWN) == -1 && errno == EINVAL);
}

static void area_stops(void) {
    catch_faults();
    char *page = growing(4 * MIB);
    /* The guard gap: a megabyte above what can be accessed. */
    CHECK(mmap(page - 2 * MIB, PAGE, PROT_READ, PRIVATE | MAP_FIXED_NOREPLACE, -1, 0) == page - 2 * MIB);
    CHECK(faults(page - 2 * MIB + PAGE) && faults(page - MIB) && !faults(page - MIB + PAGE) && faults(page - MIB));
    int p[2];
    CHECK(pipe(p) == 0 && write(p[1], page - MIB, 1) == -1 && errno == EFAULT);
    CHECK(mprotect(page - 2 * MIB, PAGE, PROT_NONE) == 0 && !faults(page - 2 * MIB + PAGE));
    /* The stack's limit. */
    struct rlimit limit = { 256 << 10, 256 << 10 };
    CHECK(setrlimit(RLIMIT_STACK, &limit) == 0);
    page = growing(4 * MIB);
    CHECK(faults(page - (256 << 10)) && !faults(page + PAGE - (256 << 10)) && faults(page - 64 * PAGE));
}

static NOINLINE int deep(int levels) {
    volatile char frame[1024];
    frame[0] = (char)levels;
    return levels == 0 ? frame[0] : deep(levels - 1) + (frame[0] == (char)levels);
}
/* The stack, once a program raises its limit, as compilers do. */
static void stack_limit_raised(void) {
    struct rlimit limit;
    CHECK(getrlimit(RLIMIT_STACK, &limit) == 0);
    if (limit.rlim_max < 64 * MIB || limit.rlim_cur > 32 * MIB) absent();
    limit.rlim_cur = 64 * MIB;
    CHECK(setrlimit(RLIMIT_STACK, &limit) == 0 && deep(40 << 10) == 40 << 10);
}

struct map_query {
    uint64_t size, flags, addr, start, end, vma_flags, page_size, offset, inode;
    uint32_t major, minor, name_size, build_id_size;
    uint64_t name, build_id;
};
#define ASK _IOWR('f', 17, struct map_query)
static char variable = 1;
static void mappings_asked_for(void) {
    char name[256] = "", path[256] = "", build_id[20];
    char *two = mmap(0, 4 * PAGE, RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(two != MAP_FAILED && munmap(two + PAGE, PAGE) == 0 && mprotect(two + 2 * PAGE, 2 * PAGE, PROT_READ) == 0);
    int fd = open("/proc/self/maps", O_RDONLY);
    struct map_query q = { .size = sizeof q, .addr = (uintptr_t)two + 5 };
    if (ioctl(fd, ASK, &q) < 0 && errno == ENOTTY) absent();
    CHECK(q.start == (uintptr_t)two && q.end == q.start + PAGE && q.vma_flags == (1 | 2 | 8) && q.page_size == PAGE);
    q.addr = (uintptr_t)two + PAGE;
    CHECK(ioctl(fd, ASK, &q) == -1 && errno == ENOENT);
    q.flags = 16; /* or the next */
    CHECK(ioctl(fd, ASK, &q) == 0 && q.start == (uintptr_t)two + 2 * PAGE && q.vma_flags == (1 | 8));
    q = (struct map_query){ .size = sizeof q, .addr = (uintptr_t)deep, .flags = 4 | 32, .name = (uintptr_t)name, .name_size = sizeof name,
                            .build_id = (uintptr_t)build_id, .build_id_size = sizeof build_id };
    CHECK(ioctl(fd, ASK, &q) == 0 && q.start <= (uintptr_t)deep && q.end > (uintptr_t)deep && q.vma_flags == (1 | 4) && q.inode != 0);
    ssize_t n = readlink("/proc/self/exe", path, sizeof path - 1);
    CHECK(n > 0 && !strcmp(name, path) && q.name_size == (uint32_t)n + 1 && q.build_id_size == 20);
    q.name_size = 2;
    CHECK(ioctl(fd, ASK, &q) == -1 && errno == ENAMETOOLONG);
    q = (struct map_query){ .size = sizeof q, .addr = (uintptr_t)&variable, .flags = 4 };
    CHECK(ioctl(fd, ASK, &q) == -1 && errno == ENOENT);
    char *heap = sbrk(PAGE);
    *heap = 1;
    q = (struct map_query){ .size = sizeof q, .addr = (uintptr_t)heap, .name = (uintptr_t)name, .name_size = sizeof name };
    CHECK(ioctl(fd, ASK, &q) == 0 && !strcmp(name, "[heap]") && q.name_size == 7 && q.inode == 0 && q.vma_flags == (1 | 2));
    q.size = 23;
    CHECK(ioctl(fd, ASK, &q) == -1 && errno == EINVAL);
    q = (struct map_query){ .size = sizeof q, .addr = (uintptr_t)heap, .flags = 64 };
    CHECK(ioctl(fd, ASK, &q) == -1 && errno == EINVAL);
    q = (struct map_query){ .size = sizeof q, .addr = (uintptr_t)heap, .name_size = 4 };
    CHECK(ioctl(fd, ASK, &q) == -1 && errno == EINVAL);
}

static const struct probe probes[] = {
    { "data_limit", data_limit }, { "area_grows", area_grows }, { "area_stops", area_stops },
    { "stack_limit_raised", stack_limit_raised }, { "mappings_asked_for", mappings_asked_for },
};
PROBE_MAIN(probes)
