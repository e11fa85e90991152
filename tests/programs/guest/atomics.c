/* Exclusive accesses, 64-bit atomics, and the kernel's helper page. */
#include "probe.h"

enum { NODES = 64, WORKERS = 4, ROUNDS = 150000 };
struct node { struct node *next; volatile int owner; };
static struct node nodes[NODES];
static struct node *volatile top;

/* A lock-free stack without tags: right only where a store-exclusive notices that the word was written in between, even with
 * the same value. */
#ifdef __arm__
static void push(struct node *n) {
    struct node *old;
    uint32_t failed;
    do {
        __asm__ volatile("ldrex %0, [%1]" : "=&r"(old) : "r"(&top) : "memory");
        n->next = old;
        __asm__ volatile("dmb ish\n strex %0, %1, [%2]" : "=&r"(failed) : "r"(n), "r"(&top) : "memory");
    } while (failed);
}
__attribute__((noinline)) static struct node *pop(void) {
    struct node *old, *next;
    uint32_t failed;
    do {
        __asm__ volatile("ldrex %0, [%1]" : "=&r"(old) : "r"(&top) : "memory");
        if (!old) {
            __asm__ volatile("clrex" ::: "memory");
            return 0;
        }
        next = old->next;
        /* Time for others to take nodes and put this one back. */
        for (unsigned k = 0; k < 40; k++) __asm__ volatile("");
        __asm__ volatile("strex %0, %1, [%2]\n dmb ish" : "=&r"(failed) : "r"(next), "r"(&top) : "memory");
    } while (failed);
    return old;
}
#else
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static void push(struct node *n) { pthread_mutex_lock(&lock); n->next = top; top = n; pthread_mutex_unlock(&lock); }
static struct node *pop(void) { pthread_mutex_lock(&lock); struct node *n = top; if (n) top = n->next; pthread_mutex_unlock(&lock); return n; }
#endif

static void *shuffle(void *p) {
    int me = (int)(intptr_t)p;
    for (int i = 0; i < ROUNDS; i++) {
        struct node *a = pop(), *b = pop();
        if (a) { CHECK(__atomic_exchange_n(&a->owner, me, __ATOMIC_SEQ_CST) == 0); }
        if (b) { CHECK(__atomic_exchange_n(&b->owner, me, __ATOMIC_SEQ_CST) == 0); }
        if (a) { a->owner = 0; __sync_synchronize(); push(a); }
        if (b) { b->owner = 0; __sync_synchronize(); push(b); }
    }
    return 0;
}
static void on_workers(void *(*work)(void *)) {
    pthread_t t[WORKERS];
    for (intptr_t i = 0; i < WORKERS; i++) CHECK(!(errno = pthread_create(&t[i], 0, work, (void *)(i + 1))));
    for (int i = 0; i < WORKERS; i++) CHECK(!pthread_join(t[i], 0));
}
static void aba_stack(void) {
    double until = now() + seconds(0);
    for (int i = 0; i < NODES; i++) push(&nodes[i]);
    do on_workers(shuffle); while (now() < until);
    int count = 0;
    for (struct node *n; (n = pop()); count++) CHECK(count < NODES);
    CHECK(count == NODES);
}

/* The same stack, filled by compare-and-swap (a pair without anything between, which nobody need notice) by all workers at
 * once; only then, with all of them running, comes the first store-exclusive that must notice such pairs. */
static void push_swap(struct node *n) {
    struct node *old = __atomic_load_n(&top, __ATOMIC_RELAXED);
#ifdef __arm__
    do n->next = old; while (!__atomic_compare_exchange_n(&top, &old, n, 0, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED));
#else
    (void)old;
    push(n);
#endif
}
static pthread_barrier_t filled;
static void *fill_and_shuffle(void *p) {
    int me = (int)(intptr_t)p;
    for (int i = me - 1; i < NODES; i += WORKERS) push_swap(&nodes[i]);
    pthread_barrier_wait(&filled);
    for (int i = 0; i < ROUNDS; i++) {
        struct node *a = pop(), *b = pop();
        if (a) { CHECK(__atomic_exchange_n(&a->owner, me, __ATOMIC_SEQ_CST) == 0); }
        if (b) { CHECK(__atomic_exchange_n(&b->owner, me, __ATOMIC_SEQ_CST) == 0); }
        if (a) { a->owner = 0; __sync_synchronize(); push_swap(a); }
        if (b) { b->owner = 0; __sync_synchronize(); push_swap(b); }
    }
    return 0;
}
static void aba_late(void) {
    CHECK(!pthread_barrier_init(&filled, 0, WORKERS));
    on_workers(fill_and_shuffle);
    int count = 0;
    for (struct node *n; (n = pop()); count++) CHECK(count < NODES);
    CHECK(count == NODES);
}

static uint64_t wide;
static uint32_t narrow;
static uint16_t half;
static uint8_t byte;
static void *add_all(void *p) {
    (void)p;
    for (int i = 0; i < ROUNDS; i++) {
        __atomic_fetch_add(&wide, 0x100000001ull, __ATOMIC_SEQ_CST);
        __atomic_fetch_add(&narrow, 1, __ATOMIC_RELAXED);
        __atomic_fetch_add(&half, 1, __ATOMIC_SEQ_CST);
        __atomic_fetch_xor(&byte, (uint8_t)i, __ATOMIC_SEQ_CST);
    }
    return 0;
}
static void all_widths(void) {
    on_workers(add_all);
    CHECK(wide == 0x100000001ull * WORKERS * ROUNDS);
    CHECK(narrow == WORKERS * ROUNDS);
    CHECK(half == (uint16_t)(WORKERS * ROUNDS));
    CHECK(byte == 0);
}

static void across_processes(void) {
    struct { uint32_t n; uint64_t w; } *s = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(s != MAP_FAILED);
    for (int i = 0; i < WORKERS; i++) {
        pid_t p = fork();
        CHECK(p >= 0);
        if (!p) {
            for (int k = 0; k < ROUNDS; k++) { __atomic_fetch_add(&s->n, 1, __ATOMIC_SEQ_CST); __atomic_fetch_add(&s->w, 3, __ATOMIC_SEQ_CST); }
            _exit(0);
        }
    }
    for (int i = 0, status; i < WORKERS; i++) CHECK(wait(&status) > 0 && status == 0);
    CHECK(s->n == WORKERS * ROUNDS && s->w == 3ull * WORKERS * ROUNDS);
}

#ifdef __arm__
static volatile int helped;
static volatile int64_t helped64;
static void *use_helpers(void *p) {
    int (*cmpxchg)(int, int, volatile int *) = (void *)0xffff0fc0;
    int (*cmpxchg64)(const int64_t *, const int64_t *, volatile int64_t *) = (void *)0xffff0f60;
    void (*barrier)(void) = (void *)0xffff0fa0;
    (void)p;
    for (int i = 0; i < ROUNDS / 3; i++) {
        int old;
        do old = helped; while (cmpxchg(old, old + 1, &helped));
        int64_t was, next;
        do { was = helped64; next = was + 0x100000001ll; } while (cmpxchg64(&was, &next, &helped64));
        barrier();
    }
    return 0;
}
static void kernel_helpers(void) {
    CHECK(*(volatile int *)0xffff0ffc >= 5);
    uint32_t tls, by_helper = ((uint32_t (*)(void))0xffff0fe0)();
    __asm__("mrc p15, 0, %0, c13, c0, 3" : "=r"(tls));
    CHECK(tls == by_helper);
    on_workers(use_helpers);
    CHECK(helped == WORKERS * (ROUNDS / 3));
    CHECK(helped64 == 0x100000001ll * WORKERS * (ROUNDS / 3));
}
#endif

static const struct probe probes[] = {
    { "aba_stack", aba_stack }, { "aba_late", aba_late }, { "all_widths", all_widths }, { "across_processes", across_processes },
#ifdef __arm__
    { "kernel_helpers", kernel_helpers },
#endif
};
PROBE_MAIN(probes)
