/* seccomp filters that are for all threads, and those that ask a listener. */
#include "probe.h"
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>

#ifdef __arm__
#define OWN_ARCH 0x40000028u
#else
#define OWN_ARCH AUDIT_ARCH_X86_64
#endif
/* What the probes ask for: calls that nothing else here makes. */
#define ASKED SYS_getpgid
#define OTHER SYS_getsid

/* Not in all headers yet. */
struct addition { uint64_t id; uint32_t flags, srcfd, newfd, newfd_flags; };
#define ADD_DESCRIPTOR _IOW('!', 3, struct addition)
enum { FLAG_TSYNC = 1, FLAG_NEW_LISTENER = 8, FLAG_TSYNC_ESRCH = 16, GO_ON = 1, SET_NUMBER = 1, AND_SEND = 2 };
struct asked { uint64_t id; uint32_t pid, flags; struct seccomp_data data; };
struct answered { uint64_t id; int64_t val; int32_t error; uint32_t flags; };

/* A filter with this answer to one call. */
static long add_filter(unsigned flags, long call, unsigned answer) {
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)call, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, answer),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = { 4, code };
    return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
}

static pthread_barrier_t together;
static volatile int seen_error, seen_privileges;
static volatile pid_t thread_number;
static void *ask_later(void *with_filter) {
    thread_number = (pid_t)syscall(SYS_gettid);
    if (with_filter) CHECK(add_filter(0, OTHER, SECCOMP_RET_ERRNO | ENOMEDIUM) == 0);
    pthread_barrier_wait(&together);
    pthread_barrier_wait(&together);
    seen_error = syscall(ASKED, 0) < 0 ? errno : 0;
    seen_privileges = prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0);
    return 0;
}
static void for_all_threads(void) {
    pthread_t t;
    pthread_barrier_init(&together, 0, 2);
    CHECK(pthread_create(&t, 0, ask_later, 0) == 0);
    pthread_barrier_wait(&together);
    CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    long r = add_filter(FLAG_TSYNC, ASKED, SECCOMP_RET_ERRNO | EXFULL);
    if (r < 0 && errno == ENOSYS) absent();
    CHECK(r == 0);
    pthread_barrier_wait(&together);
    CHECK(pthread_join(t, 0) == 0 && seen_error == EXFULL && seen_privileges == 1);
    CHECK(syscall(ASKED, 0) == -1 && errno == EXFULL);
    /* One that has a filter of its own stops it, for all. */
    CHECK(pthread_create(&t, 0, ask_later, &together) == 0);
    pthread_barrier_wait(&together);
    CHECK(add_filter(FLAG_TSYNC, SYS_getppid, SECCOMP_RET_ERRNO | EXFULL) == thread_number);
    CHECK(add_filter(FLAG_TSYNC | FLAG_TSYNC_ESRCH, SYS_getppid, SECCOMP_RET_ERRNO | EXFULL) == -1 && errno == ESRCH);
    CHECK(syscall(SYS_getppid) > 0);
    pthread_barrier_wait(&together);
    CHECK(pthread_join(t, 0) == 0 && seen_error == EXFULL);
    /* It has ended. */
    CHECK(add_filter(FLAG_TSYNC, SYS_getppid, SECCOMP_RET_ERRNO | EXFULL) == 0 && syscall(SYS_getppid) == -1 && errno == EXFULL);
    CHECK(add_filter(FLAG_TSYNC | FLAG_NEW_LISTENER, ASKED, SECCOMP_RET_ALLOW) == -1 && errno == EINVAL);
    CHECK(add_filter(64, ASKED, SECCOMP_RET_ALLOW) == -1 && errno == EINVAL);
}

static int new_listener(unsigned flags) {
    CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    long fd = add_filter(FLAG_NEW_LISTENER | flags, ASKED, SECCOMP_RET_USER_NOTIF);
    if (fd < 0 && (errno == ENOSYS || errno == EINVAL || errno == EBUSY)) absent();
    CHECK(fd > 2 && fcntl((int)fd, F_GETFD) == FD_CLOEXEC);
    return (int)fd;
}

static struct asked next_question(int fd) {
    struct asked q = { 0 };
    struct pollfd p = { fd, POLLIN, 0 };
    CHECK(poll(&p, 1, 60000) == 1 && p.revents == POLLIN);
    CHECK(ioctl(fd, SECCOMP_IOCTL_NOTIF_RECV, &q) == 0);
    CHECK(q.data.nr == ASKED && q.data.arch == OWN_ARCH && q.data.instruction_pointer != 0);
    return q;
}
static void answer(int fd, struct asked q, int64_t value, int error, unsigned flags) {
    struct answered a = { q.id, value, error, flags };
    CHECK(ioctl(fd, SECCOMP_IOCTL_NOTIF_SEND, &a) == 0);
}

static int listener, asker;
static void *listen_in_a_thread(void *p) {
    struct asked q = next_question(listener);
    CHECK(q.pid == (uint32_t)asker && q.data.args[0] == 11 && q.data.args[1] == 22 && q.data.args[2] == 33);
    CHECK(q.data.args[3] == 44 && q.data.args[4] == 55);
    answer(listener, q, 1234, 0, 0);
    q = next_question(listener);
    answer(listener, q, 0, -EXFULL, 0);
    q = next_question(listener);
    answer(listener, q, 0, 0, GO_ON);
    q = next_question(listener);
    answer(listener, q, 0, -ENOSYS, 0);
    q = next_question(listener);
    answer(listener, q, 0, -EBADF, 0);
    return p;
}
static void asked_by_a_thread(void) {
    uint16_t sizes[3];
    unsigned action = SECCOMP_RET_USER_NOTIF;
    CHECK(syscall(SYS_seccomp, SECCOMP_GET_NOTIF_SIZES, 0, sizes) == 0 && sizes[0] == 80 && sizes[1] == 24 && sizes[2] == 64);
    CHECK(syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action) == 0);
    asker = (int)syscall(SYS_gettid);
    listener = new_listener(0);
    CHECK(add_filter(FLAG_NEW_LISTENER, OTHER, SECCOMP_RET_USER_NOTIF) == -1 && errno == EBUSY);
    pthread_t t;
    CHECK(pthread_create(&t, 0, listen_in_a_thread, 0) == 0);
    CHECK(syscall(ASKED, 11, 22, 33, 44, 55) == 1234);
    CHECK(syscall(ASKED, 0) == -1 && errno == EXFULL);
    CHECK(syscall(ASKED, 0) == getpgrp());
    CHECK(syscall(ASKED, 0) == -1 && errno == ENOSYS);
    CHECK(syscall(ASKED, 0) == -1 && errno == EBADF);
    CHECK(pthread_join(t, 0) == 0);
    /* A filter that asks and has no listener. */
    CHECK(add_filter(0, OTHER, SECCOMP_RET_USER_NOTIF) == 0 && syscall(OTHER, 0) == -1 && errno == ENOSYS);
    /* Nobody listens any more. */
    CHECK(close(listener) == 0 && syscall(ASKED, 0) == -1 && errno == ENOSYS);
}

static void pass_descriptor(int to, int fd) {
    char c = 0, room[CMSG_SPACE(sizeof fd)] = "";
    struct iovec v = { &c, 1 };
    struct msghdr m = { .msg_iov = &v, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room };
    struct cmsghdr *h = CMSG_FIRSTHDR(&m);
    h->cmsg_level = SOL_SOCKET; h->cmsg_type = SCM_RIGHTS; h->cmsg_len = CMSG_LEN(sizeof fd);
    memcpy(CMSG_DATA(h), &fd, sizeof fd);
    CHECK(sendmsg(to, &m, 0) == 1);
}
static int take_descriptor(int from) {
    int fd = -1;
    char c, room[CMSG_SPACE(sizeof fd)];
    struct iovec v = { &c, 1 };
    struct msghdr m = { .msg_iov = &v, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room };
    CHECK(recvmsg(from, &m, 0) == 1);
    struct cmsghdr *h = CMSG_FIRSTHDR(&m);
    if (!h) absent();
    memcpy(&fd, CMSG_DATA(h), sizeof fd);
    return fd;
}
static volatile int alarms;
static void on_alarm(int sig) { (void)sig; alarms++; }
/* Run again by asked_by_another_process: the filter came along. */
static void asking_child(void) {
    char c = 0;
    long given = syscall(ASKED, 1);
    CHECK(given > 2 && write((int)given, "from the child", 14) == 14);
    CHECK(syscall(ASKED, 2) == 77 && write(77, "!", 1) == 1);
    struct sigaction a = { .sa_handler = on_alarm };
    CHECK(sigaction(SIGALRM, &a, 0) == 0);
    alarm(1);
    CHECK(syscall(ASKED, 3) == -1 && errno == EINTR && alarms == 1 && read(0, &c, 1) == 1 && c == 'g');
    CHECK(syscall(ASKED, 0) == getpgrp());
    CHECK(syscall(ASKED, 4) == -1);
    exit(3);
}
static void asked_by_another_process(void) {
    int ends[2], p[2], go[2], status;
    char text[32] = "", *argv[] = { "listeners", "asking_child", 0 };
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0 && pipe(p) == 0 && pipe(go) == 0);
    pid_t child = fork();
    if (!child) {
        pass_descriptor(ends[1], new_listener(0));
        CHECK(dup2(go[0], 0) == 0);
        for (int fd = 3; fd < 20; fd++) close(fd);
        execv("/proc/self/exe", argv);
        _exit(99);
    }
    CHECK(close(ends[1]) == 0);
    int fd = take_descriptor(ends[0]);
    struct asked q = next_question(fd);
    CHECK(q.pid == (uint32_t)child && q.data.args[0] == 1);
    struct addition add = { .id = q.id, .flags = AND_SEND, .srcfd = (uint32_t)p[1] };
    CHECK(ioctl(fd, ADD_DESCRIPTOR, &add) > 2);
    CHECK(read(p[0], text, sizeof text) == 14 && !strcmp(text, "from the child"));
    q = next_question(fd);
    add = (struct addition){ .id = q.id, .flags = SET_NUMBER, .srcfd = (uint32_t)p[1], .newfd = 77 };
    CHECK(ioctl(fd, ADD_DESCRIPTOR, &add) == 77);
    answer(fd, q, 77, 0, 0);
    CHECK(read(p[0], text, 1) == 1 && *text == '!');
    q = next_question(fd);
    CHECK(q.data.args[0] == 3 && ioctl(fd, SECCOMP_IOCTL_NOTIF_ID_VALID, &q.id) == 0);
    /* The child's alarm ends its call. */
    for (double until = now() + 60; ioctl(fd, SECCOMP_IOCTL_NOTIF_ID_VALID, &q.id) == 0 && now() < until;) usleep(1000);
    CHECK(ioctl(fd, SECCOMP_IOCTL_NOTIF_ID_VALID, &q.id) == -1 && errno == ENOENT);
    struct answered late = { .id = q.id };
    CHECK(ioctl(fd, SECCOMP_IOCTL_NOTIF_SEND, &late) == -1 && errno == ENOENT);
    CHECK(write(go[1], "g", 1) == 1);
    answer(fd, next_question(fd), 0, 0, GO_ON);
    answer(fd, next_question(fd), 0, -EIO, 0);
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 3);
    struct pollfd hung = { fd, POLLIN, 0 };
    CHECK(poll(&hung, 1, 60000) == 1 && hung.revents & POLLHUP);
}

static const struct probe probes[] = {
    { "for_all_threads", for_all_threads }, { "asked_by_a_thread", asked_by_a_thread },
    { "asked_by_another_process", asked_by_another_process },
    /* part of the above */
    { "asking_child", asking_child },
};
PROBE_MAIN(probes)
