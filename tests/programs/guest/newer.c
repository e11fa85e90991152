/* Calls that QEMU's user mode answers with ENOSYS: newer ones, namespaces, filters. A kernel or container that lacks one says so
 * natively as well; the probe is then "absent" on both sides. */
#include "probe.h"
#include <linux/aio_abi.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <setjmp.h>
#include <stddef.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/utsname.h>

/* The same on all architectures since Linux 5.1. */
enum { NR_epoll_pwait2 = 441, NR_landlock_create_ruleset = 444, NR_futex_waitv = 449, NR_statmount = 457, NR_listmount = 458, NR_mseal = 462 };

struct clone_arguments { uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, cgroup; };

static void clone3_process(void) {
    int pidfd = -1, status;
    pid_t parent_tid = 0;
    struct clone_arguments a = { .flags = CLONE_PIDFD | CLONE_PARENT_SETTID, .pidfd = (uintptr_t)&pidfd, .parent_tid = (uintptr_t)&parent_tid, .exit_signal = SIGCHLD };
    long child = syscall(SYS_clone3, &a, sizeof a);
    if (child < 0 && (errno == ENOSYS || errno == EPERM)) absent();
    if (!child) _exit(21);
    CHECK(child > 0 && parent_tid == child && pidfd > 2);
    siginfo_t info;
    CHECK(waitid(P_PIDFD, (id_t)pidfd, &info, WEXITED | WNOWAIT) == 0 && info.si_pid == child && info.si_status == 21);
    CHECK(waitpid((pid_t)child, &status, 0) == child && WEXITSTATUS(status) == 21);
    a.exit_signal = 65;
    CHECK(syscall(SYS_clone3, &a, sizeof a) == -1 && errno == EINVAL);
    CHECK(syscall(SYS_clone3, &a, 8) == -1 && errno == EINVAL);
}

static void vectors_with_flags(void) {
    char name[] = "/tmp/probe-XXXXXX", a[4] = "", b[8] = "";
    int fd = mkstemp(name);
    CHECK(fd >= 0 && unlink(name) == 0);
    struct iovec out[] = { { "one", 3 }, { "two22", 5 } }, in[] = { { a, 3 }, { b, 5 } };
    const off64_t far = 0x123456789LL;
    CHECK(pwritev64v2(fd, out, 2, far, 0) == 8 && pwritev64v2(fd, out, 1, -1, RWF_APPEND) == 3);
    CHECK(preadv64v2(fd, in, 2, far, 0) == 8 && !strcmp(a, "one") && !strcmp(b, "two22"));
    CHECK(preadv64v2(fd, in, 1, far + 8, 0) == 3 && !strcmp(a, "one"));
    CHECK(preadv64v2(fd, in, 1, 0, 1 << 30) == -1 && errno == EOPNOTSUPP);
    CHECK(lseek64(fd, far, SEEK_SET) == far && preadv64v2(fd, in, 1, -1, 0) == 3 && lseek64(fd, 0, SEEK_CUR) == far + 3);
}

struct waiter { uint64_t value, address; uint32_t flags, reserved; };
static uint32_t words[2];
static void *wake_second(void *p) {
    usleep(20000);
    __atomic_store_n(&words[1], 1, __ATOMIC_SEQ_CST);
    while (syscall(SYS_futex, &words[1], FUTEX_WAKE | FUTEX_PRIVATE_FLAG, 1, 0, 0, 0) == 0) usleep(1000);
    return p;
}
static void wait_for_two_words(void) {
    struct waiter w[2] = { { 0, (uintptr_t)&words[0], 2 | FUTEX_PRIVATE_FLAG, 0 }, { 0, (uintptr_t)&words[1], 2 | FUTEX_PRIVATE_FLAG, 0 } };
    struct { int64_t seconds, nanoseconds; } past = { 1, 0 };
    long r = syscall(NR_futex_waitv, w, 2, 0, &past, CLOCK_MONOTONIC);
    if (r < 0 && errno == ENOSYS) absent();
    CHECK(r == -1 && errno == ETIMEDOUT);
    w[0].value = 1;
    CHECK(syscall(NR_futex_waitv, w, 2, 0, 0, CLOCK_MONOTONIC) == -1 && errno == EAGAIN);
    w[0].value = 0;
    pthread_t t;
    CHECK(pthread_create(&t, 0, wake_second, 0) == 0);
    CHECK(syscall(NR_futex_waitv, w, 2, 0, 0, CLOCK_MONOTONIC) == 1);
    pthread_join(t, 0);
}

static void epoll_with_nanoseconds(void) {
    int p[2], e = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event want = { .events = EPOLLIN, .data.u64 = 0x1122334455667788ULL }, got[2];
    struct { int64_t seconds, nanoseconds; } soon = { 0, 3000000 };
    CHECK(e >= 0 && pipe(p) == 0 && epoll_ctl(e, EPOLL_CTL_ADD, p[0], &want) == 0);
    double begin = now();
    long r = syscall(NR_epoll_pwait2, e, got, 2, &soon, 0, 0);
    if (r < 0 && errno == ENOSYS) absent();
    CHECK(r == 0 && now() - begin >= 0.003);
    CHECK(write(p[1], "x", 1) == 1 && syscall(NR_epoll_pwait2, e, got, 2, 0, 0, 0) == 1);
    CHECK(got[0].events == EPOLLIN && got[0].data.u64 == 0x1122334455667788ULL);
}

static void memory_of_a_child(void) {
    static char text[6] = "first";
    char copy[6] = "", where[2] = "";
    int hold[2];
    CHECK(pipe(hold) == 0);
    pid_t child = fork();
    if (!child) { char c; strcpy(text, "child"); close(hold[1]); while (read(hold[0], &c, 1) > 0) {} _exit(text[0] == 'C'); }
    close(hold[0]);
    struct iovec here[] = { { copy, 2 }, { copy + 2, 4 } }, there = { text, 6 };
    for (double until = now() + 60; strcmp(copy, "child") && now() < until;) {
        ssize_t n = process_vm_readv(child, here, 2, &there, 1, 0);
        if (n < 0 && (errno == ENOSYS || errno == EPERM)) { kill(child, SIGKILL); absent(); }
        CHECK(n == 6);
    }
    CHECK(!strcmp(copy, "child") && !strcmp(text, "first"));
    struct iovec new = { "C", 1 }, bad = { where, 1 };
    there.iov_len = 1;
    CHECK(process_vm_writev(child, &new, 1, &there, 1, 0) == 1);
    there.iov_base = (void *)8;
    CHECK(process_vm_readv(child, &bad, 1, &there, 1, 0) == -1 && errno == EFAULT);
    int status;
    close(hold[1]);
    CHECK(waitpid(child, &status, 0) == child && WEXITSTATUS(status) == 1);
}

static void asynchronous_io(void) {
    char name[] = "/tmp/probe-XXXXXX", text[] = "written later", back[sizeof text] = "";
    int fd = mkstemp(name);
    CHECK(fd >= 0 && unlink(name) == 0);
    aio_context_t context = 0;
    long r = syscall(SYS_io_setup, 4, &context);
    if (r < 0 && errno == ENOSYS) absent();
    CHECK(r == 0 && context);
    struct iocb one = { .aio_data = 11, .aio_lio_opcode = IOCB_CMD_PWRITE, .aio_fildes = (uint32_t)fd, .aio_buf = (uintptr_t)text, .aio_nbytes = sizeof text, .aio_offset = 5 };
    struct iocb two = { .aio_data = 22, .aio_lio_opcode = IOCB_CMD_PREAD, .aio_fildes = (uint32_t)fd, .aio_buf = (uintptr_t)back, .aio_nbytes = sizeof back, .aio_offset = 5 };
    struct iocb *list[] = { &one };
    struct io_event done[2];
    CHECK(syscall(SYS_io_submit, context, 1, list) == 1 && syscall(SYS_io_getevents, context, 1, 2, done, 0) == 1);
    CHECK(done[0].data == 11 && done[0].obj == (uintptr_t)&one && done[0].res == sizeof text);
    list[0] = &two;
    CHECK(syscall(SYS_io_submit, context, 1, list) == 1 && syscall(SYS_io_getevents, context, 1, 2, done, 0) == 1);
    CHECK(done[0].data == 22 && done[0].res == sizeof text && !strcmp(back, text));
    CHECK(syscall(SYS_io_destroy, context) == 0 && syscall(SYS_io_destroy, context) == -1 && errno == EINVAL);
}

static void locked_pages(void) {
    char *p = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(p != MAP_FAILED);
    CHECK(mlock2(p, 4096, MLOCK_ONFAULT) == 0 && mlock2(p, 8192, 0) == 0 && munlock(p, 8192) == 0);
    CHECK(mlock2(p, 4096, 64) == -1 && errno == EINVAL);
    CHECK(munmap(p + 4096, 4096) == 0 && mlock2(p, 8192, 0) == -1 && errno == ENOMEM);
}

static long locked_now(void) {
    char line[256];
    long kib = -1;
    FILE *f = fopen("/proc/self/status", "r");
    CHECK(f);
    while (fgets(line, sizeof line, f)) sscanf(line, "VmLck: %ld", &kib);
    fclose(f);
    return kib;
}

/* Everything of the program, and what it maps later, until it does not want that any more. A child begins without. */
static void all_pages_locked(void) {
    const size_t size = 64 << 10;
    CHECK(mlockall(0) == -1 && errno == EINVAL && mlockall(64) == -1 && errno == EINVAL && mlockall(MCL_ONFAULT) == -1 && errno == EINVAL);
    CHECK(locked_now() == 0);
    char *before = mmap(0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(mlockall(MCL_CURRENT) == 0);
    long current = locked_now();
    unsigned char in[16];
    CHECK(current >= 64 && mincore(before, size, in) == 0);
    for (int i = 0; i < 16; i++) CHECK(in[i] & 1);
    char *after = mmap(0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(locked_now() == current && munmap(after, size) == 0);
    CHECK(mlockall(MCL_CURRENT | MCL_FUTURE) == 0 && (current = locked_now()) >= 64);
    after = mmap(0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(mincore(after, size, in) == 0 && (in[0] & in[15] & 1) && locked_now() == current + 64);
    int status;
    pid_t child = fork();
    if (!child) {
        CHECK(locked_now() == 0 && mmap(0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED && locked_now() == 0);
        _exit(0);
    }
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    CHECK(munmap(after, size) == 0 && locked_now() == current);
    CHECK(munlockall() == 0 && locked_now() == 0);
    CHECK(mmap(0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED && locked_now() == 0);
}

/* Pages that the kernel guards inside of a mapping: no SIGBUS, and no protection that the map knows. */
static volatile sig_atomic_t guard_signal, guard_code;
static char *volatile guard_address;
static sigjmp_buf guard_out;
static void on_guard(int sig, siginfo_t *info, void *context) {
    (void)context;
    guard_signal = sig;
    guard_code = info->si_code;
    guard_address = info->si_addr;
    siglongjmp(guard_out, 1);
}
static void guarded_pages(void) {
    volatile char *p = mmap(0, 3 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(p != MAP_FAILED);
    p[0] = p[4096] = p[8192] = 1;
    if (madvise((char *)p + 4096, 4096, 102 /* MADV_GUARD_INSTALL */) < 0 && errno == EINVAL) absent();
    struct sigaction a = { .sa_sigaction = on_guard, .sa_flags = SA_SIGINFO };
    CHECK(sigaction(SIGSEGV, &a, 0) == 0 && sigaction(SIGBUS, &a, 0) == 0);
    for (int writes = 0; writes < 2; writes++) {
        guard_signal = 0;
        if (!sigsetjmp(guard_out, 1)) {
            if (writes) p[4096 + 5] = 1;
            else (void)p[4096 + 5];
        }
        CHECK(guard_signal == SIGSEGV && guard_code == 1 /* SEGV_MAPERR */ && guard_address == p + 4096 + 5);
    }
    int to[2];
    CHECK(pipe(to) == 0 && write(to[1], (char *)p + 4096, 1) == -1 && errno == EFAULT);
    CHECK(p[0] == 1 && p[8192] == 1 && madvise((char *)p + 4096, 4096, 103 /* MADV_GUARD_REMOVE */) == 0 && p[4096] == 0);
    /* Beyond the end of a file it is SIGBUS still. */
    char name[] = "/tmp/probe-XXXXXX";
    int fd = mkstemp(name);
    CHECK(fd >= 0 && unlink(name) == 0);
    volatile char *f = mmap(0, 4096, PROT_READ, MAP_SHARED, fd, 0);
    if (!sigsetjmp(guard_out, 1)) (void)f[7];
    CHECK(guard_signal == SIGBUS && guard_code == 2 /* BUS_ADRERR */ && guard_address == f + 7);
}

/* Who has not registered is refused. An emulator may have, once there were threads that use exclusives. */
static void *count_up(void *counter) {
    return __atomic_fetch_add((int *)counter, 1, __ATOMIC_SEQ_CST), NULL;
}
static void barriers(void) {
    const int registrations[] = { 16, 64, 256 };
    int counter = 0;
    for (int i = 0; i < 4; i++) {
        pthread_t thread;
        CHECK(pthread_create(&thread, 0, count_up, &counter) == 0);
        __atomic_fetch_add(&counter, 1, __ATOMIC_SEQ_CST);
        CHECK(pthread_join(thread, 0) == 0);
    }
    CHECK(counter == 8);
    int known = syscall(SYS_membarrier, 0, 0, 0);
    if (known < 0) absent();
    for (int i = 0; i < 3; i++) {
        int wanted = registrations[i], barrier = wanted >> 1;
        if (!(known & barrier)) continue;
        CHECK(syscall(SYS_membarrier, barrier, 0, 0) == -1 && errno == EPERM);
        CHECK(syscall(SYS_membarrier, wanted, 0, 0) == 0 && syscall(SYS_membarrier, barrier, 0, 0) == 0);
        if (i == 0 && known & 512) CHECK(syscall(SYS_membarrier, 512, 0, 0) == wanted);
    }
    CHECK(syscall(SYS_membarrier, 12345, 0, 0) == -1 && errno == EINVAL && syscall(SYS_membarrier, 8, 77, 0) == -1 && errno == EINVAL);
    int status;
    pid_t child = fork();
    if (!child) _exit(syscall(SYS_membarrier, 8, 0, 0) == 0 ? 0 : 1);
    CHECK(waitpid(child, &status, 0) == child && status == 0);
}

static void sealed_mappings(void) {
    char *p = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(p != MAP_FAILED);
    if (syscall(NR_mseal, p, 4096, 0) < 0 && (errno == ENOSYS || errno == EPERM)) absent();
    CHECK(mprotect(p, 4096, PROT_READ) == -1 && errno == EPERM && munmap(p, 8192) == -1 && errno == EPERM);
    CHECK(mmap(p, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED && errno == EPERM);
    CHECK(munmap(p + 4096, 4096) == 0);
    p[0] = 1;
}

/* What a filter says happens: an error number, a signal with the call's number, the end of the process. */
static volatile sig_atomic_t trapped;
static void on_sys(int s, siginfo_t *i, void *c) { (void)s; (void)c; trapped = i->si_code == 1 /* SYS_SECCOMP */ && i->si_syscall == __NR_getuid ? i->si_errno : -1; }
static void filters(void) {
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_getppid, 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENETDOWN),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_getuid, 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP | 77),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_sync, 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[0])), BPF_STMT(BPF_ALU | BPF_AND | BPF_K, 0xff00),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0x4200, 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EXDEV),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = { sizeof code / sizeof *code, code };
    struct sigaction a = { .sa_sigaction = on_sys, .sa_flags = SA_SIGINFO };
    int status;
    CHECK(sigaction(SIGSYS, &a, 0) == 0);
    pid_t child = fork();
    CHECK(child >= 0);
    if (!child) {
        CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
        code[11].code = 0xffff;
        CHECK(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) == -1 && errno == EINVAL);
        code[11].code = BPF_RET | BPF_K;
        CHECK(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) == 0 && prctl(PR_GET_SECCOMP) == 2);
        CHECK(syscall(SYS_getppid) == -1 && errno == ENETDOWN);
        syscall(SYS_getuid);
        CHECK(trapped == 77);
        CHECK(close(0x4242) == -1 && errno == EXDEV && close(0x4342) == -1 && errno == EBADF);
        sync();
        _exit(99);
    }
    CHECK(waitpid(child, &status, 0) == child && WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS);
}

static void namespaces(void) {
    int status;
    pid_t child = fork();
    CHECK(child >= 0);
    if (!child) {
        struct utsname u;
        if (unshare(CLONE_NEWUSER | CLONE_NEWUTS) != 0) _exit(errno == EPERM || errno == ENOSPC || errno == EINVAL ? 77 : 1);
        CHECK(sethostname("inside", 6) == 0 && uname(&u) == 0 && !strcmp(u.nodename, "inside"));
        /* A child in a number space of its own is number 1 there. */
        pid_t first = (pid_t)syscall(SYS_clone, CLONE_NEWPID | SIGCHLD, 0, 0, 0, 0);
        if (!first) _exit(getpid() == 1 ? 5 : 6);
        CHECK(first > 0 && waitpid(first, &status, 0) == first && WEXITSTATUS(status) == 5);
        _exit(0);
    }
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status));
    if (WEXITSTATUS(status) == 77) absent();
    CHECK(WEXITSTATUS(status) == 0);
    struct utsname u;
    CHECK(uname(&u) == 0 && strcmp(u.nodename, "inside"));
}

static void mounts(void) {
    struct { uint32_t size, spare; uint64_t id, parameter, ns; } request = { 24, 0, 0, 0, 0 };
    uint64_t ids[4];
    uint64_t answer[512];
    struct statx s;
    request.id = UINT64_MAX; /* the root */
    long n = syscall(NR_listmount, &request, ids, 4, 0);
    if (n < 0 && (errno == ENOSYS || errno == EPERM)) absent();
    CHECK(n > 0);
    CHECK(statx(AT_FDCWD, "/proc", 0, 0x4000 /* STATX_MNT_ID_UNIQUE */, &s) == 0);
    request.id = *(uint64_t *)((char *)&s + 144);
    request.parameter = 1 /* STATMOUNT_SB_BASIC */ | 0x20 /* STATMOUNT_FS_TYPE */;
    CHECK(syscall(NR_statmount, &request, answer, sizeof answer, 0) == 0);
    uint32_t *head = (uint32_t *)answer;
    CHECK((answer[1] & 0x21) == 0x21 && !strcmp((char *)answer + 512 + head[9], "proc"));
}

static void landlock_version(void) {
    long version = syscall(NR_landlock_create_ruleset, 0, 0, 1);
    if (version < 0 && (errno == ENOSYS || errno == EOPNOTSUPP)) absent();
    CHECK(version >= 1);
    uint64_t handled = 1 << 3; /* LANDLOCK_ACCESS_FS_READ_DIR */
    int status, rules = (int)syscall(NR_landlock_create_ruleset, &handled, sizeof handled, 0);
    CHECK(rules > 2);
    pid_t child = fork();
    if (!child) {
        CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && syscall(446, rules, 0) == 0);
        CHECK(open("/tmp", O_RDONLY | O_DIRECTORY) == -1 && errno == EACCES);
        _exit(0);
    }
    CHECK(waitpid(child, &status, 0) == child && status == 0);
}

static volatile int told_fd, told_code;
static void on_ready(int sig, siginfo_t *info, void *context) {
    (void)sig; (void)context;
    told_fd = info->si_fd;
    told_code = info->si_code;
}

/* Attributes by directory and name, Linux 6.13 and 6.17. */
static void attributes_at(void) {
    char name[] = "/tmp/probe-XXXXXX", back[8] = "", list[256] = "", *base = "file";
    CHECK(mkdtemp(name));
    int dir = open(name, O_RDONLY | O_DIRECTORY), fd = openat(dir, base, O_CREAT | O_WRONLY, 0600);
    CHECK(fd >= 0 && dir >= 0);
    struct { uint64_t value; uint32_t size, flags; } args = { (uintptr_t)"value", 5, 0 };
    long r = syscall(463 /* setxattrat */, dir, base, 0, "user.probe", &args, sizeof args);
    if (r < 0 && (errno == ENOSYS || errno == EOPNOTSUPP)) { unlinkat(dir, base, 0); rmdir(name); absent(); }
    CHECK(r == 0);
    args.value = (uintptr_t)back;
    args.size = sizeof back;
    CHECK(syscall(464 /* getxattrat */, dir, base, 0, "user.probe", &args, sizeof args) == 5 && !strcmp(back, "value"));
    CHECK(syscall(464, dir, base, 0, "user.probe", &args, 8) == -1 && errno == EINVAL);
    CHECK(syscall(465 /* listxattrat */, dir, base, 0, list, sizeof list) >= 11 && memmem(list, sizeof list, "user.probe", 11));
    CHECK(syscall(466 /* removexattrat */, dir, base, 0, "user.probe") == 0);
    CHECK(syscall(464, dir, base, 0, "user.probe", &args, sizeof args) == -1 && errno == ENODATA);
    uint64_t flags[4] = { 0 };
    r = syscall(468 /* file_getattr */, dir, base, flags, 24, 0);
    CHECK(r == 0 ? syscall(469 /* file_setattr */, dir, base, flags, 24, 0) == 0 : errno == ENOSYS || errno == EOPNOTSUPP);
    CHECK(unlinkat(dir, base, 0) == 0 && rmdir(name) == 0);
    CHECK((fd = open("/proc/self/ns/mnt", O_RDONLY)) >= 0);
    r = ioctl(fd, _IOR(0xb7, 5, uint64_t) /* NS_GET_MNTNS_ID */, flags);
    CHECK(r == 0 ? flags[0] != 0 : errno == ENOTTY);
}

/* What the Linux Test Project found. */
static void details(void) {
    int p[2], on = 35, fd;
    CHECK(pipe(p) == 0);
    struct sigaction a = { .sa_sigaction = on_ready, .sa_flags = SA_SIGINFO };
    CHECK(sigaction(on, &a, 0) == 0);
    CHECK(fcntl(p[0], F_SETSIG, on) == 0 && fcntl(p[0], F_SETOWN, getpid()) == 0 && fcntl(p[0], F_SETFL, O_ASYNC) == 0);
    CHECK(write(p[1], "x", 1) == 1 && told_fd == p[0] && told_code == POLL_IN);
    CHECK(fcntl(p[0], F_SETFL, 0) == 0);
    fd = syscall(434 /* pidfd_open */, getpid(), 0);
    CHECK(fd >= 0 || errno == ENOSYS);
    siginfo_t info = { .si_signo = SIGUSR1, .si_code = SI_QUEUE };
    CHECK(fd < 0 || (syscall(424 /* pidfd_send_signal */, fd, SIGUSR2, &info, 0) == -1 && errno == EINVAL));
    CHECK(mmap(0, 0, PROT_READ, MAP_SHARED, 999, 0) == MAP_FAILED && errno == EBADF);
    CHECK(mmap(0, 0, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED && errno == EINVAL);
    CHECK(mmap(0, 4096, PROT_READ, ~0, p[0], 0) == MAP_FAILED && errno == EINVAL);
#ifdef __arm__
    CHECK(syscall(SYS_mmap2, 0, 0xfffff000, PROT_READ, MAP_SHARED, p[0], 0xfffff000) == -1 && errno == EOVERFLOW);
#endif
    CHECK(syscall(SYS_io_cancel, 12345, 0, 0) == -1 && errno == EFAULT);
    CHECK(syscall(449 /* futex_waitv */, 0, 1, 0, 0, CLOCK_MONOTONIC) == -1 && (errno == EINVAL || errno == ENOSYS));
    CHECK((fd = open("/proc/self/maps", O_RDONLY)) > 0 && (fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDONLY && write(fd, "x", 1) == -1 && errno == EBADF);
    uint64_t no_magic_links[3] = { O_RDONLY, 0, 2 };
    CHECK(syscall(437 /* openat2 */, AT_FDCWD, "/proc/self/exe", no_magic_links, sizeof no_magic_links) == -1);
    CHECK(errno == ELOOP || errno == ENOSYS);
    /* A sister, whose end is our parent's business: she is waited for by a pipe. */
    char c;
    pid_t child = fork();
    if (!child) {
        long sister = syscall(SYS_clone, CLONE_PARENT | SIGCHLD, 0, 0, 0, 0);
        if (sister > 0) _exit(0);
        _exit(sister == 0 && write(p[1], "y", 1) == 1 ? 0 : 1);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    CHECK(waitpid(-1, &status, 0) > 0 && status == 0);
    CHECK(read(p[0], &c, 1) == 1 && read(p[0], &c, 1) == 1 && c == 'y');
}

#ifdef __arm__
/* Not there, as in QEMU: programs fall back. */
static void refused(void) {
    char room[64] = "";
    CHECK(syscall(SYS_userfaultfd, 0) == -1 && errno == ENOSYS);
    CHECK(syscall(425 /* io_uring_setup */, 4, room) == -1 && errno == ENOSYS);
    CHECK(syscall(426, 0, 0, 0, 0, 0, 0) == -1 && errno == ENOSYS && syscall(427, 0, 0, 0, 0) == -1 && errno == ENOSYS);
    CHECK(syscall(SYS_bpf, 0, room, 64) == -1 && errno == ENOSYS && syscall(SYS_ptrace, 0, 0, 0, 0) == -1 && errno == ENOSYS);
    CHECK(syscall(SYS_kexec_load, 0, 0, 0, 0) == -1 && errno == ENOSYS && syscall(9999) == -1 && errno == ENOSYS);
}
#endif

static const struct probe probes[] = {
    { "clone3_process", clone3_process }, { "vectors_with_flags", vectors_with_flags }, { "wait_for_two_words", wait_for_two_words },
    { "epoll_with_nanoseconds", epoll_with_nanoseconds }, { "memory_of_a_child", memory_of_a_child },
    { "asynchronous_io", asynchronous_io }, { "locked_pages", locked_pages }, { "all_pages_locked", all_pages_locked },
    { "guarded_pages", guarded_pages }, { "barriers", barriers }, { "sealed_mappings", sealed_mappings },
    { "filters", filters }, { "namespaces", namespaces }, { "mounts", mounts }, { "landlock_version", landlock_version },
    { "attributes_at", attributes_at }, { "details", details },
#ifdef __arm__
    { "refused", refused },
#endif
};
PROBE_MAIN(probes)
