/* What a program can do to itself, and must not do to what runs it: found by hostile.c, asked one by one. */
#include "probe.h"
#include <setjmp.h>
#include <sys/prctl.h>
#include <sys/stat.h>

enum { PAGE = 4096 };

static sigjmp_buf back;
static volatile int seen, code_seen;

static void on_signal(int signal, siginfo_t *info, void *context) {
    (void)context;
    seen = signal, code_seen = info->si_code;
}

static void on_fault(int signal, siginfo_t *info, void *context) {
    (void)signal, (void)context;
    code_seen = info->si_code;
    siglongjmp(back, 1);
}

static void handle(int signal, void (*f)(int, siginfo_t *, void *)) {
    struct sigaction act = { .sa_sigaction = f, .sa_flags = SA_SIGINFO };
    CHECK(sigaction(signal, &act, 0) == 0);
}

static int faults_at(volatile char *at) {
    handle(SIGSEGV, on_fault);
    if (sigsetjmp(back, 1)) return 1;
    (void)*at;
    return 0;
}

static int queue(int signal, int code, uintptr_t address) {
    siginfo_t info;
    memset(&info, 0, sizeof info);
    info.si_signo = signal, info.si_code = code, info.si_addr = (void *)address;
    return (int)syscall(SYS_rt_sigqueueinfo, getpid(), signal, &info);
}

/* A signal that looks like a fault is a signal all the same, and faults are still told apart afterwards. */
static void faults_that_are_sent(void) {
    static const int codes[] = { SEGV_MAPERR, SEGV_ACCERR, 0x80, -1000 };
    static const int signals[] = { SIGSEGV, SIGBUS };
    char *nothing = mmap(0, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (unsigned s = 0; s < 2; s++)
        for (unsigned i = 0; i < 4; i++) {
            handle(signals[s], on_signal);
            seen = code_seen = 0;
            CHECK(queue(signals[s], codes[i], (uintptr_t)nothing) == 0);
            CHECK(seen == signals[s] && code_seen == codes[i]);
            CHECK(faults_at(nothing) && code_seen == SEGV_ACCERR);
        }
}

/* A child may announce its end by any signal. */
static void a_fault_as_exit_signal(void) {
    char *nothing = mmap(0, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (int i = 0; i < 20; i++) {
        handle(SIGSEGV, on_signal);
        seen = 0;
        pid_t child = (pid_t)syscall(SYS_clone, SIGSEGV, 0, 0, 0, 0);
        if (!child) _exit(3);
        CHECK(child > 0);
        int status;
        while (waitpid(child, &status, __WALL) != child) CHECK(errno == EINTR);
        CHECK(WEXITSTATUS(status) == 3 && seen == SIGSEGV && code_seen == CLD_EXITED);
        CHECK(faults_at(nothing));
    }
}

static void count(int signal, siginfo_t *info, void *context) {
    (void)signal, (void)info, (void)context;
    seen++;
}

/* The same while the parent is in the middle of its work. */
static void exit_signals_at_any_time(void) {
    static volatile uint32_t numbers[64];
    handle(SIGSEGV, count);
    for (int i = 0; i < 100; i++) {
        int before = seen;
        pid_t child = (pid_t)syscall(SYS_clone, SIGSEGV, 0, 0, 0, 0);
        if (!child) usleep(200 + 37 * (unsigned)i % 500), _exit(0);
        CHECK(child > 0);
        for (double until = now() + 20; seen == before && now() < until;)
            for (int k = 0; k < 10000; k++) numbers[k % 64] += numbers[(k + 7) % 64] * 5 + 1;
        CHECK(seen != before);
        while (waitpid(child, 0, __WALL) != child) CHECK(errno == EINTR);
    }
}

/* A signal that is blocked and does not queue waits once. */
static void blocked_faults_wait_once(void) {
    sigset_t set;
    sigemptyset(&set), sigaddset(&set, SIGSEGV);
    CHECK(sigprocmask(SIG_BLOCK, &set, 0) == 0);
    handle(SIGSEGV, on_signal);
    for (int i = 0; i < 1000; i++) CHECK(kill(getpid(), SIGSEGV) == 0);
    CHECK(seen == 0 && sigpending(&set) == 0 && sigismember(&set, SIGSEGV));
    struct timespec none = { 0, 0 };
    sigemptyset(&set), sigaddset(&set, SIGUSR1);
    CHECK(sigtimedwait(&set, 0, &none) == -1 && errno == EAGAIN);
    sigemptyset(&set), sigaddset(&set, SIGSEGV);
    CHECK(sigprocmask(SIG_UNBLOCK, &set, 0) == 0 && seen == SIGSEGV);
    CHECK(sigpending(&set) == 0 && !sigismember(&set, SIGSEGV));
}

/* The child has nothing there, and may put something there. */
static void left_behind_by_fork(void) {
    char *at = mmap(0, 8 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(at != MAP_FAILED);
    memset(at, 7, 8 * PAGE);
    CHECK(madvise(at + 2 * PAGE, PAGE, MADV_DONTFORK) == 0 && madvise(at + 4 * PAGE, 3 * PAGE, MADV_DONTFORK) == 0);
    CHECK(madvise(at + 5 * PAGE, PAGE, MADV_DOFORK) == 0);
    pid_t child = fork();
    if (!child) {
        static const char there[8] = { 1, 1, 0, 1, 0, 1, 0, 1 };
        for (int i = 0; i < 8; i++) CHECK(faults_at(at + i * PAGE) == !there[i]);
        char *again = mmap(at + 2 * PAGE, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
        CHECK(again == at + 2 * PAGE && *again == 0);
        /* Whatever is mapped now does not come to lie in the holes that are left. */
        for (int i = 0; i < 200; i++) CHECK(malloc(200 << 10));
        CHECK(fork() || (_exit(0), 0));
        CHECK(faults_at(at + 4 * PAGE) || mmap(0, 64 * PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED);
        _exit(5);
    }
    int status;
    CHECK(child > 0 && waitpid(child, &status, 0) == child && WEXITSTATUS(status) == 5);
    CHECK(at[2 * PAGE] == 7 && at[6 * PAGE] == 7);
}

/* A range of nearly all addresses is not the empty one. */
static void ranges_of_everything(void) {
    size_t all = 0xfffff001u;
    unsigned char *vector = malloc(1 << 20);
    CHECK(madvise(0, all, MADV_NORMAL) == -1 && errno == ENOMEM);
    CHECK(msync(0, all, MS_ASYNC) == -1 && errno == ENOMEM);
    CHECK(mincore(0, all, vector) == -1 && errno == ENOMEM);
    CHECK(mlock(0, all) == -1 && (errno == ENOMEM || errno == EPERM || errno == EAGAIN));
    struct { void *base; size_t len; } range = { (void *)0x10000, 0x7fff0000 };
    int self = (int)syscall(434, getpid(), 0);
    CHECK(self < 0 || (syscall(440, self, &range, 1, 25, 1) == -1 && errno != 0));
}

/* Where no more can be mapped, everything that needs no more still works. */
static void as_many_mappings_as_possible(void) {
    char *first = 0;
    for (int i = 0; i < 80000; i++) {
        char *at = mmap(0, PAGE, i % 2 ? PROT_READ : PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (at == MAP_FAILED) break;
        if (!first) first = at;
    }
    static char part[65536];
    int fd = open("/proc/self/maps", O_RDONLY), status;
    CHECK(first);
    long lines = 0;
    for (ssize_t n; (n = read(fd, part, sizeof part)) > 0;)
        for (ssize_t k = 0; k < n; k++) lines += part[k] == '\n';
    CHECK(lines > 20000);
    pid_t child = fork();
    if (!child) _exit(9);
    CHECK(child > 0 && waitpid(child, &status, 0) == child && WEXITSTATUS(status) == 9);
    CHECK(munmap(first, PAGE) == 0 && faults_at(first));
}

#ifdef __arm__

/* Without huge pages nothing is larger than it seems. */
static void no_huge_pages(void) {
    const int how = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_HUGETLB;
    char *at = mmap(0, 1024 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(at != MAP_FAILED);
    for (int i = 0; i < 512; i++) CHECK(mmap(at + i * PAGE, PAGE, PROT_READ, how | MAP_FIXED, -1, 0) == MAP_FAILED && errno == EINVAL);
    int fd = memfd_create("huge", MFD_HUGETLB);
    for (int i = 0; fd >= 0 && i < 512; i++) CHECK(mmap(at + i * PAGE, PAGE, PROT_READ, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED);
    at[0] = at[1023 * PAGE] = 1;
}

/* Positions of the file are addresses, of what is mapped only; code that is written there is what runs. */
static void own_memory_file(void) {
    int fd = open("/proc/self/mem", O_RDWR);
    if (fd < 0) absent();
    uint32_t *code = mmap(0, 2 * PAGE, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), word = 0xe3a00002, got = 0;
    munmap(code + PAGE / 4, PAGE);
    code[0] = 0xe3a00001, code[1] = 0xe12fff1e; /* mov r0, #1; bx lr */
    __builtin___clear_cache((char *)code, (char *)(code + 2));
    int (*f)(void) = (int (*)(void))(uintptr_t)code;
    CHECK(f() == 1 && pwrite64(fd, &word, 4, (uintptr_t)code) == 4 && f() == 2);
    word = 0xe3a00003;
    CHECK(lseek64(fd, (uintptr_t)code, SEEK_SET) == (off64_t)(uintptr_t)code && write(fd, &word, 4) == 4 && f() == 3);
    CHECK(read(fd, &got, 4) == 4 && got == code[1] && lseek64(fd, 0, SEEK_CUR) == (off64_t)(uintptr_t)code + 8);
    static char large[3 * PAGE];
    CHECK(pread64(fd, large, sizeof large, (uintptr_t)code) == PAGE && pread64(fd, large, 4, (uintptr_t)code + PAGE) == -1 && errno == EIO);
    CHECK(pwrite64(fd, large, 4, (uintptr_t)code + PAGE) == -1 && pwrite64(fd, large, 4, 0x100000000ll) == -1 && pread64(fd, large, 4, 0x7fff00000000ll) == -1);
    CHECK(pwrite64(fd, large, sizeof large, 0xffffe000) == -1);
}

#endif

static const struct probe probes[] = {
    { "faults_that_are_sent", faults_that_are_sent }, { "exit_signals_at_any_time", exit_signals_at_any_time },
    { "a_fault_as_exit_signal", a_fault_as_exit_signal }, { "blocked_faults_wait_once", blocked_faults_wait_once },
    { "left_behind_by_fork", left_behind_by_fork }, { "ranges_of_everything", ranges_of_everything },
    { "as_many_mappings_as_possible", as_many_mappings_as_possible },
#ifdef __arm__
    { "no_huge_pages", no_huge_pages }, { "own_memory_file", own_memory_file },
#endif
};

PROBE_MAIN(probes)
