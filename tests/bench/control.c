/* Control flow: calls, indirect calls, interpreters, non-local jumps, call-backs. */
#include "bench.h"
#include <setjmp.h>

static NOINLINE unsigned fib_call(unsigned n) { return n < 2 ? n : fib_call(n - 1) + fib_call(n - 2); }
static uint64_t fib(unsigned n) { return fib_call(n); }

static NOINLINE unsigned ackermann(unsigned m, unsigned n) {
    return m == 0 ? n + 1 : n == 0 ? ackermann(m - 1, 1) : ackermann(m - 1, ackermann(m, n - 1));
}
static uint64_t deep(unsigned n) { uint64_t s = 0; while (n--) s += ackermann(2, 200 + n % 3); return s; }

static NOINLINE unsigned op_add(unsigned a, unsigned b) { return a + b; }
static NOINLINE unsigned op_xor(unsigned a, unsigned b) { return a ^ b; }
static NOINLINE unsigned op_mul(unsigned a, unsigned b) { return a * (b | 1); }
static NOINLINE unsigned op_rot(unsigned a, unsigned b) { return (a << 5 | a >> 27) + b; }
static unsigned (*const ops[4])(unsigned, unsigned) = { op_add, op_xor, op_mul, op_rot };

static uint64_t indirect(unsigned n) {
    unsigned a = 1, pattern = 0x1b2d4e93;
    for (unsigned i = 0; i < n; i++) {
        a = ops[(pattern >> (i & 15) * 2) & 3](a, i);
    }
    return a;
}
/* Targets that no predictor learns. */
static uint64_t indirect_random(unsigned n) {
    unsigned a = 1;
    uint32_t seed = 5;
    for (unsigned i = 0; i < n; i++) a = ops[next_random(&seed) >> 30](a, i);
    return a;
}

/* A stack machine with a switch. */
enum { PUSH, ADD, SUB, MUL, DUP, SWAP, LOAD, STORE, JNZ, HALT };
static uint64_t interpreter(unsigned n) {
    /* acc = 0; do { acc = (acc + i) * 3; } while (--i) */
    static const int code[] = { LOAD, 1, LOAD, 0, ADD, PUSH, 3, MUL, STORE, 1, LOAD, 0, PUSH, 1, SUB, DUP, STORE, 0, JNZ, 0, HALT };
    unsigned stack[16], cell[2] = { n, 0 };
    const int *pc = code;
    unsigned *sp = stack;
    for (;;) {
        switch (*pc++) {
        case PUSH: *sp++ = (unsigned)*pc++; break;
        case ADD: sp--; sp[-1] += *sp; break;
        case SUB: sp--; sp[-1] -= *sp; break;
        case MUL: sp--; sp[-1] *= *sp; break;
        case DUP: *sp = sp[-1]; sp++; break;
        case SWAP: { unsigned t = sp[-1]; sp[-1] = sp[-2]; sp[-2] = t; break; }
        case LOAD: *sp++ = cell[*pc++]; break;
        case STORE: cell[*pc++] = *--sp; break;
        case JNZ: pc = *--sp ? code + *pc : pc + 1; break;
        case HALT: return cell[1];
        }
    }
}

/* The same with computed goto: an indirect jump at the end of each operation. */
static uint64_t threaded(unsigned n) {
    static void *const op[] = { &&push, &&add, &&sub, &&mul, &&dup, &&load, &&store, &&jnz, &&halt };
    enum { tPUSH, tADD, tSUB, tMUL, tDUP, tLOAD, tSTORE, tJNZ, tHALT };
    static const int code[] = { tLOAD, 1, tLOAD, 0, tADD, tPUSH, 3, tMUL, tSTORE, 1, tLOAD, 0, tPUSH, 1, tSUB, tDUP, tSTORE, 0, tJNZ, 0, tHALT };
    unsigned stack[16], cell[2] = { n, 0 };
    const int *pc = code;
    unsigned *sp = stack;
#define NEXT goto *op[*pc++]
    NEXT;
push: *sp++ = (unsigned)*pc++; NEXT;
add: sp--; sp[-1] += *sp; NEXT;
sub: sp--; sp[-1] -= *sp; NEXT;
mul: sp--; sp[-1] *= *sp; NEXT;
dup: *sp = sp[-1]; sp++; NEXT;
load: *sp++ = cell[*pc++]; NEXT;
store: cell[*pc++] = *--sp; NEXT;
jnz: pc = *--sp ? code + *pc : pc + 1; NEXT;
halt: return cell[1];
}

static jmp_buf back;
static NOINLINE void leap(int v) { if (v & 1) longjmp(back, v | 1); }
static uint64_t jumps(unsigned n) {
    volatile uint64_t sum = 0;
    for (volatile unsigned i = 0; i < n; i++) {
        int v = setjmp(back);
        if (v) sum += (unsigned)v & 255; else leap((int)i | 1);
    }
    return sum;
}

static int by_value(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}
static uint64_t callbacks(unsigned n) {
    static uint32_t a[4096];
    uint32_t seed = 8;
    uint64_t sum = 0;
    while (n--) {
        for (int i = 0; i < 4096; i++) a[i] = next_random(&seed);
        qsort(a, 4096, sizeof *a, by_value);
        sum = mix(sum, a[1000]);
    }
    return sum;
}

/* Objects with a table of methods. */
struct shape { unsigned (*const *methods)(const struct shape *); unsigned w, h; };
static unsigned box_area(const struct shape *s) { return s->w * s->h; }
static unsigned box_edge(const struct shape *s) { return 2 * (s->w + s->h); }
static unsigned tri_area(const struct shape *s) { return s->w * s->h / 2; }
static unsigned tri_edge(const struct shape *s) { return 3 * s->w; }
static uint64_t methods(unsigned n) {
    static unsigned (*const box[2])(const struct shape *) = { box_area, box_edge };
    static unsigned (*const tri[2])(const struct shape *) = { tri_area, tri_edge };
    struct shape all[64];
    uint64_t sum = 0;
    for (unsigned i = 0; i < 64; i++) all[i] = (struct shape){ i % 3 ? box : tri, i, i + 2 };
    while (n--) for (int i = 0; i < 64; i++) sum += all[i].methods[n & 1](&all[i]);
    return sum;
}

/* Many small functions: more code than fits in a first-level cache of translations. */
#define F(i) static NOINLINE unsigned f##i(unsigned x) { return (x ^ (i * 2654435761u)) + (x >> (i % 13 + 1)); }
#define F8(i) F(i##0) F(i##1) F(i##2) F(i##3) F(i##4) F(i##5) F(i##6) F(i##7)
F8(1) F8(2) F8(3) F8(4) F8(5) F8(6) F8(7) F8(8)
#define C(i) x = f##i(x);
#define C8(i) C(i##0) C(i##1) C(i##2) C(i##3) C(i##4) C(i##5) C(i##6) C(i##7)
static uint64_t wide(unsigned n) {
    unsigned x = 1;
    while (n--) { C8(1) C8(2) C8(3) C8(4) C8(5) C8(6) C8(7) C8(8) }
    return x;
}

static const struct row rows[] = {
    { "fib", fib }, { "deep", deep }, { "indirect", indirect }, { "indirect_random", indirect_random }, { "interpreter", interpreter },
    { "threaded", threaded }, { "jumps", jumps }, { "callbacks", callbacks }, { "methods", methods }, { "wide", wide },
};
BENCH_MAIN(rows)
