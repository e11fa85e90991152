/* What goes through the kernel: system calls, signals, threads, processes. */
#include "bench.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static uint64_t getppid_row(unsigned n) { for (unsigned i = 0; i < n; i++) syscall(SYS_getppid); return n; }
static uint64_t clock_row(unsigned n) {
    struct timespec t, last = { 0, 0 };
    uint64_t back = 0;
    for (unsigned i = 0; i < n; i++) {
        clock_gettime(CLOCK_MONOTONIC, &t);
        back += t.tv_sec < last.tv_sec || (t.tv_sec == last.tv_sec && t.tv_nsec < last.tv_nsec);
        last = t;
    }
    return back;
}
static uint64_t read_row(unsigned n) {
    char buffer[512];
    uint64_t sum = 0;
    int fd = open("/dev/zero", O_RDONLY), out = open("/dev/null", O_WRONLY);
    check(fd < 0 || out < 0, "open");
    while (n--) { sum += (uint64_t)read(fd, buffer, sizeof buffer); sum += (uint64_t)write(out, buffer, 100); }
    close(fd); close(out);
    return sum;
}
static uint64_t stat_row(unsigned n) {
    struct stat s;
    uint64_t sum = 0;
    while (n--) { check(stat("/", &s) != 0, "stat"); sum += S_ISDIR(s.st_mode); sum += (uint64_t)(access("/nonexistent", F_OK) != 0); }
    return sum;
}
static uint64_t open_row(unsigned n) {
    uint64_t sum = 0;
    while (n--) { int fd = open("/dev/null", O_RDONLY); check(fd < 0, "open"); sum += fd > 2; close(fd); }
    return sum;
}
static uint64_t map_row(unsigned n) {
    uint64_t sum = 0;
    while (n--) {
        char *p = mmap(0, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        check(p == MAP_FAILED, "mmap");
        p[0] = 1; p[40000] = 2;
        sum += (unsigned)(p[0] + p[40000] + p[9]);
        check(mprotect(p, 4096, PROT_READ) != 0, "mprotect");
        munmap(p, 65536);
    }
    return sum;
}
static uint64_t pipe_row(unsigned n) {
    int to[2], from[2];
    char c = 0;
    check(pipe(to) != 0 || pipe(from) != 0, "pipe");
    pid_t child = fork();
    check(child < 0, "fork");
    if (!child) {
        close(to[1]); close(from[0]);
        while (read(to[0], &c, 1) == 1) { c++; check(write(from[1], &c, 1) != 1, "write"); }
        _exit(0);
    }
    close(to[0]); close(from[1]);
    for (unsigned i = 0; i < n; i++) { check(write(to[1], &c, 1) != 1, "write"); check(read(from[0], &c, 1) != 1, "read"); }
    close(to[1]);
    waitpid(child, 0, 0);
    return (uint8_t)c;
}

static volatile sig_atomic_t caught;
static void on_signal(int s) { caught += s == SIGUSR1; }
static uint64_t signal_row(unsigned n) {
    struct sigaction a = { .sa_handler = on_signal };
    sigaction(SIGUSR1, &a, 0);
    while (n--) raise(SIGUSR1);
    return (uint64_t)caught;
}
static uint64_t mask_row(unsigned n) {
    sigset_t set, old;
    sigemptyset(&set); sigaddset(&set, SIGUSR2);
    while (n--) { sigprocmask(SIG_BLOCK, &set, &old); sigprocmask(SIG_SETMASK, &old, 0); }
    return 1;
}
static char *page;
static void on_fault(int s, siginfo_t *i, void *c) {
    (void)s; (void)c;
    if ((char *)i->si_addr != page + 8) _exit(3);
    caught++;
    mprotect(page, 4096, PROT_READ | PROT_WRITE);
}
static uint64_t fault_row(unsigned n) {
    struct sigaction a = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO };
    page = mmap(0, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    check(page == MAP_FAILED, "mmap");
    sigaction(SIGSEGV, &a, 0);
    while (n--) { *(volatile char *)(page + 8) = 1; mprotect(page, 4096, PROT_READ); }
    return (uint64_t)caught;
}

static void *nothing(void *p) { return p; }
static uint64_t create_row(unsigned n) {
    for (unsigned i = 0; i < n; i++) {
        pthread_t t;
        check((errno = pthread_create(&t, 0, nothing, 0)) != 0, "pthread_create");
        pthread_join(t, 0);
    }
    return n;
}
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static volatile uint64_t counter;
static uint64_t mutex_row(unsigned n) {
    while (n--) { pthread_mutex_lock(&lock); counter++; pthread_mutex_unlock(&lock); }
    return counter;
}
static void *locked_adds(void *p) { for (unsigned i = *(unsigned *)p; i--;) { pthread_mutex_lock(&lock); counter++; pthread_mutex_unlock(&lock); } return 0; }
static void *atomic_adds(void *p) { for (unsigned i = *(unsigned *)p; i--;) __atomic_fetch_add((uint32_t *)&counter, 1, __ATOMIC_SEQ_CST); return 0; }
static uint64_t on_threads(void *(*work)(void *), unsigned n) {
    pthread_t t[4];
    for (int i = 0; i < 4; i++) check((errno = pthread_create(&t[i], 0, work, &n)) != 0, "pthread_create");
    for (int i = 0; i < 4; i++) pthread_join(t[i], 0);
    return counter;
}
static uint64_t contended_row(unsigned n) { return on_threads(locked_adds, n); }
static uint64_t atomic_row(unsigned n) { return on_threads(atomic_adds, n); }
static __thread volatile unsigned local;
static void *tls_adds(void *p) { for (unsigned i = *(unsigned *)p; i--;) local += i; __atomic_fetch_add((uint32_t *)&counter, local, __ATOMIC_SEQ_CST); return 0; }
static uint64_t tls_row(unsigned n) { return on_threads(tls_adds, n); }
static pthread_cond_t turned = PTHREAD_COND_INITIALIZER;
static unsigned turn, turns;
static void *take_turns(void *p) {
    unsigned me = (unsigned)(uintptr_t)p;
    pthread_mutex_lock(&lock);
    while (turn < turns) {
        if ((turn & 1) == me) { turn++; pthread_cond_signal(&turned); } else pthread_cond_wait(&turned, &lock);
    }
    pthread_cond_broadcast(&turned);
    pthread_mutex_unlock(&lock);
    return 0;
}
static uint64_t turns_row(unsigned n) {
    pthread_t t[2];
    turns = n;
    for (unsigned i = 0; i < 2; i++) check((errno = pthread_create(&t[i], 0, take_turns, (void *)(uintptr_t)i)) != 0, "pthread_create");
    for (int i = 0; i < 2; i++) pthread_join(t[i], 0);
    return turn;
}

static uint64_t fork_row(unsigned n) {
    uint64_t sum = 0;
    while (n--) {
        int status;
        pid_t child = fork();
        check(child < 0, "fork");
        if (!child) _exit(7);
        waitpid(child, &status, 0);
        sum += (uint64_t)WEXITSTATUS(status);
    }
    return sum;
}
static uint64_t exec_row(unsigned n) {
    uint64_t sum = 0;
    while (n--) {
        int status;
        pid_t child = fork();
        check(child < 0, "fork");
        if (!child) {
            int null = open("/dev/null", O_WRONLY);
            dup2(null, 1);
            execl("/proc/self/exe", "kernel", "getppid", "1", (char *)0);
            _exit(9);
        }
        waitpid(child, &status, 0);
        sum += (uint64_t)WEXITSTATUS(status) + 1;
    }
    return sum;
}
static uint64_t nothing_row(unsigned n) { return n; }

static const struct row rows[] = {
    { "getppid", getppid_row }, { "clock", clock_row }, { "read_write", read_row }, { "stat", stat_row }, { "open", open_row },
    { "map", map_row }, { "pipe", pipe_row }, { "signal", signal_row }, { "mask", mask_row }, { "fault", fault_row },
    { "create", create_row }, { "mutex", mutex_row }, { "contended", contended_row }, { "atomic", atomic_row }, { "tls", tls_row },
    { "turns", turns_row }, { "fork", fork_row }, { "exec", exec_row }, { "nothing", nothing_row },
};
BENCH_MAIN(rows)
