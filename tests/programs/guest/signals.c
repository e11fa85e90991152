/* Signals: what a handler is told, what it leaves alone, how they queue and restart. */
#include "probe.h"
#include <fenv.h>
#include <setjmp.h>
#include <sys/signalfd.h>
#include <sys/time.h>
#include <ucontext.h>

static volatile sig_atomic_t hits;
static volatile double spoil;
static void install(int number, void (*handler)(int, siginfo_t *, void *), int flags) {
    struct sigaction a = { .sa_sigaction = handler, .sa_flags = SA_SIGINFO | flags };
    CHECK(sigaction(number, &a, 0) == 0);
}
/* Uses integer, flag, floating-point and vector state. */
static void disturb(int s, siginfo_t *i, void *c) {
    (void)s; (void)i; (void)c;
    float v[8];
    for (int k = 0; k < 8; k++) v[k] = (float)k * 3.25f + (float)hits;
    spoil = v[hits & 7] / 7.0;
    hits++;
}
static uint64_t compute(uint32_t n) {
    uint64_t sum = 1;
    double x = 0.5;
    float v[16] = { 0 };
    for (uint32_t i = 0; i < n; i++) {
        sum = sum * 6364136223846793005ull + (sum >> 33 > i ? i : ~i);
        x = x * 1.0000001 + 1.0 / (i + 2);
        v[i & 15] = v[(i + 1) & 15] * 0.5f + (float)i;
        if ((int32_t)sum < 0) sum ^= sum << 7;
    }
    uint64_t b;
    memcpy(&b, &x, 8);
    for (int k = 0; k < 16; k++) sum += (uint64_t)v[k];
    return sum ^ b;
}
static void state_survives(void) {
    uint64_t expected = compute(20000);
    struct itimerval fast = { { 0, 150 }, { 0, 150 } }, off = { { 0, 0 }, { 0, 0 } };
    install(SIGALRM, disturb, SA_RESTART);
    CHECK(setitimer(ITIMER_REAL, &fast, 0) == 0);
    for (double until = now() + 2; now() < until;) CHECK(compute(20000) == expected);
    CHECK(setitimer(ITIMER_REAL, &off, 0) == 0 && hits > 100);
}

static sigjmp_buf back;
static volatile int code_seen, signal_seen;
static void *volatile address_seen;
static void record(int s, siginfo_t *i, void *c) {
    (void)c;
    signal_seen = s; code_seen = i->si_code; address_seen = i->si_addr;
    siglongjmp(back, 1);
}
static void faults(void) {
    char *p = mmap(0, 8192, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    install(SIGSEGV, record, 0);
    install(SIGBUS, record, 0);
    CHECK(p != MAP_FAILED && munmap(p + 4096, 4096) == 0);
    if (!sigsetjmp(back, 1)) { p[5] = 1; CHECK(!"written"); }
    CHECK(signal_seen == SIGSEGV && code_seen == SEGV_ACCERR && address_seen == p + 5);
    if (!sigsetjmp(back, 1)) { CHECK(((volatile char *)p)[4096 + 9] == 0); CHECK(!"read"); }
    CHECK(signal_seen == SIGSEGV && code_seen == SEGV_MAPERR && address_seen == p + 4096 + 9);
    if (!sigsetjmp(back, 1)) { ((void (*)(void))p)(); CHECK(!"executed"); }
    CHECK(signal_seen == SIGSEGV && code_seen == SEGV_ACCERR && address_seen == p);
    int fd = (int)syscall(SYS_memfd_create, "short", 0);
    char *m = mmap(0, 8192, PROT_READ, MAP_SHARED, fd, 0);
    CHECK(fd >= 0 && m != MAP_FAILED);
    if (!sigsetjmp(back, 1)) { CHECK(((volatile char *)m)[100] == 0); CHECK(!"read"); }
    CHECK(signal_seen == SIGBUS && address_seen == m + 100);
    if (!sigsetjmp(back, 1)) { *(volatile int *)12 = 1; }
    CHECK(signal_seen == SIGSEGV && code_seen == SEGV_MAPERR && address_seen == (void *)12);
}
static void illegal(void) {
    install(SIGILL, record, 0);
    install(SIGTRAP, record, 0);
    if (!sigsetjmp(back, 1)) __builtin_trap();
    CHECK(signal_seen == SIGILL && address_seen != 0);
#ifdef __arm__
    if (!sigsetjmp(back, 1)) __asm__ volatile("bkpt #0");
    CHECK(signal_seen == SIGTRAP);
#endif
}
static volatile int no_end = -1;
static NOINLINE int endless(int n) { volatile char room[512]; room[n & 511] = (char)n; return n == no_end ? 0 : endless(n + 1) + room[n & 255]; }
static void alternate_stack(void) {
    static char stack[65536];
    stack_t s = { .ss_sp = stack, .ss_size = sizeof stack }, old;
    CHECK(sigaltstack(&s, 0) == 0);
    install(SIGSEGV, record, SA_ONSTACK);
    for (int i = 0; i < 3; i++) {
        signal_seen = 0;
        if (!sigsetjmp(back, 1)) endless(0);
        CHECK(signal_seen == SIGSEGV);
    }
    CHECK(sigaltstack(0, &old) == 0 && old.ss_sp == (void *)stack && !(old.ss_flags & SS_ONSTACK));
}
static int order[128], ordered;
static void take(int s, siginfo_t *i, void *c) { (void)c; order[ordered++ & 127] = s * 1000 + i->si_value.sival_int; }
static void real_time_queue(void) {
    sigset_t all, old;
    sigfillset(&all);
    for (int s = SIGRTMIN; s <= SIGRTMAX; s++) install(s, take, 0);
    CHECK(sigprocmask(SIG_BLOCK, &all, &old) == 0);
    for (int v = 0; v < 3; v++)
        for (int s = SIGRTMAX; s >= SIGRTMIN; s--) { union sigval value = { .sival_int = v }; CHECK(sigqueue(getpid(), s, value) == 0); }
    CHECK(sigprocmask(SIG_SETMASK, &old, 0) == 0);
    CHECK(ordered == 3 * (SIGRTMAX - SIGRTMIN + 1));
    int seen[65] = { 0 };
    for (int i = 0; i < ordered && i < 128; i++) CHECK(order[i] % 1000 == seen[order[i] / 1000]++);
}
/* Where the handler tells the child that it has run. */
static int told[2];
static void tell(int s, siginfo_t *i, void *c) { if (!hits) CHECK(write(told[1], "t", 1) == 1); disturb(s, i, c); }
static void restarted_and_not(void) {
    int p[2];
    char c = 0;
    /* Again and again, in case one comes before the call that it is to interrupt. */
    struct itimerval once = { { 0, 0 }, { 0, 30000 } }, again = { { 0, 30000 }, { 0, 30000 } };
    CHECK(pipe(p) == 0 && pipe(told) == 0);
    pid_t child = fork();
    CHECK(child >= 0);
    if (!child) { CHECK(read(told[0], &c, 1) == 1); usleep(50000); CHECK(write(p[1], "x", 1) == 1); _exit(0); }
    install(SIGALRM, tell, SA_RESTART);
    CHECK(setitimer(ITIMER_REAL, &once, 0) == 0 && read(p[0], &c, 1) == 1 && c == 'x' && hits == 1);
    install(SIGALRM, disturb, 0);
    CHECK(setitimer(ITIMER_REAL, &again, 0) == 0 && read(p[0], &c, 1) == -1 && errno == EINTR && hits >= 2);
    struct timespec minute = { 60, 0 }, left = { 0, 0 };
    CHECK(nanosleep(&minute, &left) == -1 && errno == EINTR && left.tv_sec >= 30);
    again = (struct itimerval){ { 0, 0 }, { 0, 0 } };
    CHECK(setitimer(ITIMER_REAL, &again, 0) == 0 && waitpid(child, 0, 0) == child);
}
static void waited_for(void) {
    sigset_t set;
    siginfo_t info;
    struct timespec brief = { 0, 20000000 };
    struct signalfd_siginfo got;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigaddset(&set, SIGCHLD);
    CHECK(sigprocmask(SIG_BLOCK, &set, 0) == 0);
    CHECK(sigtimedwait(&set, &info, &brief) == -1 && errno == EAGAIN);
    CHECK(kill(getpid(), SIGUSR1) == 0 && sigwaitinfo(&set, &info) == SIGUSR1 && info.si_pid == getpid() && info.si_code == SI_USER);
    int fd = signalfd(-1, &set, SFD_NONBLOCK);
    CHECK(fd >= 0 && read(fd, &got, sizeof got) == -1 && errno == EAGAIN);
    pid_t child = fork();
    CHECK(child >= 0);
    if (!child) _exit(42);
    CHECK(sigwaitinfo(&set, &info) == SIGCHLD && info.si_pid == child && info.si_status == 42 && info.si_code == CLD_EXITED);
    CHECK(waitpid(child, 0, 0) == child && raise(SIGUSR1) == 0);
    CHECK(read(fd, &got, sizeof got) == sizeof got && got.ssi_signo == SIGUSR1 && (pid_t)got.ssi_pid == getpid());
}
static volatile int depth, deepest;
static void nest(int s, siginfo_t *i, void *c) {
    (void)i; (void)c;
    if (++depth > deepest) deepest = depth;
    if (s == SIGUSR1) raise(SIGUSR2);
    depth--;
}
static void nested_and_masked(void) {
    install(SIGUSR1, nest, 0);
    install(SIGUSR2, nest, 0);
    CHECK(raise(SIGUSR1) == 0 && deepest == 2 && depth == 0);
    struct sigaction a = { .sa_sigaction = nest, .sa_flags = SA_SIGINFO };
    sigaddset(&a.sa_mask, SIGUSR2);
    CHECK(sigaction(SIGUSR1, &a, 0) == 0);
    deepest = 0;
    CHECK(raise(SIGUSR1) == 0 && deepest == 1);
}
static void rounding_modes(void) {
    static const int modes[] = { FE_TONEAREST, FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO };
    volatile double one = 1, three = 3, up, down;
    install(SIGUSR1, disturb, 0);
    for (int i = 0; i < 4; i++) {
        CHECK(fesetround(modes[i]) == 0);
        raise(SIGUSR1);
        CHECK(fegetround() == modes[i]);
        feclearexcept(FE_ALL_EXCEPT);
        up = one / three;
        CHECK(fetestexcept(FE_ALL_EXCEPT) == FE_INEXACT);
        if (modes[i] == FE_DOWNWARD) { down = up; fesetround(FE_UPWARD); up = one / three; CHECK(down < up); }
    }
    fesetround(FE_TONEAREST);
    feclearexcept(FE_ALL_EXCEPT);
    volatile double zero = 0, inf = one / zero;
    CHECK(fetestexcept(FE_ALL_EXCEPT) == FE_DIVBYZERO && inf > 1e308);
    volatile float big = 1e38f, product = big * big;
    CHECK((fetestexcept(FE_ALL_EXCEPT) & FE_OVERFLOW) && product > big);
}
#ifdef __arm__
static void skip(int s, siginfo_t *i, void *c) {
    ucontext_t *u = c;
    (void)s; (void)i;
    CHECK(u->uc_mcontext.arm_r5 == 0x1234567);
    u->uc_mcontext.arm_r5 = 99;
    u->uc_mcontext.arm_pc += 4;
    hits++;
}
/* The handler reads and changes registers, and goes on behind the faulting instruction. */
static __attribute__((target("arm"), noinline)) uint32_t fault_with_r5(void) {
    uint32_t r;
    __asm__ volatile("movw r5, #0x4567\n movt r5, #0x123\n mov r4, #0\n .word 0xe5944000\n mov %0, r5" : "=r"(r) : : "r4", "r5", "memory");
    return r;
}
static void context_edited(void) {
    install(SIGSEGV, skip, 0);
    CHECK(fault_with_r5() == 99 && hits == 1);
}
#endif
static char *guarded[4];
static void unprotect(int s, siginfo_t *i, void *c) {
    (void)s; (void)c;
    mprotect((void *)((uintptr_t)i->si_addr & ~4095ul), 4096, PROT_READ | PROT_WRITE);
}
static void *storm(void *p) {
    char *page = p;
    for (int i = 0; i < 5000; i++) { mprotect(page, 4096, PROT_READ); *(volatile char *)(page + i % 4096) = (char)i; }
    return 0;
}
static void fault_storm(void) {
    pthread_t t[4];
    install(SIGSEGV, unprotect, 0);
    for (int i = 0; i < 4; i++) {
        guarded[i] = mmap(0, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        CHECK(guarded[i] != MAP_FAILED && !pthread_create(&t[i], 0, storm, guarded[i]));
    }
    for (int i = 0; i < 4; i++) CHECK(!pthread_join(t[i], 0));
}

/* Signals that a stopped process is sent all arrive when it goes on, those of faults among them, blocked or not. */
static volatile sig_atomic_t arrived[65];
static void count(int s) { arrived[s]++; }
static void sent_together(void) {
    static const int all[] = { SIGUSR1, SIGBUS, SIGSEGV, SIGFPE, SIGUSR2, SIGILL };
    int status, count_of = sizeof all / sizeof *all;
    for (int blocked = 0; blocked < 2; blocked++) {
        pid_t child = fork();
        if (!child) {
            sigset_t set, old;
            sigemptyset(&set);
            for (int i = 0; i < count_of; i++) { signal(all[i], count); sigaddset(&set, all[i]); }
            sigprocmask(blocked ? SIG_BLOCK : SIG_UNBLOCK, &set, &old);
            raise(SIGSTOP);
            if (blocked) sigprocmask(SIG_SETMASK, &old, 0);
            for (int i = 0; i < count_of; i++) if (arrived[all[i]] != 1) _exit(i + 1);
            _exit(0);
        }
        CHECK(waitpid(child, &status, WUNTRACED) == child && WIFSTOPPED(status));
        for (int i = 0; i < count_of; i++) CHECK(kill(child, all[i]) == 0);
        CHECK(kill(child, SIGCONT) == 0);
        CHECK(waitpid(child, &status, 0) == child && status == 0);
    }
}

static const struct probe probes[] = {
    { "state_survives", state_survives }, { "faults", faults }, { "illegal", illegal }, { "alternate_stack", alternate_stack },
    { "real_time_queue", real_time_queue }, { "restarted_and_not", restarted_and_not }, { "waited_for", waited_for },
    { "nested_and_masked", nested_and_masked }, { "rounding_modes", rounding_modes }, { "fault_storm", fault_storm },
    { "sent_together", sent_together },
#ifdef __arm__
    { "context_edited", context_edited },
#endif
};
PROBE_MAIN(probes)
