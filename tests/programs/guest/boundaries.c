/* A signal at every instruction boundary of a loop: the handler must find each register as it is between two instructions.
 * ARM only.
 *
 * PROBE_EACH=1 asks that every boundary was seen; without it, the few where an emulator takes signals are enough.
 */
#include "probe.h"
#include <ucontext.h>

enum { LIMIT = 1u << 30, MOST = 80 };
/* In the loops: r4 counts; what an instruction at offset O computes from it is new if the PC is beyond O. */
extern const char a32_start[], a32_end[], t32_start[], t32_end[];
static const char *start, *end;
static volatile uint32_t hits, memory_word;
static volatile unsigned char seen[MOST];
static uint32_t stack_base;
static int thumb;

static void vfp(ucontext_t *uc, uint32_t *s0, double *d1) {
    uint32_t *p = (uint32_t *)uc->uc_regspace;
    CHECK(p[0] == 0x56465001);
    *s0 = p[2];
    memcpy(d1, p + 4, 8);
}
#define NEW(offset) (at > (offset) ? i : i - 1)
static void check_a32(ucontext_t *uc, uint32_t at, uint32_t i) {
    mcontext_t *m = &uc->uc_mcontext;
    uint32_t s0, before = i - 1;
    double d1;
    vfp(uc, &s0, &d1);
    CHECK(memory_word == NEW(4) && m->arm_r5 == (NEW(8) ^ 0x55) && m->arm_r7 == NEW(12));
    CHECK(m->arm_r8 == (at > 16 ? i + (i ^ 0x55) : before + (before ^ 0x55)));
    CHECK(m->arm_sp == (at == 28 ? stack_base - 8 : stack_base));
    CHECK(m->arm_r9 == NEW(28) && m->arm_r10 == (NEW(28) ^ 0x55));
    CHECK(s0 == NEW(32) && d1 == (double)NEW(36));
    CHECK((m->arm_cpsr & 0x20) == 0 && (at != 44 || ((m->arm_cpsr >> 30 & 1) == (i == LIMIT))));
    CHECK(at <= 16 || at > 40 || (m->arm_cpsr >> 30 & 1) == 0);
}
static void check_t32(ucontext_t *uc, uint32_t at, uint32_t i) {
    mcontext_t *m = &uc->uc_mcontext;
    uint32_t in_it = m->arm_cpsr & 0x0600fc00, done = i & 1 ? NEW(18) : NEW(22);
    CHECK(memory_word == NEW(4) && m->arm_r5 == (NEW(8) ^ 0x55) && m->arm_r8 == NEW(26));
    CHECK(m->arm_r7 == done + (done & 1 ? 7 : 9));
    CHECK((m->arm_cpsr & 0x20) != 0 && (in_it != 0) == (at == 18 || at == 22));
    CHECK(at <= 12 || at > 30 || (m->arm_cpsr >> 30 & 1) == !(i & 1));
}
static void on_signal(int number, siginfo_t *info, void *context) {
    ucontext_t *uc = context;
    const char *pc = (const char *)uc->uc_mcontext.arm_pc;
    uint32_t at = (uint32_t)(pc - start);
    (void)number; (void)info;
    hits++;
    if (pc < start || pc >= end) return;
    seen[at] = 1;
    /* At the top of the loop the iteration before is complete. */
    if (at == 0) at = (uint32_t)(end - start);
    (thumb ? check_t32 : check_a32)(uc, at, (uint32_t)uc->uc_mcontext.arm_r4);
}
static pthread_t target;
static volatile int stop;
static void *send(void *p) {
    uint32_t answered = 0;
    while (!stop) {
        pthread_kill(target, SIGUSR1);
        while (hits == answered && !stop) sched_yield();
        answered = hits;
        for (volatile uint32_t k = 0; k < answered % 97 * 10; k++) { }
    }
    return p;
}
/* Offsets:  0 add  4 str  8 eor  12 ldr  16 adds  20 movmi  24 push  28 pop  32 vmov  36 vcvt  40 cmp  44 bne */
static uint32_t __attribute__((target("arm"))) run_a32(uint32_t limit) {
    register uint32_t n __asm__("r4") = 0;
    __asm__ volatile(
        "mov r5, #0x55\n mov r7, #0\n mov r8, #0x55\n mov r9, #0\n mov r10, #0x55\n mov r11, %1\n mov r6, %2\n"
        "vmov s0, r7\n vcvt.f64.s32 d1, s0\n str sp, [%3]\n"
        ".globl a32_start, a32_end\na32_start:\n"
        "add r4, r4, #1\n str r4, [r6]\n eor r5, r4, #0x55\n ldr r7, [r6]\n adds r8, r7, r5\n movmi r8, #0\n"
        "push {r4, r5}\n pop {r9, r10}\n vmov s0, r4\n vcvt.f64.s32 d1, s0\n cmp r4, r11\n bne a32_start\n"
        "a32_end:\n"
        : "+r"(n) : "r"(limit), "r"(&memory_word), "r"(&stack_base)
        : "r5", "r6", "r7", "r8", "r9", "r10", "r11", "s0", "d1", "cc", "memory");
    return n;
}
/* Offsets:  0 add  4 str  8 eor  12 tst  16 ite  18 addne  22 addeq  26 ldr  30 cmp  34 bne */
static uint32_t __attribute__((target("thumb"))) run_t32(uint32_t limit) {
    register uint32_t n __asm__("r4") = 0;
    __asm__ volatile(
        "mov r5, #0x55\n mov r8, #0\n mov r10, %1\n mov r6, %2\n push {r7}\n mov r7, #9\n"
        ".globl t32_start, t32_end\nt32_start:\n"
        "add.w r4, r4, #1\n str.w r4, [r6]\n eor.w r5, r4, #0x55\n tst.w r4, #1\n ite ne\n addne.w r7, r4, #7\n addeq.w r7, r4, #9\n"
        "ldr.w r8, [r6]\n cmp.w r4, r10\n bne.w t32_start\n"
        "t32_end:\n pop {r7}\n"
        : "+r"(n) : "r"(limit), "r"(&memory_word) : "r5", "r6", "r8", "r10", "cc", "memory");
    return n;
}
static void interrupted(uint32_t (*loop)(uint32_t), const char *from, const char *to, const unsigned char *offsets, int count) {
    struct sigaction a = { .sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_RESTART };
    pthread_t sender;
    int missing = 1, each = getenv("PROBE_EACH") != 0;
    double until = now() + seconds(2), latest = until + 120;
    start = from;
    end = to;
    target = pthread_self();
    CHECK(end - start < MOST && sigaction(SIGUSR1, &a, 0) == 0 && !pthread_create(&sender, 0, send, 0));
    /* On a busy machine the sender may get little time. */
    while (now() < until || hits <= 100 || (each && missing)) {
        uint32_t n = each ? 2000 : 200000;
        memory_word = 0;
        CHECK(loop(n) == n && memory_word == n);
        missing = 0;
        for (int k = 0; k < count; k++) missing += !seen[offsets[k]];
        CHECK(now() < latest || (hits > 100 && (!each || !missing)));
    }
    stop = 1;
    CHECK(!pthread_join(sender, 0) && hits > 100);
}
static void a32_loop(void) {
    static const unsigned char offsets[] = { 0, 4, 8, 12, 16, 20, 24, 28, 32, 36, 40, 44 };
    interrupted(run_a32, a32_start, a32_end, offsets, sizeof offsets);
}
static void t32_loop(void) {
    static const unsigned char offsets[] = { 0, 4, 8, 12, 16, 18, 22, 26, 30, 34 };
    thumb = 1;
    interrupted(run_t32, (const char *)((uintptr_t)t32_start & ~1u), t32_end, offsets, sizeof offsets);
}

static const struct probe probes[] = { { "a32_loop", a32_loop }, { "t32_loop", t32_loop } };
PROBE_MAIN(probes)
