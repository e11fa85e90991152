/* Programs that mean harm: the emulator must survive whatever they do. Each probe forks one process after another with seeds that
 * count up; what becomes of them is their own business, but the emulator may not die of it: no panic, no fault of its own, no
 * signal that it has not announced.
 *
 *   PROBE_SEED     first seed (1)
 *   PROBE_SECONDS  how long instead of the standard number of seeds
 *   PROBE_SHOW     print every call before it is made
 *
 * The processes run as nobody, in namespaces of their own where that is possible; where it is not, calls that others would notice
 * are left out.
 */
#include "probe.h"
#include <elf.h>
#include <grp.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdarg.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <ucontext.h>

/* ---- chance ------------------------------------------------------------------------------------------------------ */

static uint64_t chance;

static uint32_t any(void) {
    chance ^= chance << 13, chance ^= chance >> 7, chance ^= chance << 17;
    return (uint32_t)(chance >> 16);
}

static uint32_t below(uint32_t n) { return any() % n; }

static uint32_t one_of(const uint32_t *list, size_t n) { return list[below((uint32_t)n)]; }
#define ONE_OF(list) one_of(list, sizeof list / sizeof *list)

/* ---- the process that is watched ---------------------------------------------------------------------------------- */

enum { STANDARD_SEEDS = 40, PATIENCE = 10, TEXT = 1 << 16 };

/* Shared with the children: where they are. */
static volatile struct { uint32_t call, args[6], done; int apart; } *told;
static int errors_to = -1;

/* Gives up what could harm others. */
static void drop_rights(void) {
    int apart = 0;
    const int all = CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNET | CLONE_NEWPID;
    uid_t uid = getuid();
    gid_t gid = getgid();
    if (unshare(all) == 0) {
        apart = 1;
    } else if (unshare(CLONE_NEWUSER | all) == 0) {
        apart = 1;
        char line[64];
        int fd = open("/proc/self/uid_map", O_WRONLY);
        snprintf(line, sizeof line, "65534 %u 1", uid);
        if (fd >= 0 && write(fd, line, strlen(line)) < 0) apart = 0;
        close(fd);
        fd = open("/proc/self/setgroups", O_WRONLY);
        if (fd >= 0 && write(fd, "deny", 4) < 0) apart = 0;
        close(fd);
        fd = open("/proc/self/gid_map", O_WRONLY);
        snprintf(line, sizeof line, "65534 %u 1", gid);
        if (fd >= 0 && write(fd, line, strlen(line)) < 0) apart = 0;
        close(fd);
    }
    told->apart = apart;
    if (apart) {
        mount(0, "/", 0, MS_REC | MS_PRIVATE, 0);
        /* The new process namespace begins with the next child; it is the first process there, whose end is the end of all. */
        pid_t child = fork();
        if (child) {
            int status = 0;
            if (child < 0 || waitpid(child, &status, 0) != child) _exit(99);
            if (WIFSIGNALED(status)) {
                signal(WTERMSIG(status), SIG_DFL);
                struct rlimit none = { 0, 0 };
                setrlimit(RLIMIT_CORE, &none);
                _exit(200 + (WTERMSIG(status) & 31));
            }
            _exit(WEXITSTATUS(status));
        }
    }
    if (getuid() == 0 && (setgroups(0, 0) || setresgid(65534, 65534, 65534) || setresuid(65534, 65534, 65534))) _exit(99);
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
}

static const int CORE_SIGNALS[] = { SIGQUIT, SIGILL, SIGTRAP, SIGABRT, SIGFPE, SIGSEGV, SIGBUS };

/* What the emulator says when it is wrong itself, and when it is not. */
static const char *const BAD[] = { "panicked", "internal fault", "memory allocation of", "stack overflow", "has overflowed its stack", "fatal runtime error", "corrupted", "free():", "malloc(" };

static void judge(uint32_t seed, int status, const char *text) {
    int signal = WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status) > 200 ? WEXITSTATUS(status) - 200 : 0;
    const char *reason = 0;
    for (size_t i = 0; i < sizeof BAD / sizeof *BAD; i++)
        if (strstr(text, BAD[i])) reason = BAD[i];
    for (size_t i = 0; i < sizeof CORE_SIGNALS / sizeof *CORE_SIGNALS; i++)
        if (signal == CORE_SIGNALS[i] && !strstr(text, "uncaught target signal") && !reason) reason = "died without a word";
    if (WIFEXITED(status) && WEXITSTATUS(status) == 101 && !reason) reason = "ended with 101";
    if (!reason) return;
    printf("seed %u: %s, status %#x, after %u calls: %u(%#x, %#x, %#x, %#x, %#x, %#x)\n%s\n", seed, reason, status, told->done, told->call,
           told->args[0], told->args[1], told->args[2], told->args[3], told->args[4], told->args[5], text);
    exit(1);
}

/* Runs `f` with one seed after another. */
static void watch(void (*f)(void), uint32_t standard) {
    told = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    errors_to = memfd_create("errors", MFD_CLOEXEC);
    CHECK(told != MAP_FAILED && errors_to >= 0);
    char directory[] = "hostile-XXXXXX";
    CHECK(mkdtemp(directory) && chmod(directory, 0777) == 0);
    uint32_t first = getenv("PROBE_SEED") ? (uint32_t)strtoul(getenv("PROBE_SEED"), 0, 0) : 1, seed = first, late = 0;
    double until = getenv("PROBE_SECONDS") ? now() + seconds(0) : 0;
    uint64_t calls = 0;
    static char text[TEXT];
    for (; until ? now() < until : seed < first + standard; seed++) {
        CHECK(ftruncate(errors_to, 0) == 0 && lseek(errors_to, 0, SEEK_SET) == 0);
        told->done = 0;
        pid_t child = fork();
        CHECK(child >= 0);
        if (!child) {
            setpgid(0, 0);
            int null = open("/dev/null", O_RDWR);
            dup2(null, 0), dup2(null, 1), dup2(errors_to, 2), close(null);
            if (getenv("PROBE_SHOW")) dup2(2, 1);
            if (chdir(directory)) _exit(99);
            drop_rights();
            setsid();
            chance = seed * 0x9e3779b97f4a7c15u + 0x1234567;
            for (int i = 0; i < 8; i++) any();
            f();
            _exit(0);
        }
        int status = 0;
        double begun = now();
        while (waitpid(child, &status, WNOHANG) == 0) {
            if (now() > begun + PATIENCE) {
                /* A process that waits, or does not end: as it may. Whether it could be helped is for people to see. */
                if (until) printf("seed %u: late, after %u calls: %u(%#x, %#x, %#x, %#x, %#x, %#x)\n", seed, told->done, told->call, told->args[0],
                       told->args[1], told->args[2], told->args[3], told->args[4], told->args[5]);
                late++;
                kill(child, SIGKILL), kill(-child, SIGKILL);
                CHECK(waitpid(child, &status, 0) == child);
                break;
            }
            usleep(2000);
        }
        kill(-child, SIGKILL);
        off_t all = lseek(errors_to, 0, SEEK_END);
        ssize_t n = pread(errors_to, text, sizeof text - 1, all >= TEXT ? all - TEXT + 1 : 0);
        text[n > 0 ? n : 0] = 0;
        calls += told->done < 1000000 ? told->done : 0;
        judge(seed, status, text);
        if (getenv("PROBE_SHOW")) fputs(text, stdout);
    }
    char command[64];
    snprintf(command, sizeof command, "rm -rf %s", directory);
    if (system(command)) puts("the directory stays");
    if (until) printf("%u seeds from %u, %llu calls, %u late\n", seed - first, first, (unsigned long long)calls, late);
}

/* ---- calls --------------------------------------------------------------------------------------------------------- */

enum { PAGE = 4096, BUFFER = 16 * PAGE };

/* Memory of all kinds. */
static char *buffer, *read_only, *forbidden, *edge, *code, *shared, *beyond, *arena;
static int fds[40];
static unsigned fd_count;
static pid_t self, offspring;

long raw_call(uint32_t number, const uint32_t *args, uint32_t forks);
/* A child that such a call makes ends at once, without a stack. */
__asm__(".text\n.arm\n.balign 4\n.globl raw_call\n.type raw_call, %function\nraw_call:\n"
        "push {r4-r8, lr}\nmov r8, r1\nmov r7, r0\nmov r6, r2\nldm r8, {r0-r5}\n"
        "cmp r6, #0\nldreq r6, [r8, #24]\nmovne r6, #1\nsvc #0\n"
        "cmp r6, #1\nbne 1f\ncmp r0, #0\nbne 1f\nmov r7, #1\nsvc #0\n"
        "1: pop {r4-r8, pc}\n");

static void keep(int fd) {
    if (fd >= 0 && fd_count < sizeof fds / sizeof *fds) fds[fd_count++] = fd;
}

static void more_descriptors(void) {
    int two[2];
    if (pipe2(two, O_NONBLOCK) == 0) keep(two[0]), keep(two[1]);
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, two) == 0) keep(two[0]), keep(two[1]);
    if (socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0, two) == 0) keep(two[0]), keep(two[1]);
    keep(socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0)), keep(socket(AF_INET6, SOCK_STREAM | SOCK_NONBLOCK, 0));
    keep(socket(AF_NETLINK, SOCK_RAW | SOCK_NONBLOCK, 0)), keep(epoll_create1(0)), keep(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK));
    sigset_t set;
    sigemptyset(&set), sigaddset(&set, SIGUSR1), sigaddset(&set, SIGSEGV);
    keep(signalfd(-1, &set, SFD_NONBLOCK)), keep(memfd_create("hostile", MFD_ALLOW_SEALING)), keep(eventfd(1, EFD_NONBLOCK));
    int terminal = posix_openpt(O_RDWR | O_NOCTTY | O_NONBLOCK);
    if (terminal >= 0 && grantpt(terminal) == 0 && unlockpt(terminal) == 0) keep(open(ptsname(terminal), O_RDWR | O_NOCTTY | O_NONBLOCK));
    keep(terminal), keep(open(".", O_RDONLY | O_DIRECTORY)), keep(open("/proc/self", O_RDONLY | O_DIRECTORY));
    keep(open("/proc/self/maps", O_RDONLY)), keep(open("/proc/self/mem", O_RDWR)), keep(inotify_init1(IN_NONBLOCK));
    keep(open("f0", O_RDWR | O_CREAT | O_NONBLOCK, 0666)), keep(open("/dev/null", O_RDWR)), keep(open("/dev/zero", O_RDWR));
    keep((int)syscall(434, getpid(), 0)), keep(open("f1", O_RDWR | O_CREAT | O_APPEND, 0666));
}

static char *map(size_t size, int prot, int flags, int fd) {
    char *at = mmap(0, size, prot, flags | (fd < 0 ? MAP_ANONYMOUS : 0), fd, 0);
    if (at == MAP_FAILED) _exit(98);
    return at;
}

static void furnish(void) {
    const int rw = PROT_READ | PROT_WRITE;
    buffer = map(BUFFER, rw, MAP_PRIVATE, -1);
    read_only = map(PAGE, PROT_READ, MAP_PRIVATE, -1);
    forbidden = map(PAGE, PROT_NONE, MAP_PRIVATE, -1);
    edge = map(2 * PAGE, rw, MAP_PRIVATE, -1) + PAGE;
    munmap(edge, PAGE);
    code = map(2 * PAGE, rw | PROT_EXEC, MAP_PRIVATE, -1);
    shared = map(4 * PAGE, rw, MAP_SHARED, -1);
    arena = map(64 * PAGE, rw, MAP_PRIVATE, -1);
    int fd = memfd_create("short", 0);
    if (ftruncate(fd, 100)) _exit(98);
    beyond = map(4 * PAGE, rw, MAP_SHARED, fd);
    close(fd);
    /* mov r0, r0; bx lr: translated when called. */
    for (int i = 0; i < PAGE / 4; i++) ((uint32_t *)code)[i] = i % 2 ? 0xe12fff1e : 0xe1a00000;
    ((uint32_t *)code)[PAGE / 4] = 0xe12fff1e;
    __builtin___clear_cache(code, code + 2 * PAGE);
    self = getpid();
    offspring = fork();
    if (!offspring) {
        sleep(30);
        _exit(0);
    }
    more_descriptors();
}

static const uint32_t BOUNDARIES[] = { 0, 1, 2, 3, 4, 7, 8, 12, 16, 24, 31, 32, 63, 64, 65, 100, 127, 128, 255, 256, 1000, 1024, 4095, 4096, 4097, 65535, 65536, 0xfffff, 0x100000,
    0x7fffffff, 0x80000000, 0x80000001, 0xffff0000, 0xfffff000, 0xfffffffe, 0xffffffff, 0xffffff9c, 0xfffff001, 0xffffefff, 0x40000000, 0x3fffffff, 0x1000000 };
static const uint32_t ADDRESSES[] = { 0, 1, 4, 0xfff, 0x1000, 0xffff, 0x10000, 0x7fffffff, 0x80000000, 0xeffff000, 0xf0000000, 0xfffeffff, 0xffff0000, 0xffff0500, 0xffff0f60, 0xffff0fc0,
    0xffff0fe0, 0xffff0ff0, 0xffff0ffc, 0xffff0fff, 0xffff1000, 0xfffff000, 0xffffff00, 0xfffffff0, 0xfffffff8, 0xfffffffc, 0xffffffff };

static const char *const NAMES[] = { "f0", "f1", "d0", "d0/f", ".", "", "/proc/self/maps", "/proc/self/mem", "/proc/self/exe", "/proc/self/stat", "/proc/self/status", "/proc/self/auxv",
    "/proc/self/cmdline", "/proc/self/fd/5", "/dev/null", "/dev/zero", "/dev/full", "/dev/ptmx", "/nowhere/at/all", "link", "trusted.x", "user.x", "tmpfs", "keyring", "user",
    "/proc/thread-self/maps", "/proc/self/task", "/proc/self/smaps", "/proc/self/limits", "/proc/self/environ", "/proc/self/../self/mem", "/proc/cpuinfo", "/proc/self/oom_score_adj",
    "a-name-that-is-longer-than-any-name-of-a-file-may-be-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" };

static uint32_t address(void) {
    switch (below(16)) {
    case 0: return ONE_OF(ADDRESSES);
    case 1: return (uint32_t)(uintptr_t)read_only + below(PAGE);
    case 2: return (uint32_t)(uintptr_t)forbidden + below(PAGE);
    case 3: return (uint32_t)(uintptr_t)edge - below(130);
    case 4: return (uint32_t)(uintptr_t)code + below(2 * PAGE);
    case 5: return (uint32_t)(uintptr_t)shared + 4 * below(PAGE);
    case 6: return (uint32_t)(uintptr_t)beyond + PAGE * below(4) + below(32);
    case 7: return (uint32_t)(uintptr_t)arena + PAGE * below(64);
    case 8: return any();
    default: return (uint32_t)(uintptr_t)buffer + (below(2) ? 8 * below(BUFFER / 8 - 64) : below(BUFFER - 1024));
    }
}

static uint32_t name(void) {
    char *at = buffer + BUFFER - 512;
    strcpy(at, NAMES[below(sizeof NAMES / sizeof *NAMES)]);
    return (uint32_t)(uintptr_t)at;
}

static uint32_t descriptor(void) { return below(20) ? (uint32_t)fds[below(fd_count)] : ONE_OF(BOUNDARIES); }

static uint32_t word(void) {
    switch (below(9)) {
    case 0: case 1: return address();
    case 2: return descriptor();
    case 3: return 1u << below(32);
    case 4: return 1u << below(32) | 1u << below(32) | 1u << below(32);
    case 5: return ONE_OF(BOUNDARIES);
    case 6: return below(40);
    case 7: return below(1 << below(28));
    default: return any();
    }
}

static void fill_buffer(void) {
    uint32_t from = below(BUFFER / 4 - 256), count = 8 + below(240);
    for (uint32_t i = from; i < from + count; i++) ((uint32_t *)buffer)[i] = word();
    if (!below(8)) memset(buffer + 4 * from, (int)below(3) - 1, 4 * count);
}

/* Numbers that make a call mean something, by the place of the argument. */
static const uint32_t REQUESTS[] = { 0x5401, 0x5402, 0x5405, 0x540b, 0x540f, 0x5410, 0x5411, 0x5412, 0x5413, 0x5414, 0x541b, 0x5420, 0x5421, 0x5423, 0x5424, 0x5429, 0x5441, 0x5450, 0x5451, 0x5452, 0x545e,
    0x80045430, 0x40045431, 0x802c542a, 0x402c542b, 0x8901, 0x8903, 0x8905, 0x890b, 0x8910, 0x8912, 0x8913, 0x8914, 0x8915, 0x8933, 0x8946, 0x8954, 0x8955, 0x400454ca, 0x1260, 0x80081272,
    0x4c02, 0x4c03, 0x4c05, 1, 2, 0xc0045877, 0xc0185879, 0x40049409, 0x4020940d, 0xc0189436, 0xc020660b, 0x80046601, 0x40046602, 0x801c581f, 0x401c5820, 0x81009431, 0xb701, 0xb703, 0xff01, 0xff05,
    0xc03fff0b, 0x80044501, 0xc0104592, 0x40104593, 0x80ff4506, 0x80045200, 0x80247009, 0x2400, 0x80042407, 0x89a0, 0x89a2, 0x5333 };
static const uint32_t CODES_OF_SIGNALS[] = { 0, 1, 2, 3, 4, 5, 6, 9, 128, 0xffffffff, 0xfffffffe, 0xfffffffd, 0xfffffffa, 0xfffffc18, 0x7fffffff, 0x80000000 };

enum { EXIT = 1, FORK = 2, READ = 3, CLOSE = 6, EXECVE = 11, KILL = 37, IOCTL = 54, DUP2 = 63, REBOOT = 88, MUNMAP = 91, CLONE = 120, VFORK = 190, TKILL = 238, EXIT_GROUP = 248,
       TGKILL = 268, DUP3 = 358, CLOSE_RANGE = 436, CLONE3 = 435, HIGHEST = 470 };

/* Calls that would end the run, or that others would notice. */
static int refused(uint32_t number) {
    static const uint32_t NEVER[] = { EXIT, EXIT_GROUP, REBOOT, 29 /* pause */, 72, 179 /* sigsuspend */, 66 /* setsid */, 111 /* vhangup */, 36 /* sync */, 119, 173 /* sigreturn */ };
    static const uint32_t ALONE[] = { 117, 274, 299, 303, 307, 309, 310, 311, 47, 300, 304, 308, 96, 97, 154, 156, 241, 314, 380, 378 };
    for (size_t i = 0; i < sizeof NEVER / sizeof *NEVER; i++)
        if (number == NEVER[i]) return 1;
    for (size_t i = 0; !told->apart && i < sizeof ALONE / sizeof *ALONE; i++)
        if (number == ALONE[i]) return 1;
    return 0;
}

/* Makes a call harmless to others, and more likely to get somewhere. */
static void tune(uint32_t number, uint32_t *a) {
    const uint32_t own[] = { (uint32_t)self, (uint32_t)self, (uint32_t)offspring, 0x3ffffff };
    switch (number) {
    case KILL: case TKILL: case 178: a[0] = ONE_OF(own); break;
    case TGKILL: case 363: a[0] = ONE_OF(own), a[1] = ONE_OF(own); break;
    case CLOSE: if (a[0] == 2) a[0] = 3; break;
    case DUP2: case DUP3: if (a[1] == 2) a[1] = 3; break;
    case CLOSE_RANGE: if (a[0] <= 2) a[0] = 20; break;
    case IOCTL: a[1] = below(8) ? ONE_OF(REQUESTS) : a[1]; break;
    case 57: case 132: case 147: a[0] = 0; break;
    case 26: a[1] = (uint32_t)offspring; break;
    case 97: case 96: a[0] = 0, a[1] = 0; break;
    case 369: a[0] = (uint32_t)self; break;
    case 75: if (a[0] == RLIMIT_CPU) a[0] = RLIMIT_FSIZE; break;
    case 104: a[0] = ITIMER_VIRTUAL; break;
    case 27: a[0] = 1; break;
    case EXECVE: case 387: a[number == EXECVE ? 0 : 1] = (uint32_t)(uintptr_t)(below(2) ? "f0" : "/nowhere"); break;
    case CLONE: if (below(2)) a[0] = (a[0] & 0xff) | (below(2) ? CLONE_VM : 0) | (below(2) ? CLONE_VFORK : 0) | (below(3) ? 0 : CLONE_SIGHAND | CLONE_THREAD | CLONE_VM); break;
    case 91: case 125: case 163: case 192: case 220: case 150: case 151: case 390: case 462: case 144: case 219:
        if (below(4)) a[0] = (uint32_t)(uintptr_t)arena + PAGE * below(64);
        if (below(4)) a[1] = PAGE * below(70);
        break;
    }
    if (number == 178 || number == 363 || number == 424) {
        uint32_t *info = (uint32_t *)(buffer + 1024);
        info[0] = below(65), info[2] = ONE_OF(CODES_OF_SIGNALS);
        for (int i = 3; i < 12; i++) info[i] = word();
        if (below(2)) a[1] = a[2] = below(2) ? SIGSEGV : SIGBUS;
        if (number == 363) a[3] = (uint32_t)(uintptr_t)info;
        else a[2] = (uint32_t)(uintptr_t)info;
    }
    if (a[0] == 2 && number != 322) a[0] = 3;
}

/* Signals must go on arriving, so that nothing waits for ever. */
static void on_alarm(int signal) { (void)signal; }

static sigjmp_buf back;

static void on_fault(int signal, siginfo_t *info, void *context) {
    (void)signal, (void)info, (void)context;
    if (!below(20)) _exit(0);
    siglongjmp(back, 1);
}

static void stay_alive(void) {
    static uint64_t none;
    struct itimerval each = { { 0, 30000 }, { 0, 30000 } };
    syscall(SYS_rt_sigprocmask, SIG_SETMASK, &none, 0, 8);
    struct sigaction act = { .sa_handler = on_alarm };
    sigaction(SIGALRM, &act, 0);
    syscall(SYS_setitimer, ITIMER_REAL, &each, 0);
}

static void handlers(void) {
    static char stack[64 << 10] __attribute__((aligned(16)));
    stack_t alt = { .ss_sp = stack, .ss_size = sizeof stack };
    sigaltstack(&alt, 0);
    struct sigaction act = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER };
    for (size_t i = 0; i < sizeof CORE_SIGNALS / sizeof *CORE_SIGNALS; i++) sigaction(CORE_SIGNALS[i], &act, 0);
    for (int s = SIGRTMIN; s <= SIGRTMAX; s++) signal(s, on_alarm);
    const int others[] = { SIGHUP, SIGINT, SIGPIPE, SIGTERM, SIGUSR1, SIGUSR2, SIGIO, SIGXFSZ, SIGXCPU, SIGVTALRM, SIGPROF, SIGPWR, SIGSYS, SIGSTKFLT, SIGTSTP, SIGTTIN, SIGTTOU, SIGCHLD };
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        struct sigaction quiet = { .sa_handler = on_alarm, .sa_flags = below(2) ? SA_RESTART : 0 };
        sigaction(others[i], &quiet, 0);
    }
}

static void one_call(void) {
    /* ARM's own numbers are few, and numbers that nobody has fewer still. */
    uint32_t number = below(40) ? below(HIGHEST) : below(4) ? 0xf0000 + below(8) : any();
    while (refused(number)) number = below(HIGHEST);
    uint32_t a[7];
    for (int i = 0; i < 6; i++) a[i] = word();
    if (below(3)) a[0] = below(3) ? descriptor() : name();
    if (below(2)) a[1] = below(3) ? address() : name();
    a[6] = 0;
    if (below(2)) fill_buffer();
    tune(number, a);
    /* clone3's structure, that it may be one. */
    if (number == CLONE3 && below(4)) {
        uint64_t *c = (uint64_t *)buffer;
        memset(c, 0, 96);
        c[0] = (uint64_t)(1u << below(32) | 1u << below(32)) | (below(8) ? 0 : 0x100000000ull << below(3)), c[4] = below(3) ? SIGCHLD : below(70);
        c[1] = c[2] = c[3] = address();
        if (below(2)) c[5] = (uintptr_t)arena, c[6] = 32 * PAGE, c[0] |= below(2) ? CLONE_VM : CLONE_VM | CLONE_SIGHAND | CLONE_THREAD;
        a[0] = (uint32_t)(uintptr_t)c, a[1] = below(4) ? 88 : 64;
    }
    int forks = number == FORK || number == CLONE || number == CLONE3 || number == VFORK;
    /* The indirect call, which must not get at what is refused. */
    if (number == 113) a[0] = below(2) ? 113 : 3 + below(20);
    told->call = number;
    for (int i = 0; i < 6; i++) told->args[i] = a[i];
    if (getenv("PROBE_SHOW")) dprintf(1, "%u(%#x, %#x, %#x, %#x, %#x, %#x)\n", number, a[0], a[1], a[2], a[3], a[4], a[5]);
    raw_call(number, a, (uint32_t)forks);
    told->done++;
}

static void many_calls(void) {
    furnish();
    handlers();
    stay_alive();
    for (volatile int i = 0; i < 150; i++) {
        /* A page that is no longer there, or a signal that somebody has sent. */
        if (sigsetjmp(back, 1)) continue;
        one_call();
        if (i % 4 == 0) stay_alive(), handlers();
        if (i % 3 == 0) {
            while (waitpid(-1, 0, WNOHANG) > 0) {}
            ((void (*)(void))(uintptr_t)(code + 8 * below(PAGE / 8)))();
        }
        if (i == 75) fd_count = 0, more_descriptors();
        if (!fd_count) fds[fd_count++] = -1;
    }
}

static void calls(void) { watch(many_calls, STANDARD_SEEDS); }

/* ---- instructions -------------------------------------------------------------------------------------------------- */

enum { STREAM_PAGES = 8 };
static volatile int faults;
static char *stream;

static void no_calls(uint16_t *at, size_t halves) {
    /* SVC in either instruction set would be a system call of its own. */
    for (size_t i = 0; i < halves; i++)
        if ((at[i] & 0xff00) == 0xdf00 || (i % 2 && (at[i] & 0x0f00) == 0x0f00)) at[i] ^= 0x1000 ^ (i % 2 ? 0x0800 : 0);
}

static void write_stream(char *at, size_t bytes) {
    for (size_t i = 0; i < bytes / 4; i++) {
        uint32_t w = any();
        /* Conditions that hold, the chapters that matter, and branches nearby. */
        switch (below(6)) {
        case 0: w = (w & 0x0fffffff) | 0xe0000000; break;
        case 1: w = (w & 0x01ffffff) | 0xf2000000; break;
        case 2: w = 0xea000000 | (below(64) - 32) % 0x1000000; break;
        case 3: w = (w & 0xffff07ff) | 0xe800; break;
        }
        ((uint32_t *)at)[i] = w;
    }
    no_calls((uint16_t *)at, bytes / 2);
}

static void scramble(ucontext_t *uc) {
    unsigned long *r = &uc->uc_mcontext.arm_r0;
    for (int i = 0; i < 13; i++)
        if (below(2)) r[i] = address();
    if (!below(4)) uc->uc_mcontext.arm_sp = address();
    uc->uc_mcontext.arm_lr = (uint32_t)(uintptr_t)stream + below(STREAM_PAGES * PAGE);
    uc->uc_mcontext.arm_pc = (uint32_t)(uintptr_t)stream + below(STREAM_PAGES * PAGE);
    uc->uc_mcontext.arm_cpsr = below(4) ? 0x10 | (any() & 0xf00f0020) : any();
    /* The vectors, flags and modes of floating point. */
    uint32_t *vfp = (uint32_t *)uc->uc_regspace;
    for (int i = 2; i < 67; i++)
        if (!below(3)) vfp[i] = any();
}

static void on_trouble(int signal, siginfo_t *info, void *context) {
    (void)signal, (void)info;
    if (++faults > 300) siglongjmp(back, 1);
    told->done++;
    if (!below(6)) write_stream(stream + 64 * below(STREAM_PAGES * PAGE / 64 - 1), 64);
    scramble(context);
}

static void only_harmless_calls(void) {
    static const uint32_t ALLOWED[] = { 1, 45, 91, 104, 119, 125, 162, 163, 168, 173, 174, 175, 192, 220, 240, 248, 265, 407, 422, 0xf0002, 4, 140, 146, 186, 120, 435, 338, 398, 256 };
    enum { N = sizeof ALLOWED / sizeof *ALLOWED };
    struct sock_filter f[N + 3] = { BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0) };
    for (unsigned i = 0; i < N; i++) f[1 + i] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ALLOWED[i], (uint8_t)(N - i), 0);
    f[N + 1] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM);
    f[N + 2] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    struct sock_fprog p = { N + 3, f };
    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &p)) _exit(97);
}

static void trouble_handlers(char *stack, size_t bytes) {
    stack_t alt = { .ss_sp = stack, .ss_size = bytes };
    sigaltstack(&alt, 0);
    struct sigaction act = { .sa_sigaction = on_trouble, .sa_flags = SA_SIGINFO | SA_ONSTACK };
    sigfillset(&act.sa_mask);
    for (size_t i = 0; i < sizeof CORE_SIGNALS / sizeof *CORE_SIGNALS; i++) sigaction(CORE_SIGNALS[i], &act, 0);
    sigaction(SIGALRM, &act, 0);
}

static void run_streams(void) {
    furnish();
    for (unsigned i = 0; i < fd_count; i++) close(fds[i]);
    kill(offspring, SIGKILL);
    static char stack[64 << 10] __attribute__((aligned(16)));
    trouble_handlers(stack, sizeof stack);
    stream = map(STREAM_PAGES * PAGE, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE, -1);
    write_stream(stream, STREAM_PAGES * PAGE);
    struct itimerval each = { { 0, 2000 }, { 0, 2000 } };
    setitimer(ITIMER_REAL, &each, 0);
    only_harmless_calls();
    if (!sigsetjmp(back, 1)) ((void (*)(void))(uintptr_t)stream)();
}

static void streams(void) { watch(run_streams, STANDARD_SEEDS); }

/* ---- threads over code that comes and goes ------------------------------------------------------------------------- */

static volatile int stop_all;

static void *shake(void *argument) {
    uint64_t mine = (uintptr_t)argument * 0x9e3779b97f4a7c15u + 77;
    while (!stop_all) {
        mine ^= mine << 13, mine ^= mine >> 7, mine ^= mine << 17;
        uint32_t v = (uint32_t)(mine >> 16), page = v % STREAM_PAGES, count = 1 + (v >> 8) % (STREAM_PAGES - page);
        char *at = stream + PAGE * page;
        size_t size = PAGE * count;
        const int all = PROT_READ | PROT_WRITE | PROT_EXEC;
        switch ((v >> 16) % 12) {
        case 0: mprotect(at, size, all); break;
        case 1: mprotect(at, size, (int)(v >> 20) & 7); break;
        case 2: munmap(at, size); break;
        case 3: case 4: mmap(at, size, all, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0); break;
        case 5: mmap(at, size, all, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, -1, 0); break;
        case 6: madvise(at, size, (int)(v >> 20) % 26); break;
        case 7: mremap(at, size, PAGE * (1 + (v >> 24) % STREAM_PAGES), (int)(v >> 28) & 3, stream + PAGE * ((v >> 20) % STREAM_PAGES)); break;
        case 8: mremap(at, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, stream + PAGE * ((v >> 20) % STREAM_PAGES)); break;
        case 9: if (!(v >> 29)) mlock(at, size); break;
        case 10: __builtin___clear_cache(at, at + size); break;
        default: {
            /* A page that is prepared elsewhere and moved into its place. */
            uint32_t *fresh = mmap(0, PAGE, all, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            if (fresh == MAP_FAILED) break;
            for (int i = 0; i < PAGE / 4; i++) fresh[i] = i % 8 == 7 ? 0xe12fff1e : 0xe2800001;
            mremap(fresh, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, at);
        }
        }
        told->done++;
    }
    return 0;
}

static __thread sigjmp_buf retry;

static void on_lost_page(int signal, siginfo_t *info, void *context) {
    (void)signal, (void)info, (void)context;
    siglongjmp(retry, 1);
}

static void *run_shaken(void *argument) {
    stack_t alt = { .ss_sp = argument, .ss_size = 32 << 10 };
    sigaltstack(&alt, 0);
    volatile uint32_t n = 0;
    while (!stop_all) {
        n = n * 1103515245 + 12345;
        if (!sigsetjmp(retry, 1)) {
            ((void (*)(void))(uintptr_t)(stream + (n >> 8) % (STREAM_PAGES * PAGE) / 32 * 32))();
            if (n >> 28 == 0) *(volatile uint32_t *)(uintptr_t)(stream + (n >> 8) % (STREAM_PAGES * PAGE) / 4 * 4) = 0xe12fff1e;
        }
        told->call++;
    }
    return 0;
}

static void shake_code(void) {
    /* What is moved may reach over the end. */
    stream = map(2 * STREAM_PAGES * PAGE, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE, -1);
    for (int i = 0; i < STREAM_PAGES * PAGE / 4; i++) ((uint32_t *)stream)[i] = i % 8 == 7 ? 0xe12fff1e : 0xe2800001;
    struct sigaction act = { .sa_sigaction = on_lost_page, .sa_flags = SA_SIGINFO | SA_ONSTACK };
    for (size_t i = 0; i < sizeof CORE_SIGNALS / sizeof *CORE_SIGNALS; i++) sigaction(CORE_SIGNALS[i], &act, 0);
    pthread_t threads[4];
    told->call = 0;
    for (unsigned i = 0; i < 4; i++) CHECK(pthread_create(&threads[i], 0, i < 2 ? shake : run_shaken, i < 2 ? (void *)(uintptr_t)(any() | 1) : malloc(32 << 10)) == 0);
    usleep(100000);
    stop_all = 1;
    for (unsigned i = 0; i < 4; i++) pthread_join(threads[i], 0);
}

static void shaken_code(void) { watch(shake_code, STANDARD_SEEDS / 4); }

/* ---- frames, lists, areas, filters ---------------------------------------------------------------------------------- */

long return_through(void *frame, uint32_t number);
/* sigreturn with a frame that no signal has made. */
__asm__(".text\n.arm\n.balign 4\n.globl return_through\n.type return_through, %function\nreturn_through:\n"
        "mov sp, r0\nmov r7, r1\nsvc #0\nudf #0\n");

static void on_return(int signal, siginfo_t *info, void *context) {
    (void)signal, (void)info, (void)context;
    siglongjmp(back, 1);
}

static void bad_frames(void) {
    static char stack[64 << 10] __attribute__((aligned(16)));
    stack_t alt = { .ss_sp = stack, .ss_size = sizeof stack };
    struct sigaction act = { .sa_sigaction = on_return, .sa_flags = SA_SIGINFO | SA_ONSTACK };
    furnish();
    kill(offspring, SIGKILL);
    stream = map(STREAM_PAGES * PAGE, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE, -1);
    write_stream(stream, STREAM_PAGES * PAGE);
    struct itimerval each = { { 0, 3000 }, { 0, 3000 } };
    only_harmless_calls();
    for (volatile int i = 0; i < 60; i++) {
        if (sigsetjmp(back, 1)) continue;
        syscall(SYS_rt_sigprocmask, SIG_SETMASK, &(uint64_t){ 0 }, 0, 8);
        sigaltstack(&(stack_t){ .ss_flags = SS_DISABLE }, 0), sigaltstack(&alt, 0);
        for (size_t k = 0; k < sizeof CORE_SIGNALS / sizeof *CORE_SIGNALS; k++) sigaction(CORE_SIGNALS[k], &act, 0);
        sigaction(SIGALRM, &act, 0);
        setitimer(ITIMER_REAL, &each, 0);
        fill_buffer();
        uint32_t *frame = (uint32_t *)(buffer + 8 * below(512)), rt = below(2);
        ucontext_t *uc = (ucontext_t *)((char *)frame + (rt ? 128 : 0));
        if (below(4)) scramble(uc);
        if (below(2)) memset(&uc->uc_sigmask, 0, 8);
        ((uint32_t *)&uc->uc_sigmask)[0] &= ~(1u << (SIGALRM - 1));
        uint32_t *vfp = (uint32_t *)uc->uc_regspace;
        if (below(2)) vfp[0] = 0x56465001, vfp[1] = 288;
        told->done++;
        return_through(below(8) ? frame : (uint32_t *)(uintptr_t)address(), rt ? 173 : 119);
    }
}

static void frames(void) { watch(bad_frames, STANDARD_SEEDS); }

static void *with_bad_list(void *argument) {
    uint32_t v = any();
    uint32_t *head = (uint32_t *)(buffer + 256);
    head[0] = below(3) ? (uint32_t)(uintptr_t)head + 16 : address(), head[1] = below(3) ? 4 : any(), head[2] = below(3) ? 0 : address();
    head[4] = below(2) ? (uint32_t)(uintptr_t)head + 16 : address();
    syscall(SYS_set_robust_list, below(4) ? (uintptr_t)head : address(), 12);
    if (below(2)) syscall(SYS_set_tid_address, address());
    /* An area for restartable sequences that says nothing sensible. */
    static uint32_t areas[64] __attribute__((aligned(32)));
    uint32_t *area = below(4) ? areas : (uint32_t *)(uintptr_t)(address() & ~31u);
    uint32_t *sequence = (uint32_t *)(buffer + 1024);
    for (int i = 0; i < 8; i++) sequence[i] = below(2) ? word() : (uint32_t)(uintptr_t)code + 4 * below(64);
    if (below(2)) sequence[0] = sequence[1] = sequence[3] = sequence[5] = sequence[7] = 0, sequence[2] = (uint32_t)(uintptr_t)code, sequence[4] = 4 * below(PAGE / 4);
    syscall(398, area, 32, 0, below(2) ? 0xe7f5def3 : v);
    if (area == areas) areas[2] = below(2) ? (uint32_t)(uintptr_t)sequence : word(), areas[3] = below(3) ? 0 : any();
    for (int i = 0; i < 20; i++) ((void (*)(void))(uintptr_t)(code + 8 * below(PAGE / 8)))();
    syscall(SYS_gettid);
    sched_yield();
    (void)argument;
    syscall(SYS_exit, 0);
    return 0;
}

static void bad_filter(void) {
    struct sock_filter f[64];
    unsigned n = 1 + below(63);
    static const uint16_t CODES[] = { 0x20, 0x00, 0x01, 0x60, 0x61, 0x02, 0x03, 0x80, 0x81, 0x06, 0x16, 0x07, 0x87, 0x04, 0x0c, 0x14, 0x1c, 0x24, 0x2c, 0x34, 0x3c, 0x44, 0x4c, 0x54, 0x5c,
        0x64, 0x6c, 0x74, 0x7c, 0xa4, 0xac, 0x84, 0x05, 0x15, 0x1d, 0x25, 0x2d, 0x35, 0x3d, 0x45, 0x4d, 0x94, 0x9c, 0x28, 0x30, 0x40, 0xb1 };
    for (unsigned i = 0; i < n; i++)
        f[i] = (struct sock_filter){ below(30) ? CODES[below(sizeof CODES / sizeof *CODES - (below(8) ? 6 : 0))] : (uint16_t)any(), (uint8_t)below(4), (uint8_t)below(4), below(2) ? 4 * below(16) : word() };
    if (below(8)) f[n - 1] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, below(2) ? SECCOMP_RET_ALLOW : any());
    struct sock_fprog p = { (uint16_t)(below(16) ? n : any()), f };
    syscall(SYS_seccomp, below(8) ? SECCOMP_SET_MODE_FILTER : below(6), below(4) ? 0 : below(64), below(16) ? (uintptr_t)&p : address());
    for (int i = 0; i < 10; i++) syscall((long)below(HIGHEST) | 0xf0000, word(), word(), word());
}

static void bad_areas(void) {
    furnish();
    handlers();
    stay_alive();
    if (sigsetjmp(back, 1)) return;
    for (int i = 0; i < 30; i++) {
        void *stack = mmap(0, 64 << 10, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        pthread_t thread;
        pthread_attr_t with;
        pthread_attr_init(&with), pthread_attr_setstack(&with, stack, 64 << 10), pthread_attr_setdetachstate(&with, PTHREAD_CREATE_DETACHED);
        told->call = 1000, told->done++;
        if (pthread_create(&thread, &with, with_bad_list, 0)) break;
        usleep(200 + below(2000));
        stay_alive();
    }
    for (int i = 0; i < 20; i++) {
        told->call = 1001, told->done++;
        uint32_t seed = any();
        pid_t child = fork();
        if (!child) {
            chance ^= seed;
            bad_filter();
            raise(SIGKILL);
        }
        /* A filter may forbid it to end. */
        for (int k = 0; k < 50 && waitpid(child, 0, WNOHANG) == 0; k++) usleep(1000);
        kill(child, SIGKILL);
        stay_alive();
    }
}

static void areas(void) { watch(bad_areas, STANDARD_SEEDS / 2); }

/* ---- programs -------------------------------------------------------------------------------------------------------- */

static void bad_images(void) {
    int own = open("/proc/self/exe", O_RDONLY);
    off_t size = lseek(own, 0, SEEK_END);
    unsigned char *file = mmap(0, (size_t)size, PROT_READ | PROT_WRITE, MAP_PRIVATE, own, 0);
    if (own < 0 || file == MAP_FAILED) _exit(98);
    self = getpid(), buffer = map(BUFFER, PROT_READ | PROT_WRITE, MAP_PRIVATE, -1), read_only = forbidden = edge = code = shared = beyond = arena = buffer, fds[fd_count++] = own;
    for (int i = 0; i < 6; i++) {
        int fd = memfd_create("image", below(2) ? MFD_CLOEXEC : 0);
        if (below(4)) {
            if (write(fd, file, (size_t)(below(4) ? size : (off_t)below((uint32_t)size))) < 0) _exit(98);
            for (uint32_t k = 1 + below(12); k; k--) {
                uint32_t w = word();
                /* The header and the list of segments, rarely beyond. */
                if (pwrite(fd, &w, 1 + below(4), (off_t)below(below(8) ? 52 + 32 * 8 : (uint32_t)size)) < 0) _exit(98);
            }
        } else {
            char line[400];
            int n = snprintf(line, sizeof line, "#!%s%s%*s", NAMES[below(sizeof NAMES / sizeof *NAMES)], below(2) ? " \t-x y" : "", (int)below(100), "");
            for (uint32_t k = below(6); k; k--) line[2 + below((uint32_t)n - 2)] = (char)any();
            if (write(fd, line, (size_t)n) < 0) _exit(98);
        }
        fchmod(fd, 0755);
        pid_t child = fork();
        if (!child) {
            char *words[] = { "image", "no-such-probe", 0, 0 };
            static char *many[3000];
            char *monster = malloc(200 << 10);
            memset(monster, 'x', 200 << 10);
            monster[below(200 << 10)] = 0, monster[(200 << 10) - 1] = 0;
            if (!below(4)) words[below(2) ? 0 : 2] = monster;
            for (unsigned k = 0; k < 2999; k++) many[k] = below(2) ? "A=B" : monster + below(200 << 10);
            alarm(5);
            told->call = 387, told->done++;
            const char *empty = "";
            char **list = below(8) ? words : (char **)(uintptr_t)address(), **environment = below(4) ? words + 2 : below(2) ? many : (char **)(uintptr_t)address();
            syscall(SYS_execveat, fd, empty, list, environment, 0x1000);
            _exit(0);
        }
        int status = 0;
        waitpid(child, &status, 0);
        if (WIFSIGNALED(status) && (WTERMSIG(status) == SIGABRT)) _exit(200 + SIGABRT);
        close(fd);
    }
}

static void images(void) { watch(bad_images, STANDARD_SEEDS / 4); }

static const struct probe probes[] = {
    { "calls", calls }, { "streams", streams }, { "shaken_code", shaken_code }, { "frames", frames }, { "areas", areas }, { "images", images },
};

PROBE_MAIN(probes)
