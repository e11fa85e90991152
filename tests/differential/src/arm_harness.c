/* Executes short instruction sequences under an emulator and writes down what they did.
 *
 * Everything happens in one signal handler: the end of a sequence is an undefined instruction (or an earlier fault), the
 * handler stores the registers of the interrupted context as the result and replaces them by the next case's.
 *
 * usage: harness CASES RESULTS     (layouts: struct header, struct testcase, struct result; all little-endian)
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <ucontext.h>
#include <unistd.h>

struct header { uint32_t magic, count, code_base, code_size, data_base, data_size, has_clrex, pad; };
struct testcase { uint32_t start, cpsr, fpscr, pad, r[16]; uint64_t d[32]; };
struct result { uint32_t r[16], cpsr, signal, address, fpscr, sum, done; uint64_t d[32]; };

#define VFP_MAGIC 0x56465001u

static const struct header *head;
static const struct testcase *cases;
static const uint8_t *pattern;
static struct result *results;
static int at = -1;

/* The floating-point part of a signal frame: 32 registers and FPSCR, or null. */
static uint8_t *vfp_frame(ucontext_t *uc)
{
    uint32_t *p = (uint32_t *)uc->uc_regspace;
    for (int i = 0; i < 4 && p[1] != 0 && p[1] < 512; i++) {
        if (p[0] == VFP_MAGIC)
            return (uint8_t *)(p + 2);
        p = (uint32_t *)((uint8_t *)p + p[1]);
    }
    return 0;
}

static uint32_t checksum(void)
{
    const uint32_t *p = (const uint32_t *)head->data_base;
    uint32_t sum = 0;
    for (uint32_t i = 0; i < head->data_size / 4; i++)
        sum = (sum << 5 | sum >> 27) + (p[i] ^ 0x9e3779b9u);
    return sum;
}

static void step(int signal, siginfo_t *info, void *context)
{
    ucontext_t *uc = context;
    unsigned long *regs = &uc->uc_mcontext.arm_r0;
    uint8_t *vfp = vfp_frame(uc);
    /* What a case left in FPSCR (short vectors!) must not matter to the C library. */
    if (vfp)
        __asm__ volatile("vmsr fpscr, %0" : : "r"(0));
    if (at >= 0) {
        struct result *out = &results[at];
        for (int i = 0; i < 16; i++)
            out->r[i] = regs[i];
        out->cpsr = uc->uc_mcontext.arm_cpsr;
        out->signal = signal;
        out->address = (uint32_t)info->si_addr;
        out->sum = checksum();
        if (vfp) {
            memcpy(out->d, vfp, 256);
            memcpy(&out->fpscr, vfp + 256, 4);
        }
        out->done = 1;
    }
    if (head->has_clrex)
        __asm__ volatile(".inst 0xf57ff01f" ::: "memory");
    if (++at == (int)head->count)
        _exit(0);
    memcpy((void *)head->data_base, pattern, head->data_size);
    const struct testcase *in = &cases[at];
    for (int i = 0; i < 15; i++)
        regs[i] = in->r[i];
    regs[15] = in->start & ~1u;
    uc->uc_mcontext.arm_cpsr = (in->cpsr & 0xf80f0200) | 0x10 | (in->start & 1 ? 0x20 : 0);
    if (vfp) {
        memcpy(vfp, in->d, 256);
        memcpy(vfp + 256, &in->fpscr, 4);
    }
}

static void *map_file(const char *name, int flags, int protection, size_t *size)
{
    struct stat st;
    int fd = open(name, flags);
    if (fd < 0 || fstat(fd, &st) < 0) {
        perror(name);
        exit(2);
    }
    *size = st.st_size;
    void *p = mmap(0, st.st_size, protection, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED) {
        perror(name);
        exit(2);
    }
    return p;
}

static uint8_t *map_at(uint32_t base, uint32_t size, int protection)
{
    void *p = mmap((void *)base, size, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    if (p != (void *)base) {
        fprintf(stderr, "could not map %#x\n", base);
        exit(2);
    }
    return p;
}

int main(int argc, char **argv)
{
    size_t size;
    if (argc != 3)
        return 2;
    uint8_t *file = map_file(argv[1], O_RDONLY, PROT_READ, &size);
    results = map_file(argv[2], O_RDWR, PROT_READ | PROT_WRITE, &size);
    head = (const struct header *)file;
    uint8_t *code = map_at(head->code_base, head->code_size, PROT_READ | PROT_WRITE | PROT_EXEC);
    memcpy(code, file + sizeof *head, head->code_size);
    pattern = file + sizeof *head + head->code_size;
    cases = (const struct testcase *)(pattern + head->data_size);
    map_at(head->data_base, head->data_size, PROT_READ | PROT_WRITE);
    __builtin___clear_cache((char *)code, (char *)code + head->code_size);

    stack_t stack = { .ss_sp = malloc(65536), .ss_size = 65536 };
    sigaltstack(&stack, 0);
    struct sigaction action = { .sa_sigaction = step, .sa_flags = SA_SIGINFO | SA_ONSTACK };
    sigfillset(&action.sa_mask);
    const int signals[] = { SIGILL, SIGSEGV, SIGBUS, SIGTRAP, SIGFPE };
    for (unsigned i = 0; i < sizeof signals / sizeof *signals; i++)
        sigaction(signals[i], &action, 0);
    __builtin_trap();
    return 3;
}
