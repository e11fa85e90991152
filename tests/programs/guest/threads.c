/* Threads: many, at once, cancelled, robust, forking. */
#include "probe.h"
#include <semaphore.h>

/* The C library changes the numbers of all threads by a signal of its own, also those of threads that wait in the kernel. */
static volatile pid_t waiting_tid;
static int id_pipe[2];
static void *wait_in_kernel(void *p) {
    char c;
    waiting_tid = (pid_t)syscall(SYS_gettid);
    CHECK(write(id_pipe[1], "r", 1) == 1);
    usleep(100000); /* The signal may end it. */
    return read(((int *)p)[0], &c, 1) == 1 ? p : NULL;
}
static long group_of(pid_t tid) {
    char name[64], line[256];
    long groups[4] = { -1, -1, -1, -1 };
    snprintf(name, sizeof name, "/proc/self/task/%d/status", tid);
    FILE *f = fopen(name, "r");
    CHECK(f);
    while (fgets(line, sizeof line, f)) sscanf(line, "Gid: %ld %ld %ld %ld", groups, groups + 1, groups + 2, groups + 3);
    fclose(f);
    return groups[1];
}
static void numbers_of_all_threads(void) {
    int end[2];
    char c;
    void *result;
    pthread_t thread;
    CHECK(pipe(id_pipe) == 0 && pipe(end) == 0 && pthread_create(&thread, 0, wait_in_kernel, end) == 0);
    CHECK(read(id_pipe[0], &c, 1) == 1);
    gid_t wanted = getuid() ? getgid() : 12345;
    for (int i = 0; i < 20; i++) CHECK(setegid(i & 1 ? wanted : getgid()) == 0);
    CHECK(group_of(waiting_tid) == (long)wanted && group_of((pid_t)syscall(SYS_gettid)) == (long)wanted);
    CHECK(setresgid(-1, getgid(), -1) == 0 && group_of(waiting_tid) == (long)getgid());
    CHECK(write(end[1], "e", 1) == 1 && pthread_join(thread, &result) == 0 && result == end);
}

static void *identity(void *p) { return p; }
static void thousand(void) {
    double until = now() + seconds(0);
    do for (intptr_t i = 1; i <= 1000; i++) {
        pthread_t t;
        void *r;
        CHECK(!(errno = pthread_create(&t, 0, identity, (void *)i)) && !pthread_join(t, &r) && r == (void *)i);
    } while (now() < until);
}
static pthread_barrier_t barrier;
static uint32_t arrived;
static void *meet(void *p) {
    pthread_barrier_wait(&barrier);
    __atomic_fetch_add(&arrived, 1, __ATOMIC_SEQ_CST);
    pthread_barrier_wait(&barrier);
    return arrived == 200 ? p : 0;
}
static void two_hundred_at_once(void) {
    pthread_t t[200];
    pthread_barrier_init(&barrier, 0, 200);
    for (intptr_t i = 0; i < 200; i++) CHECK(!(errno = pthread_create(&t[i], 0, meet, (void *)(i + 1))));
    for (intptr_t i = 0; i < 200; i++) { void *r; CHECK(!pthread_join(t[i], &r) && r == (void *)(i + 1)); }
}
static void *wait_for_release(void *p) {
    pthread_barrier_wait(&barrier);
    __atomic_fetch_add(&arrived, 1, __ATOMIC_SEQ_CST);
    return p;
}
/* With small stacks: a thousand of the standard size do not fit into 32 bits. */
static void thousand_at_once(void) {
    static pthread_t t[1000];
    double until = now() + seconds(0);
    pthread_attr_t a;
    pthread_attr_init(&a);
    CHECK(pthread_attr_setstacksize(&a, 65536) == 0);
    do {
        arrived = 0;
        pthread_barrier_init(&barrier, 0, 1000);
        for (intptr_t i = 0; i < 1000; i++) CHECK(!(errno = pthread_create(&t[i], &a, wait_for_release, (void *)i)));
        for (intptr_t i = 0; i < 1000; i++) { void *r; CHECK(!pthread_join(t[i], &r) && r == (void *)i); }
        CHECK(arrived == 1000);
    } while (now() < until);
}
static pthread_mutex_t robust;
static void *die_with_it(void *p) { pthread_mutex_lock(&robust); return p; }
static void robust_mutex(void) {
    pthread_mutexattr_t a;
    pthread_t t;
    pthread_mutexattr_init(&a);
    CHECK(!pthread_mutexattr_setrobust(&a, PTHREAD_MUTEX_ROBUST) && !pthread_mutex_init(&robust, &a));
    CHECK(!pthread_create(&t, 0, die_with_it, 0) && !pthread_join(t, 0));
    struct timespec late;
    clock_gettime(CLOCK_REALTIME, &late);
    late.tv_sec += 5;
    CHECK((errno = pthread_mutex_timedlock(&robust, &late)) == EOWNERDEAD);
    CHECK(!pthread_mutex_consistent(&robust) && !pthread_mutex_unlock(&robust) && !pthread_mutex_lock(&robust));
}
static int cleaned;
static sem_t entered;
static void clean(void *p) { cleaned += *(int *)p; }
static void *wait_long(void *p) {
    int one = 1;
    (void)p;
    pthread_cleanup_push(clean, &one);
    sem_post(&entered);
    for (;;) sleep(100);
    pthread_cleanup_pop(0);
    return 0;
}
static void cancelled(void) {
    for (int i = 1; i <= 20; i++) {
        pthread_t t;
        void *r;
        sem_init(&entered, 0, 0);
        CHECK(!pthread_create(&t, 0, wait_long, 0));
        if (i & 1) sem_wait(&entered);
        if (i & 2) usleep(2000);
        CHECK(!pthread_cancel(t) && !pthread_join(t, &r) && r == PTHREAD_CANCELED && cleaned <= i);
    }
    CHECK(cleaned >= 10);
}
static pthread_key_t key;
static uint32_t destroyed;
static __thread uint64_t own = 0x1122334455667788ull;
static void destroy(void *p) { __atomic_fetch_add(&destroyed, (uint32_t)(uintptr_t)p, __ATOMIC_SEQ_CST); }
static void *use_locals(void *p) {
    CHECK(own == 0x1122334455667788ull);
    own = (uintptr_t)p;
    pthread_setspecific(key, p);
    for (int i = 0; i < 1000; i++) { sched_yield(); CHECK(own == (uintptr_t)p && pthread_getspecific(key) == p); }
    return 0;
}
static void thread_locals(void) {
    pthread_t t[8];
    pthread_key_create(&key, destroy);
    for (intptr_t i = 0; i < 8; i++) CHECK(!pthread_create(&t[i], 0, use_locals, (void *)(i + 1)));
    for (int i = 0; i < 8; i++) CHECK(!pthread_join(t[i], 0));
    CHECK(destroyed == 36 && own == 0x1122334455667788ull);
}
static volatile int going = 1;
static void *keep_busy(void *p) { uint32_t n = 0; while (going) { n++; free(malloc(n % 500 + 1)); } return p; }
static void *forker(void *p) {
    for (int i = 0; i < 40; i++) {
        int status;
        pid_t child = fork();
        CHECK(child >= 0);
        if (!child) { void *m = malloc(100); memset(m, 1, 100); free(m); _exit(5); }
        CHECK(waitpid(child, &status, 0) == child && WEXITSTATUS(status) == 5);
    }
    return p;
}
static void fork_beside_threads(void) {
    pthread_t busy[2], forking[2];
    for (int i = 0; i < 2; i++) CHECK(!pthread_create(&busy[i], 0, keep_busy, 0) && !pthread_create(&forking[i], 0, forker, 0));
    for (int i = 0; i < 2; i++) CHECK(!pthread_join(forking[i], 0));
    going = 0;
    for (int i = 0; i < 2; i++) CHECK(!pthread_join(busy[i], 0));
}
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_rwlock_t rw = PTHREAD_RWLOCK_INITIALIZER;
static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
static sem_t sem;
static uint64_t work_done, balance;
static void *mixed(void *p) {
    uint32_t me = (uint32_t)(uintptr_t)p;
    double until = now() + seconds(2), x = me;
    for (uint32_t i = 0; now() < until; i++) {
        char *m = malloc(i % 3000 + 1);
        memset(m, (int)i, i % 3000 + 1);
        for (int k = 0; k < 50; k++) x = x * 1.0000001 + 1 / (x + k + 1);
        pthread_mutex_lock(&lock); work_done++; pthread_cond_signal(&cond); pthread_mutex_unlock(&lock);
        if (i % 7 == me % 7) { pthread_rwlock_wrlock(&rw); balance += 2; balance -= 2; pthread_rwlock_unlock(&rw); }
        else { pthread_rwlock_rdlock(&rw); CHECK(balance == 100); pthread_rwlock_unlock(&rw); }
        sem_wait(&sem); sem_post(&sem);
        CHECK(m[i % 3000] == (char)i);
        free(m);
    }
    return x > 0 ? 0 : p;
}
static void mixed_work(void) {
    pthread_t t[8];
    balance = 100;
    sem_init(&sem, 0, 3);
    for (intptr_t i = 0; i < 8; i++) CHECK(!pthread_create(&t[i], 0, mixed, (void *)i));
    for (int i = 0; i < 8; i++) CHECK(!pthread_join(t[i], 0));
    CHECK(work_done > 100);
}
static void one_task(void) {
    CHECK(system("test $(ls /proc/$PPID/task | wc -l) = 1") == 0);
}

static const struct probe probes[] = {
    { "thousand", thousand }, { "two_hundred_at_once", two_hundred_at_once }, { "thousand_at_once", thousand_at_once },
    { "robust_mutex", robust_mutex }, { "cancelled", cancelled },
    { "thread_locals", thread_locals }, { "fork_beside_threads", fork_beside_threads }, { "mixed_work", mixed_work },
    { "numbers_of_all_threads", numbers_of_all_threads }, { "one_task", one_task },
};
PROBE_MAIN(probes)
