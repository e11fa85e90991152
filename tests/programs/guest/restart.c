/* Restartable sequences (rseq(2)) as the C library registers them: code that begins anew when its thread has been preempted,
 * moved or interrupted before its last store. ARM only.
 *
 * A sequence that is not restarted loses what another thread has stored on the same processor meanwhile; each has a pause
 * between its look and its store, so that it is interrupted often. */
#include "probe.h"
#include <linux/membarrier.h>
#include <sys/rseq.h>
#include <sys/time.h>
#include <ucontext.h>

#define TEXT_(x) #x
#define TEXT(x) TEXT_(x)
#define NR_rseq 398
#define THREADS 4

static struct rseq *area(void) {
    return (struct rseq *)((char *)__builtin_thread_pointer() + __rseq_offset);
}

/* The last: what was compared has changed within the sequence, which goes on. */
enum outcome { DONE, OTHER_VALUE, INTERRUPTED, TORN };

/* Stores `value` to `slot` and then `next` to `word`, on processor `cpu`, if `word` is `expected`. */
#define SEQUENCE(NAME, TARGET, NAMES_IT, TABLE)                                                                        \
    TARGET NOINLINE static enum outcome NAME(uint32_t cpu, uint32_t *word, uint32_t expected, uint32_t next,           \
                                             uint32_t *slot, uint32_t value, uint32_t pause) {                         \
        uint32_t t, outcome;                                                                                           \
        struct { uint32_t *word; uint32_t expected, next, *slot, value, cpu; } in = {word, expected, next, slot, value, cpu}; \
        asm volatile(NAMES_IT                                                                                          \
                     "1: ldr %[t], [%[area], #4]\n"                                                                    \
                     "ldr %[o], [%[in], #20]\n"                                                                        \
                     "cmp %[t], %[o]\n"                                                                                \
                     "bne 4f\n"                                                                                        \
                     "ldr %[t], [%[in]]\n"                                                                             \
                     "ldr %[t], [%[t]]\n"                                                                              \
                     "ldr %[o], [%[in], #4]\n"                                                                         \
                     "cmp %[t], %[o]\n"                                                                                \
                     "bne 5f\n"                                                                                        \
                     "7: subs %[pause], %[pause], #1\n"                                                                \
                     "bne 7b\n"                                                                                        \
                     "ldr %[t], [%[area], #4]\n"                                                                       \
                     "ldr %[o], [%[in], #20]\n"                                                                        \
                     "cmp %[t], %[o]\n"                                                                                \
                     "bne 9f\n"                                                                                        \
                     "ldr %[t], [%[in]]\n"                                                                             \
                     "ldr %[t], [%[t]]\n"                                                                              \
                     "ldr %[o], [%[in], #4]\n"                                                                         \
                     "cmp %[t], %[o]\n"                                                                                \
                     "bne 9f\n"                                                                                        \
                     "ldr %[t], [%[in], #12]\n"                                                                        \
                     "ldr %[o], [%[in], #16]\n"                                                                        \
                     "str %[o], [%[t]]\n"                                                                              \
                     "ldr %[t], [%[in]]\n"                                                                             \
                     "ldr %[o], [%[in], #8]\n"                                                                         \
                     "str %[o], [%[t]]\n"                                                                              \
                     "2: movs %[o], #0\n"                                                                              \
                     "b 6f\n" TABLE ".word " TEXT(RSEQ_SIG) "\n"                                                       \
                     "4: movs %[o], #2\n"                                                                              \
                     "b 6f\n"                                                                                          \
                     "5: movs %[o], #1\n"                                                                              \
                     "b 6f\n"                                                                                          \
                     "9: movs %[o], #3\n"                                                                              \
                     "6:\n"                                                                                            \
                     : [t] "=&l"(t), [o] "=&l"(outcome), [pause] "+&l"(pause)                                          \
                     : [area] "l"(area()), [in] "l"(&in)                                                               \
                     : "cc", "memory");                                                                                \
        return outcome;                                                                                                \
    }
#define DESCRIPTOR ".word 0, 0, 1b, 0, 2b - 1b, 0, 4f, 0\n"
/* The descriptor lies beside the code, and its address is relative to it. */
#define BESIDE "adr %[t], 3f\nstr %[t], [%[area], #8]\n"
#define BESIDE_TABLE ".balign 32\n3: " DESCRIPTOR
/* It lies among the data, its address among the constants. */
#define FAR "ldr %[t], 8f\nstr %[t], [%[area], #8]\n"
#define FAR_TABLE ".balign 4\n8: .word 3f\n.pushsection __rseq_cs, \"aw\"\n.balign 32\n3: " DESCRIPTOR ".popsection\n"
/* Nobody can tell beforehand what is stored. */
#define HIDDEN "ldr %[t], 8f\neor %[t], %[t], %[area]\neor %[t], %[t], %[area]\nstr %[t], [%[area], #8]\n"

SEQUENCE(beside_a32, __attribute__((target("arm"))), BESIDE, BESIDE_TABLE)
SEQUENCE(beside_t32, __attribute__((target("thumb"))), BESIDE, BESIDE_TABLE)
SEQUENCE(far_a32, __attribute__((target("arm"))), FAR, FAR_TABLE)
SEQUENCE(far_t32, __attribute__((target("thumb"))), FAR, FAR_TABLE)
SEQUENCE(hidden_a32, __attribute__((target("arm"))), HIDDEN, FAR_TABLE)

typedef enum outcome sequence(uint32_t, uint32_t *, uint32_t, uint32_t, uint32_t *, uint32_t, uint32_t);

#define CPUS 256
#define SLOTS 100000
static struct log {
    uint32_t count;
    uint32_t entries[SLOTS];
} *logs[CPUS];
static sequence *tested;
static uint32_t each, pause_length;
static uint32_t interrupted;

/* Appends to the log of the processor that the thread is on. */
static void append(uint32_t value) {
    for (;;) {
        uint32_t cpu = *(volatile uint32_t *)&area()->cpu_id_start;
        CHECK(cpu < CPUS && logs[cpu]);
        struct log *log = logs[cpu];
        uint32_t count = *(volatile uint32_t *)&log->count;
        CHECK(count < SLOTS);
        enum outcome o = tested(cpu, &log->count, count, count + 1, &log->entries[count], value, pause_length);
        CHECK(o != TORN);
        if (o == DONE)
            return;
        if (o == INTERRUPTED)
            __atomic_add_fetch(&interrupted, 1, __ATOMIC_RELAXED);
    }
}

static void *appends(void *first) {
    syscall(SYS_getppid);
    for (uint32_t i = 0; i < each; i++)
        append((uint32_t)(uintptr_t)first + i);
    return 0;
}

static void make_logs(void) {
    cpu_set_t set;
    CHECK(sched_getaffinity(0, sizeof set, &set) == 0);
    for (int c = 0; c < CPUS; c++)
        if (CPU_ISSET(c, &set))
            CHECK((logs[c] = calloc(1, sizeof **logs)));
}

/* Each value is in one of the logs, once. */
static void check_logs(uint32_t values) {
    char *seen = calloc(1, values);
    uint32_t all = 0;
    for (int c = 0; c < CPUS; c++)
        for (uint32_t i = 0; logs[c] && i < logs[c]->count; i++, all++) {
            CHECK(logs[c]->entries[i] < values && !seen[logs[c]->entries[i]]);
            seen[logs[c]->entries[i]] = 1;
        }
    CHECK(all == values);
}

/* The process stays on two processors, so that its threads are in each other's way. */
static void stay_on_two(void) {
    cpu_set_t set;
    CHECK(sched_getaffinity(0, sizeof set, &set) == 0);
    for (int c = 0, kept = 0; c < CPU_SETSIZE; c++)
        if (CPU_ISSET(c, &set) && ++kept > 2)
            CPU_CLR(c, &set);
    CHECK(sched_setaffinity(0, sizeof set, &set) == 0);
}

static void shared_logs(sequence *s) {
    pthread_t threads[THREADS];
    CHECK(__rseq_size > 0);
    stay_on_two();
    tested = s, each = 2500, pause_length = 300;
    make_logs();
    /* A sequence that hides its descriptor is found by the next system call. */
    append(THREADS * each);
    for (uintptr_t i = 0; i < THREADS; i++)
        CHECK(!pthread_create(&threads[i], 0, appends, (void *)(i * each)));
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], 0);
    check_logs(THREADS * each + 1);
    CHECK(interrupted > 0);
}

static void shared_logs_a32(void) { shared_logs(beside_a32); }
static void shared_logs_t32(void) { shared_logs(beside_t32); }
static void shared_logs_far_a32(void) { shared_logs(far_a32); }
static void shared_logs_far_t32(void) { shared_logs(far_t32); }
static void shared_logs_hidden(void) { shared_logs(hidden_a32); }

/* The C library's registration, and what the kernel says to others. */
static void registration(void) {
    struct rseq *r = area();
    uint32_t sig = RSEQ_SIG;
    CHECK(__rseq_size >= 20 && (int)r->cpu_id >= 0 && r->cpu_id == r->cpu_id_start);
    CHECK(syscall(NR_rseq, r, 32, 0, sig) == -1 && errno == EBUSY);
    CHECK(syscall(NR_rseq, r, 32, 0, sig + 1) == -1 && errno == EPERM);
    CHECK(syscall(NR_rseq, (char *)r + 32, 32, 0, sig) == -1 && errno == EINVAL);
    CHECK(syscall(NR_rseq, r, 32, 2, sig) == -1 && errno == EINVAL);
    CHECK(syscall(NR_rseq, r, 32, 1, sig + 1) == -1 && errno == EPERM);
    CHECK(syscall(NR_rseq, (char *)r + 32, 32, 1, sig) == -1 && errno == EINVAL);
    CHECK(syscall(NR_rseq, r, 32, 1, sig) == 0);
    CHECK((int)r->cpu_id == -1 && r->cpu_id_start == 0);
    CHECK(syscall(NR_rseq, r, 32, 1, sig) == -1 && errno == EINVAL);
    CHECK(syscall(NR_rseq, (char *)r + 4, 32, 0, sig) == -1 && errno == EINVAL);
    CHECK(syscall(NR_rseq, 0x40, 32, 0, sig) == -1 && errno == EFAULT);
    CHECK(syscall(NR_rseq, r, 32, 0, sig) == 0 && (int)r->cpu_id >= 0);
    pid_t child = fork();
    if (!child)
        _exit(syscall(NR_rseq, r, 32, 0, sig) == -1 && errno == EBUSY ? 0 : 1);
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
}

static void processors(void) {
    cpu_set_t all, one;
    CHECK(sched_getaffinity(0, sizeof all, &all) == 0);
    for (int round = 0; round < 100; round++)
        for (int c = 0; c < CPU_SETSIZE; c++)
            if (CPU_ISSET(c, &all)) {
                CPU_ZERO(&one);
                CPU_SET(c, &one);
                CHECK(sched_setaffinity(0, sizeof one, &one) == 0);
                CHECK((int)area()->cpu_id == c && (int)area()->cpu_id_start == c && sched_getcpu() == c);
            }
}

static volatile uint32_t signals_taken;

static void on_alarm(int signal, siginfo_t *info, void *context) {
    (void)signal, (void)info, (void)context;
    CHECK(area()->rseq_cs == 0);
    signals_taken++;
}

/* Signals interrupt sequences, too. */
static void interrupted_by_signals(void) {
    struct sigaction action = {.sa_sigaction = on_alarm, .sa_flags = SA_SIGINFO | SA_RESTART};
    struct itimerval often = {{0, 700}, {0, 700}}, never = {{0, 0}, {0, 0}};
    make_logs();
    tested = beside_a32, each = 4000, pause_length = 500;
    CHECK(sigaction(SIGALRM, &action, 0) == 0 && setitimer(ITIMER_REAL, &often, 0) == 0);
    appends(0);
    CHECK(setitimer(ITIMER_REAL, &never, 0) == 0);
    check_logs(each);
    CHECK(signals_taken > 0 && interrupted > 0);
}

static void *waits_in_a_sequence(void *ready) {
    uint32_t word = 0, slot;
    __atomic_store_n((int *)ready, 1, __ATOMIC_SEQ_CST);
    /* So long that only an interruption ends it. */
    enum outcome o = beside_a32(area()->cpu_id_start, &word, 0, 1, &slot, 0, UINT32_MAX);
    return (void *)(uintptr_t)(o == INTERRUPTED && word == 0);
}

/* membarrier(2) interrupts the sequences that others are in. */
static void interrupted_by_a_barrier(void) {
    pthread_t thread;
    int ready = 0;
    void *was_interrupted;
    if (syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_RSEQ, 0, 0))
        absent();
    CHECK(!pthread_create(&thread, 0, waits_in_a_sequence, &ready));
    while (!__atomic_load_n(&ready, __ATOMIC_SEQ_CST))
        sched_yield();
    usleep(20000);
    CHECK(syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED_RSEQ, 0, 0) == 0);
    CHECK(!pthread_join(thread, &was_interrupted) && was_interrupted);
}

/* A pointer to something that is no descriptor ends the program, when somebody looks. */
static void no_descriptor(void) {
    pid_t child = fork();
    if (!child) {
        signal(SIGUSR1, (void (*)(int))(uintptr_t)on_alarm);
        area()->rseq_cs = 4;
        raise(SIGUSR1);
        _exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
}

static const struct probe probes[] = {
    { "registration", registration }, { "processors", processors }, { "shared_logs_a32", shared_logs_a32 },
    { "shared_logs_t32", shared_logs_t32 }, { "shared_logs_far_a32", shared_logs_far_a32 },
    { "shared_logs_far_t32", shared_logs_far_t32 }, { "shared_logs_hidden", shared_logs_hidden },
    { "interrupted_by_signals", interrupted_by_signals }, { "interrupted_by_a_barrier", interrupted_by_a_barrier },
    { "no_descriptor", no_descriptor },
};
PROBE_MAIN(probes)
