/* Processes: fork, vfork, spawn, exec, and what /proc says of them. */
#include "probe.h"
#include <poll.h>
#include <spawn.h>
#include <stddef.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/socket.h>
#include <sys/prctl.h>
#include <dirent.h>
#include <linux/filter.h>
#include <linux/seccomp.h>

extern char **environ;

static void vfork_shares_memory(void) {
    volatile int value = 1;
    pid_t child = vfork();
    if (!child) { value = 2; _exit(0); }
    CHECK(child > 0 && value == 2 && waitpid(child, 0, 0) == child);
}
static void spawn_reports_missing(void) {
    char *argv[] = { "x", 0 };
    pid_t pid;
    CHECK(posix_spawn(&pid, "/nonexistent/program", 0, 0, argv, environ) == ENOENT);
    CHECK(posix_spawnp(&pid, "no-such-program-anywhere", 0, 0, argv, environ) == ENOENT);
}
static int run_self(char *const argv[], char *const env[]) {
    int status;
    pid_t child = fork();
    CHECK(child >= 0);
    if (!child) { execve("/proc/self/exe", argv, env); _exit(99); }
    CHECK(waitpid(child, &status, 0) == child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}
/* Run again by exec_keeps_arguments. */
static void child_of_exec(void) {
    char line[256] = "";
    int fd = open("/proc/self/cmdline", O_RDONLY);
    CHECK(getenv("MARK") && !strcmp(getenv("MARK"), "a b=c") && !getenv("PATH"));
    CHECK(read(fd, line, sizeof line) > 0 && !strcmp(line, "odd name") && !strcmp(line + 9, "child_of_exec"));
    exit(33);
}
static void exec_keeps_arguments(void) {
    char *argv[] = { "odd name", "child_of_exec", "", "-L", "x y", 0 }, *env[] = { "MARK=a b=c", 0 };
    CHECK(run_self(argv, env) == 33);
}
static void exec_by_descriptor(void) {
    int status, fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    char *argv[] = { "odd name", "child_of_exec", 0 }, *env[] = { "MARK=a b=c", 0 };
    CHECK(fd >= 0);
    pid_t child = fork();
    CHECK(child >= 0);
    if (!child) { fexecve(fd, argv, env); _exit(99); }
    CHECK(waitpid(child, &status, 0) == child && WEXITSTATUS(status) == 33);
}
static void exec_errors(void) {
    char *argv[] = { "x", 0 };
    CHECK(execv("/nonexistent", argv) == -1 && errno == ENOENT);
    CHECK(execv("/", argv) == -1 && errno == EACCES);
    CHECK(execv("/dev/null", argv) == -1 && errno == EACCES);
    char name[] = "/tmp/probe-XXXXXX";
    int fd = mkstemp(name);
    CHECK(fd >= 0 && write(fd, "\177ELFgarbage", 11) == 11 && fchmod(fd, 0755) == 0 && close(fd) == 0);
    int failed = execv(name, argv), why = errno;
    unlink(name);
    errno = why;
    CHECK(failed == -1 && why == ENOEXEC);
}
/* A thread's exec replaces the whole process. */
static void *exec_now(void *p) { char *argv[] = { "odd name", "child_of_exec", 0 }, *env[] = { "MARK=a b=c", 0 }; execve("/proc/self/exe", argv, env); return p; }
static void exec_from_a_thread(void) {
    int status;
    pid_t child = fork();
    CHECK(child >= 0);
    if (!child) { pthread_t t; pthread_create(&t, 0, exec_now, 0); for (;;) pause(); }
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 33);
}
static char *environ_at_start;
static void __attribute__((constructor)) note_environ(void) { environ_at_start = environ && environ[0] ? environ[0] : ""; }
static void proc_files(void) {
    char line[512], exe[256];
    FILE *f = fopen("/proc/self/maps", "r");
    void *here = (void *)proc_files;
    int found = 0, stack = 0;
    CHECK(f);
    while (fgets(line, sizeof line, f)) {
        unsigned long from, to;
        CHECK(sscanf(line, "%lx-%lx", &from, &to) == 2);
        if ((unsigned long)here >= from && (unsigned long)here < to) found += strstr(line, "r-xp") != 0;
        if ((unsigned long)&found >= from && (unsigned long)&found < to) stack += strstr(line, "[stack]") != 0;
    }
    fclose(f);
    CHECK(found == 1 && stack == 1);
    ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
    CHECK(n > 0);
    exe[n] = 0;
    CHECK(strstr(exe, "processes"));
    int pid = 0;
    f = fopen("/proc/self/stat", "r");
    CHECK(f && fscanf(f, "%d (%255[^)])", &pid, line) == 2 && pid == getpid());
    fclose(f);
    unsigned long size, resident, from, to, code = (unsigned long)here;
    f = fopen("/proc/self/stat", "r");
    CHECK(f && fgets(line, sizeof line, f));
    fclose(f);
    /* The fields 26 and 27, counted from behind the name. */
    char *at = strrchr(line, ')');
    for (int field = 2; at && field < 26; field++) at = strchr(at + 1, ' ');
    CHECK(at && sscanf(at, "%lu %lu", &from, &to) == 2 && from <= code && code < to);
    f = fopen("/proc/self/environ", "r");
    CHECK(setenv("PROBE_LATER", "1", 1) == 0);
    n = f ? (ssize_t)fread(line, 1, sizeof line, f) : 0;
    CHECK(n > 0 && line[0] && !memcmp(line, environ_at_start, strlen(environ_at_start) + 1) && !memmem(line, (size_t)n, "PROBE_LATER", 11));
    fclose(f);
    f = fopen("/proc/self/statm", "r");
    CHECK(f && fscanf(f, "%lu %lu", &size, &resident) == 2 && size < 1ul << 19);
    fclose(f);
}
static void child_command_line(void) {
    char path[64], line[256] = "";
    int hold[2];
    CHECK(pipe(hold) == 0);
    pid_t child = fork();
    CHECK(child >= 0);
    if (!child) { dup2(hold[0], 0); close(hold[1]); char *argv[] = { "visible", "wait_for_end", 0 }; execve("/proc/self/exe", argv, environ); _exit(99); }
    close(hold[0]);
    snprintf(path, sizeof path, "/proc/%d/cmdline", child);
    for (double until = now() + 60; now() < until && strcmp(line, "visible"); usleep(1000)) {
        int fd = open(path, O_RDONLY);
        CHECK(fd >= 0);
        ssize_t n = read(fd, line, sizeof line - 1);
        line[n > 0 ? n : 0] = 0;
        close(fd);
    }
    CHECK(!strcmp(line, "visible"));
    close(hold[1]);
    CHECK(waitpid(child, 0, 0) == child);
}
static void wait_for_end(void) { char c; while (read(0, &c, 1) > 0) {} _exit(0); }
/* Run again by filter_survives_exec. */
static void filtered_child(void) {
    int fd = open("/dev/null", O_RDONLY);
    CHECK(fd == 3 && prctl(PR_GET_SECCOMP) == 2);
    CHECK(syscall(SYS_getppid) == -1 && errno == EXDEV && syscall(SYS_getpid) > 0);
    exit(34);
}
static void filter_survives_exec(void) {
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_getppid, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EXDEV), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = { sizeof code / sizeof *code, code };
    int status;
    pid_t child = fork();
    CHECK(child >= 0);
    if (!child) {
        char *argv[] = { "processes", "filtered_child", 0 };
        CHECK(!prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) && !prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program));
        CHECK(syscall(SYS_getppid) == -1 && errno == EXDEV);
        CHECK(execv("/nonexistent", argv) == -1);
        execv("/proc/self/exe", argv);
        _exit(99);
    }
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 34);
}
static int shared_value;
static int child_in_our_memory(void *p) { shared_value = (int)(intptr_t)p; return 7; }
static void clone_with_shared_memory(void) {
    int status;
    char *stack = malloc(65536);
    pid_t child = clone(child_in_our_memory, stack + 65536, CLONE_VM | SIGCHLD, (void *)41);
    CHECK(child > 0 && waitpid(child, &status, 0) == child && WEXITSTATUS(status) == 7 && shared_value == 41);
}
/* CLONE_SIGHAND without CLONE_THREAD, and a descriptor for the child. */
static void on_other(int sig) { shared_value = sig; }
static int go_on[2];
static int child_with_our_dispositions(void *p) {
    char c;
    signal(SIGUSR1, on_other);
    shared_value = 5;
    if (read(go_on[0], &c, 1) != 1) return 1;
    /* What the parent has set meanwhile is ours, too. */
    struct sigaction a;
    if (sigaction(SIGUSR2, 0, &a) != 0 || a.sa_handler != SIG_IGN) return 2;
    /* What comes after execve is not the parent's any more. */
    char *argv[] = { "odd name", "child_of_exec", 0 }, *env[] = { "MARK=a b=c", 0 };
    execve("/proc/self/exe", argv, env);
    return p != 0;
}
static int child_that_compares(void *p) {
    (void)p;
    long same = syscall(SYS_kcmp, getpid(), getppid(), 6 /* KCMP_SYSVSEM */, 0, 0);
    return same < 0 ? 9 : (int)same;
}
static void shared_dispositions(void) {
    int status, pidfd = -1;
    char *stack = malloc(65536);
    CHECK(pipe(go_on) == 0);
    pid_t child = clone(child_with_our_dispositions, stack + 65536, CLONE_VM | CLONE_SIGHAND | CLONE_PIDFD | SIGCHLD, 0, &pidfd);
    CHECK(child > 0 && pidfd > 2);
    for (double until = now() + 60; __atomic_load_n(&shared_value, __ATOMIC_SEQ_CST) != 5 && now() < until;) usleep(1000);
    struct sigaction a;
    CHECK(sigaction(SIGUSR1, 0, &a) == 0 && a.sa_handler == on_other && signal(SIGUSR2, SIG_IGN) == SIG_DFL);
    CHECK(write(go_on[1], "x", 1) == 1 && waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 33);
    struct pollfd ended = { pidfd, POLLIN, 0 };
    CHECK(poll(&ended, 1, 0) == 1);
    CHECK(raise(SIGUSR1) == 0 && shared_value == SIGUSR1);
    /* System V undo lists are compared by kcmp. */
    child = clone(child_that_compares, stack + 65536, CLONE_SYSVSEM | SIGCHLD, 0);
    CHECK(child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) && (WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == 9));
    CHECK(syscall(SYS_clone, CLONE_SIGHAND | SIGCHLD, 0, 0, 0, 0) == -1 && errno == EINVAL);
}
static void cleared_dispositions(void) {
    uint64_t arguments[8] = { 1ULL << 32 /* CLONE_CLEAR_SIGHAND */, 0, 0, 0, SIGCHLD };
    CHECK(signal(SIGUSR1, on_other) == SIG_DFL && signal(SIGUSR2, SIG_IGN) == SIG_DFL);
    long child = syscall(SYS_clone3, arguments, sizeof arguments);
    if (child < 0 && (errno == ENOSYS || errno == EPERM)) absent();
    if (!child) _exit(signal(SIGUSR1, SIG_DFL) == SIG_DFL && signal(SIGUSR2, SIG_DFL) == SIG_IGN ? 8 : 1);
    int status;
    CHECK(child > 0 && waitpid((pid_t)child, &status, 0) == child && WEXITSTATUS(status) == 8);
    CHECK(signal(SIGUSR1, SIG_DFL) == on_other);
    arguments[0] |= CLONE_SIGHAND | CLONE_VM;
    CHECK(syscall(SYS_clone3, arguments, sizeof arguments) == -1 && errno == EINVAL);
    arguments[0] = 1ULL << 40;
    CHECK(syscall(SYS_clone3, arguments, sizeof arguments) == -1 && errno == EINVAL);
}
/* Threads that do not share the directory or the descriptors. */
static int apart_step, apart_fd;
static char apart_directory[] = "/tmp/probe-XXXXXX";
static void reach_step(int step) { while (__atomic_load_n(&apart_step, __ATOMIC_SEQ_CST) < step) usleep(500); }
static void take_step(int step) { __atomic_store_n(&apart_step, step, __ATOMIC_SEQ_CST); }
static int thread_apart(void *p) {
    (void)p;
    char where[64] = "";
    if (syscall(SYS_chdir, apart_directory) != 0) return 1;
    apart_fd = (int)syscall(SYS_openat, AT_FDCWD, ".", O_RDONLY);
    take_step(1);
    reach_step(2);
    if (syscall(SYS_getcwd, where, sizeof where) > 0 && !strcmp(where, apart_directory)) take_step(3);
    return (int)syscall(SYS_exit, 0);
}
static void *thread_that_leaves(void *p) {
    CHECK(unshare(CLONE_FS | CLONE_FILES) == 0 && chdir("/proc") == 0 && close(apart_fd) == 0);
    return p;
}
static void threads_apart(void) {
    char *stack = malloc(65536);
    char before[4096], where[4096];
    CHECK(mkdtemp(apart_directory) && getcwd(before, sizeof before));
    const int alone = CLONE_VM | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM;
    CHECK(clone(thread_apart, stack + 65536, alone, 0) > 0);
    reach_step(1);
    CHECK(apart_fd > 2 && fcntl(apart_fd, F_GETFD) == -1 && errno == EBADF && getcwd(where, sizeof where) && !strcmp(where, before));
    take_step(2);
    reach_step(3);
    /* A thread that shared them until it wanted its own. */
    pthread_t t;
    apart_fd = open("/dev/null", O_RDONLY);
    CHECK(pthread_create(&t, 0, thread_that_leaves, 0) == 0 && pthread_join(t, 0) == 0);
    CHECK(fcntl(apart_fd, F_GETFD) == 0 && getcwd(where, sizeof where) && !strcmp(where, before) && rmdir(apart_directory) == 0);
}
static void parent_settid(void) {
    pid_t tid = -1;
    long child = syscall(SYS_clone, CLONE_PARENT_SETTID | SIGCHLD, 0, &tid, 0, 0);
    if (!child) _exit(0);
    CHECK(child > 0 && tid == child && waitpid((pid_t)child, 0, 0) == child);
}
static void exit_statuses(void) {
    for (int i = 0; i < 256; i += 51) {
        int status;
        pid_t child = fork();
        if (!child) _exit(i);
        CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == i);
    }
    int deadly[] = { SIGSEGV, SIGABRT, SIGKILL, SIGTERM, SIGFPE, SIGBUS, SIGRTMIN };
    for (size_t i = 0; i < sizeof deadly / sizeof *deadly; i++) {
        int status;
        pid_t child = fork();
        if (!child) { struct rlimit none = { 0, 0 }; setrlimit(RLIMIT_CORE, &none); kill(getpid(), deadly[i]); pause(); }
        CHECK(waitpid(child, &status, 0) == child && WIFSIGNALED(status) && WTERMSIG(status) == deadly[i]);
    }
}
static void thousand_short_ones(void) {
    for (int i = 0; i < 1000; i++) {
        int status;
        pid_t child = fork();
        CHECK(child >= 0);
        if (!child) _exit(i & 127);
        CHECK(waitpid(child, &status, 0) == child && WEXITSTATUS(status) == (i & 127));
    }
}
/* Run again by memory_limits, under a limit. */
static void limited_child(void) {
    char line[128];
    struct rlimit now_set;
    int found = 0;
    FILE *f = fopen("/proc/self/limits", "r");
    CHECK(f && getrlimit(RLIMIT_STACK, &now_set) == 0 && now_set.rlim_cur == 4 << 20);
    while (fgets(line, sizeof line, f)) { unsigned long bytes; if (sscanf(line, "Max stack size %lu", &bytes) == 1) found += bytes == 4 << 20; }
    CHECK(found == 1);
    exit(35);
}
static void memory_limits(void) {
    struct rlimit small = { 64 << 20, 64 << 20 }, stack;
    char *argv[] = { "processes", "limited_child", 0 };
    CHECK(getrlimit(RLIMIT_STACK, &stack) == 0);
    stack.rlim_cur = 4 << 20;
    CHECK(setrlimit(RLIMIT_STACK, &stack) == 0 && run_self(argv, environ) == 35);
    CHECK(setrlimit(RLIMIT_AS, &small) == 0);
    CHECK(mmap(0, 200 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED && errno == ENOMEM);
    CHECK(malloc(1 << 20));
}
static void descriptors_passed(void) {
    int pair[2], p[2], got = -1;
    char c = 'd', room[CMSG_SPACE(sizeof(int))];
    struct iovec v = { &c, 1 };
    struct msghdr m = { .msg_iov = &v, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room };
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0 && pipe(p) == 0);
    struct cmsghdr *h = CMSG_FIRSTHDR(&m);
    h->cmsg_level = SOL_SOCKET; h->cmsg_type = SCM_RIGHTS; h->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(h), &p[1], sizeof(int));
    CHECK(sendmsg(pair[0], &m, 0) == 1);
    memset(room, 0, sizeof room);
    CHECK(recvmsg(pair[1], &m, 0) == 1 && (h = CMSG_FIRSTHDR(&m)) && h->cmsg_type == SCM_RIGHTS);
    memcpy(&got, CMSG_DATA(h), sizeof(int));
    CHECK(got > p[1] && write(got, "z", 1) == 1 && read(p[0], &c, 1) == 1 && c == 'z');
}
/* 32-bit programs without large-file support see every entry. */
static void directory_entries(void) {
    char name[] = "/tmp/probe-XXXXXX", path[64];
    CHECK(mkdtemp(name));
    for (int i = 0; i < 300; i++) { snprintf(path, sizeof path, "%s/%d", name, i); close(open(path, O_CREAT | O_WRONLY, 0600)); }
    DIR *d = opendir(name);
    int n = 0;
    long middle = -1;
    errno = 0;
    for (struct dirent *e; (e = readdir(d)); n++) { CHECK(e->d_ino != 0); if (n == 100) middle = telldir(d); }
    CHECK(errno == 0 && n == 302);
    seekdir(d, middle);
    for (n = 0; readdir(d); n++) {}
    CHECK(n == 201);
    closedir(d);
    for (int i = 0; i < 300; i++) { snprintf(path, sizeof path, "%s/%d", name, i); CHECK(unlink(path) == 0); }
    CHECK(rmdir(name) == 0);
}

static const struct probe probes[] = {
    { "vfork_shares_memory", vfork_shares_memory }, { "spawn_reports_missing", spawn_reports_missing },
    { "exec_keeps_arguments", exec_keeps_arguments }, { "exec_by_descriptor", exec_by_descriptor }, { "exec_errors", exec_errors },
    { "exec_from_a_thread", exec_from_a_thread }, { "proc_files", proc_files }, { "child_command_line", child_command_line },
    { "clone_with_shared_memory", clone_with_shared_memory }, { "shared_dispositions", shared_dispositions },
    { "cleared_dispositions", cleared_dispositions }, { "threads_apart", threads_apart }, { "parent_settid", parent_settid }, { "exit_statuses", exit_statuses },
    { "thousand_short_ones", thousand_short_ones }, { "memory_limits", memory_limits }, { "descriptors_passed", descriptors_passed },
    { "directory_entries", directory_entries },
    /* parts of the above */
    { "child_of_exec", child_of_exec }, { "wait_for_end", wait_for_end }, { "filtered_child", filtered_child }, { "limited_child", limited_child },
    { "filter_survives_exec", filter_survives_exec },
};
PROBE_MAIN(probes)
