/* Probes of system calls and signals; prints "ok NAME" or "FAIL NAME" for each. Built static for 32-bit ARM by command.rs. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/select.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

static void check(const char *name, int ok) {
    printf("%s %s\n", ok ? "ok" : "FAIL", name);
    fflush(stdout);
}

static sigjmp_buf escape;
static void *volatile fault_address;
static volatile int fault_code, count;

static void on_fault(int s, siginfo_t *i, void *u) {
    fault_address = i->si_addr;
    fault_code = i->si_code;
    siglongjmp(escape, 1);
}

static void on_signal(int s) { count++; }

static void faults(void) {
    struct sigaction sa = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO };
    sigaction(SIGSEGV, &sa, 0);
    sigaction(SIGBUS, &sa, 0);
    if (!sigsetjmp(escape, 1)) *(volatile int *)0x10 = 1;
    check("nothing mapped", fault_address == (void *)0x10 && fault_code == SEGV_MAPERR);
    char *p = mmap(0, 8192, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (!sigsetjmp(escape, 1)) p[5] = 1;
    check("not writable", fault_address == p + 5 && fault_code == SEGV_ACCERR);
    int fd = memfd_create("short", 0);
    ftruncate(fd, 100);
    char *q = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (!sigsetjmp(escape, 1)) q[5000] = 1;
    check("behind the end of a file", fault_address == q + 5000 && fault_code == BUS_ADRERR);
    check("bad address to a call", write(1, (void *)0x10, 4) == -1 && errno == EFAULT);
    signal(SIGSEGV, SIG_DFL);
    signal(SIGBUS, SIG_DFL);
}

static void interrupted_calls(void) {
    int fds[2], got;
    char b;
    pid_t me = getpid();
    pipe(fds);
    struct sigaction sa = { .sa_handler = on_signal };
    sigaction(SIGUSR1, &sa, 0);
    count = 0;
    if (!fork()) { usleep(50000); kill(me, SIGUSR1); _exit(0); }
    got = read(fds[0], &b, 1);
    check("EINTR", got == -1 && errno == EINTR && count == 1);
    wait(0);
    sa.sa_flags = SA_RESTART;
    sigaction(SIGUSR1, &sa, 0);
    if (!fork()) { usleep(50000); kill(me, SIGUSR1); usleep(50000); write(fds[1], "x", 1); _exit(0); }
    got = read(fds[0], &b, 1);
    check("SA_RESTART", got == 1 && count == 2);
    wait(0);
    sigset_t set, old;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, &old);
    raise(SIGUSR1);
    check("blocked", count == 2);
    sigsuspend(&old);
    check("sigsuspend", count == 3);
    sigprocmask(SIG_SETMASK, &old, &set);
    check("the mask comes back", sigismember(&set, SIGUSR1));
}

static double registers_kept(void) {
    volatile double x = 1.5;
    register double a asm("d8") = x;
    asm volatile("" : "+w"(a));
    raise(SIGUSR2);
    asm volatile("" : "+w"(a));
    return a;
}

static void clobber(int s) { asm volatile("vmov.i32 q4, #0\n vmov.i32 q8, #0" ::: "q8"); }

static void vector_registers(void) {
    signal(SIGUSR2, clobber);
    check("vector registers survive a handler", registers_kept() == 1.5);
}

static void queued_signals(void) {
    sigset_t all, old;
    int in_order = 1;
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, &old);
    for (int i = 0; i < 5; i++) sigqueue(getpid(), 64, (union sigval){ .sival_int = i });
    for (int i = 0; i < 5; i++) {
        siginfo_t info;
        struct timespec second = { 1, 0 };
        in_order &= sigtimedwait(&all, &info, &second) == 64 && info.si_value.sival_int == i && info.si_code == SI_QUEUE;
    }
    check("real-time signals come in order", in_order);
    sigprocmask(SIG_SETMASK, &old, 0);
}

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER, robust;
static int sum;
static void *adder(void *p) {
    for (int i = 0; i < 1000; i++) { pthread_mutex_lock(&lock); sum++; pthread_mutex_unlock(&lock); }
    return p;
}
static void *owner(void *p) { pthread_mutex_lock(&robust); return p; }
static void *sleeper(void *p) { for (;;) pause(); }

static void threads(void) {
    pthread_t t[8];
    void *result;
    for (int i = 0; i < 8; i++) pthread_create(t + i, 0, adder, (void *)7);
    for (int i = 0; i < 8; i++) pthread_join(t[i], &result);
    check("threads", sum == 8000 && result == (void *)7);
    pthread_mutexattr_t a;
    pthread_mutexattr_init(&a);
    pthread_mutexattr_setrobust(&a, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(&robust, &a);
    pthread_create(t, 0, owner, 0);
    pthread_join(*t, 0);
    check("robust mutex", pthread_mutex_lock(&robust) == EOWNERDEAD);
    pthread_create(t, 0, sleeper, 0);
    usleep(10000);
    pthread_cancel(*t);
    pthread_join(*t, &result);
    check("cancellation", result == PTHREAD_CANCELED);
}

static volatile int shared;
static int sharer(void *p) { shared = 41; return 7; }

static void processes(void) {
    pid_t child;
    int status = -1;
    char *argv[] = { "nofile", 0 };
    check("posix_spawn of nothing", posix_spawn(&child, "/nofile", 0, 0, argv, environ) == ENOENT);
    check("posix_spawn of a host program", posix_spawn(&child, "/bin/true", 0, 0, argv, environ) == 0 && waitpid(child, &status, 0) == child && status == 0);
    if (!(child = vfork())) { shared = 7; _exit(3); }
    waitpid(child, &status, 0);
    check("vfork shares memory", shared == 7 && WEXITSTATUS(status) == 3);
    char *stack = malloc(65536);
    child = clone(sharer, stack + 65536, CLONE_VM | SIGCHLD, 0);
    check("clone with shared memory", child > 0 && waitpid(child, &status, 0) == child && WEXITSTATUS(status) == 7 && shared == 41);
    if (!(child = fork())) abort();
    waitpid(child, &status, 0);
    check("abort", WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    if (!(child = fork())) { execl("/proc/self/exe", "name", "child", NULL); _exit(9); }
    waitpid(child, &status, 0);
    check("exec of itself", WEXITSTATUS(status) == 5);
    check("exec of nothing", execl("/nofile", "x", NULL) == -1 && errno == ENOENT);
    check("exec of data", execl("/etc/passwd", "x", NULL) == -1 && errno == EACCES);
}

static void messages(void) {
    int pair[2], fds[2];
    char b = 0;
    pipe(fds);
    socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
    union { char bytes[CMSG_SPACE(4)]; struct cmsghdr align; } control = { 0 };
    struct iovec v = { "hi", 2 };
    struct msghdr m = { .msg_iov = &v, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control };
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    c->cmsg_level = SOL_SOCKET, c->cmsg_type = SCM_RIGHTS, c->cmsg_len = CMSG_LEN(4);
    *(int *)CMSG_DATA(c) = fds[1];
    check("sendmsg", sendmsg(pair[0], &m, 0) == 2);
    char text[8];
    v = (struct iovec){ text, sizeof text };
    memset(&control, 0, sizeof control);
    m = (struct msghdr){ .msg_iov = &v, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control };
    check("recvmsg", recvmsg(pair[1], &m, 0) == 2 && (c = CMSG_FIRSTHDR(&m)) && c->cmsg_len == CMSG_LEN(4));
    write(*(int *)CMSG_DATA(c), "z", 1);
    check("descriptor passed", read(fds[0], &b, 1) == 1 && b == 'z');
    write(fds[1], "k", 1);
    int ep = epoll_create1(0);
    struct epoll_event e = { EPOLLIN, { .u64 = 0x123456789abcdefULL } }, out[2];
    epoll_ctl(ep, EPOLL_CTL_ADD, fds[0], &e);
    check("epoll", epoll_wait(ep, out, 2, 1000) == 1 && out[0].data.u64 == 0x123456789abcdefULL);
    fd_set set;
    FD_ZERO(&set);
    FD_SET(fds[0], &set);
    check("select", select(fds[0] + 1, &set, 0, 0, &(struct timeval){ 1, 0 }) == 1 && FD_ISSET(fds[0], &set));
}

static void ipc(void) {
    int id = shmget(IPC_PRIVATE, 8192, IPC_CREAT | 0600), status;
    int *memory = shmat(id, 0, 0);
    struct shmid_ds ds;
    if (!fork()) { memory[3] = 42; _exit(0); }
    wait(&status);
    check("shared memory", memory[3] == 42 && !shmctl(id, IPC_STAT, &ds) && ds.shm_segsz == 8192 && ds.shm_nattch == 1);
    shmdt(memory);
    shmctl(id, IPC_RMID, 0);
    int sem = semget(IPC_PRIVATE, 2, IPC_CREAT | 0600);
    semop(sem, &(struct sembuf){ 1, 3, 0 }, 1);
    check("semaphores", semctl(sem, 1, GETVAL) == 3);
    semctl(sem, 0, IPC_RMID);
    int queue = msgget(IPC_PRIVATE, IPC_CREAT | 0600);
    struct { long type; char text[8]; } m = { 5, "hello" };
    msgsnd(queue, &m, 6, 0);
    memset(&m, 0, sizeof m);
    check("message queue", msgrcv(queue, &m, 8, 0, 0) == 6 && m.type == 5 && !strcmp(m.text, "hello"));
    msgctl(queue, IPC_RMID, 0);
}

static void timers(void) {
    timer_t t;
    struct sigevent e = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1 };
    sigset_t set, old;
    struct itimerspec when = { { 0, 0 }, { 0, 1000000 } };
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, &old);
    check("timer", !timer_create(CLOCK_MONOTONIC, &e, &t) && !timer_settime(t, 0, &when, 0));
    siginfo_t info;
    check("timer signal", sigwaitinfo(&set, &info) == SIGUSR1 && info.si_code == SI_TIMER);
    sigprocmask(SIG_SETMASK, &old, 0);
}

static void mappings(void) {
    char *p = mmap(0, 4 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    strcpy(p, "keep");
    p = mremap(p, 4 * 4096, 400 * 4096, MREMAP_MAYMOVE);
    check("mremap", p != MAP_FAILED && !strcmp(p, "keep") && !p[399 * 4096]);
    void *at = (void *)0x50000000;
    check("fixed", mmap(at, 4096, PROT_READ, MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == at);
    check("not replaced", mmap(at, 4096, PROT_READ, MAP_FIXED_NOREPLACE | MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED && errno == EEXIST);
}

int main(int argc, char **argv) {
    if (argc > 1) return strcmp(argv[0], "name") || strcmp(argv[1], "child") ? 6 : 5;
    faults();
    interrupted_calls();
    vector_registers();
    queued_signals();
    threads();
    processes();
    messages();
    ipc();
    timers();
    mappings();
    return 0;
}
