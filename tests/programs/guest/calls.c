/* System calls whose arguments or structures differ between 32-bit programs and the host: files, memory, time, descriptors. */
#include "probe.h"
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <pty.h>
#include <sys/auxv.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/resource.h>
#include <sys/sem.h>
#include <sys/sendfile.h>
#include <sys/shm.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/sysinfo.h>
#include <sys/time.h>
#include <sys/times.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/xattr.h>
#include <termios.h>

static int scratch(void) {
    char name[] = "/tmp/probe-XXXXXX";
    int fd = mkstemp(name);
    CHECK(fd >= 0 && unlink(name) == 0);
    return fd;
}

/* 64-bit offsets come in register pairs. */
static void large_offsets(void) {
    const off64_t far = 0x1234567890LL;
    char c = 0;
    int fd = scratch(), p[2];
    CHECK(pwrite64(fd, "a", 1, far) == 1 && pread64(fd, &c, 1, far) == 1 && c == 'a');
    CHECK(lseek64(fd, -1, SEEK_END) == far && lseek64(fd, 5, SEEK_CUR) == far + 5);
    struct stat64 s;
    CHECK(fstat64(fd, &s) == 0 && s.st_size == far + 1 && s.st_blocks < 100);
    CHECK(ftruncate64(fd, far * 2) == 0 && fstat64(fd, &s) == 0 && s.st_size == far * 2);
    CHECK(posix_fadvise64(fd, far, far, POSIX_FADV_DONTNEED) == 0 && readahead(fd, far, 4096) == 0);
    CHECK(sync_file_range(fd, far, 4096, SYNC_FILE_RANGE_WRITE) == 0);
    CHECK(fallocate64(fd, FALLOC_FL_KEEP_SIZE, far + 8192, 4096) == 0 || errno == EOPNOTSUPP);
    struct flock64 l = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = far, .l_len = 10 };
    CHECK(fcntl(fd, F_SETLK64, &l) == 0);
    pid_t child = fork();
    if (!child) {
        struct flock64 mine = { .l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = far + 5, .l_len = 1 };
        CHECK(fcntl(fd, F_GETLK64, &mine) == 0 && mine.l_type == F_WRLCK && mine.l_start == far && mine.l_pid == getppid());
        CHECK(fcntl(fd, F_SETLK64, &(struct flock64){ .l_type = F_RDLCK, .l_start = far }) == -1 && (errno == EAGAIN || errno == EACCES));
        _exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    off64_t from = far;
    CHECK(pipe(p) == 0 && splice(fd, &from, p[1], 0, 1, 0) == 1 && from == far + 1 && read(p[0], &c, 1) == 1 && c == 'a');
    from = far;
    int copy = scratch();
    CHECK(copy_file_range(fd, &from, copy, 0, 1, 0) == 1 && from == far + 1);
    off64_t at = far;
    CHECK(sendfile64(copy, fd, &at, 1) == 1 && at == far + 1 && lseek64(copy, 0, SEEK_END) == 2);
}

static void file_attributes(void) {
    char name[] = "/tmp/probe-XXXXXX", link[64], text[64];
    int fd = mkstemp(name);
    CHECK(fd >= 0);
    struct timespec t[2] = { { 4000000000u & 0x7fffffff, 123456789 }, { 0, UTIME_OMIT } };
    struct stat before, after;
    struct statx x;
    CHECK(fstat(fd, &before) == 0 && utimensat(AT_FDCWD, name, t, 0) == 0 && stat(name, &after) == 0);
    CHECK(after.st_atim.tv_sec == t[0].tv_sec && after.st_atim.tv_nsec == 123456789 && after.st_mtim.tv_nsec == before.st_mtim.tv_nsec);
    CHECK(statx(AT_FDCWD, name, 0, STATX_BASIC_STATS, &x) == 0 && x.stx_atime.tv_nsec == 123456789 && x.stx_size == 0 && x.stx_mode == after.st_mode);
    snprintf(link, sizeof link, "%s.link", name);
    CHECK(symlink(name, link) == 0 && readlink(link, text, sizeof text) == (ssize_t)strlen(name) && lstat(link, &after) == 0 && S_ISLNK(after.st_mode));
    CHECK(fstatat(AT_FDCWD, link, &after, 0) == 0 && S_ISREG(after.st_mode) && after.st_ino == before.st_ino);
    CHECK(fchmodat(AT_FDCWD, name, 0640, 0) == 0 && faccessat(AT_FDCWD, name, R_OK, AT_EACCESS) == 0 && access("/nonexistent", F_OK) == -1);
    if (setxattr(name, "user.probe", "value", 5, 0) == 0) {
        CHECK(getxattr(name, "user.probe", text, sizeof text) == 5 && !memcmp(text, "value", 5));
        CHECK(listxattr(name, text, sizeof text) >= 11 && removexattr(name, "user.probe") == 0 && getxattr(name, "user.probe", text, 64) == -1 && errno == ENODATA);
    } else CHECK(errno == EOPNOTSUPP || errno == EPERM);
    struct statfs f;
    CHECK(fstatfs(fd, &f) == 0 && f.f_bsize >= 512 && f.f_namelen >= 100 && statfs("/proc", &f) == 0 && f.f_type == 0x9fa0);
    CHECK(unlink(name) == 0 && unlink(link) == 0);
}

static void mappings(void) {
    const size_t page = 4096;
    char *p = mmap(0, 4 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(p != MAP_FAILED);
    memset(p, 'x', 4 * page);
    CHECK(munmap(p + page, page) == 0);
    unsigned char in[4];
    CHECK(mincore(p, 4 * page, in) == -1 && errno == ENOMEM && mincore(p, page, in) == 0 && (in[0] & 1));
    /* What comes back is zero again. */
    char *q = mmap(p + page, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    CHECK(q == p + page && q[0] == 0 && q[page - 1] == 0 && q[page] == 'x');
    CHECK(mmap(p, page, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) == MAP_FAILED && errno == EEXIST);
    CHECK(madvise(p, page, MADV_DONTNEED) == 0 && p[5] == 0);
    for (int i = 0; i < 200; i++) { /* the same place, again and again, dirty when it goes */
        char *r = mmap(0, 16 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        CHECK(r != MAP_FAILED && r[0] == 0 && r[7 * page] == 0 && r[16 * page - 1] == 0);
        memset(r, i | 1, 16 * page);
        CHECK(mprotect(r + page, page, PROT_READ) == 0 && munmap(r, (i & 1 ? 16 : 8) * page) == 0);
        if (!(i & 1)) CHECK(munmap(r + 8 * page, 8 * page) == 0);
    }
    q = mremap(p, 4 * page, 64 * page, MREMAP_MAYMOVE);
    CHECK(q != MAP_FAILED && q[2 * page] == 'x' && q[63 * page] == 0);
    CHECK(mremap(q, 64 * page, 3 * page, 0) == q && mincore(q + 3 * page, page, in) == -1);
    char *to = mmap(0, 8 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(mremap(q, 3 * page, 3 * page, MREMAP_MAYMOVE | MREMAP_FIXED, to) == to && to[2 * page] == 'x' && mincore(q, page, in) == -1);
    int fd = scratch();
    CHECK(write(fd, "file", 4) == 4);
    char *shared = mmap(0, page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), *private = mmap(0, page, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    shared[0] = 'F';
    CHECK(private[0] == 'F');
    private[1] = 'I';
    CHECK(shared[1] == 'i' && msync(shared, page, MS_SYNC) == 0 && pread(fd, in, 4, 0) == 4 && in[0] == 'F' && in[1] == 'i');
    char *begin = sbrk(0);
    CHECK(sbrk(3 * 4096 + 5) == begin && (begin[3 * 4096] = 1) && sbrk(-(3 * 4096 + 5)) == begin + 3 * 4096 + 5 && sbrk(0) == begin);
}

static void shared_between_processes(void) {
    int status, id = shmget(IPC_PRIVATE, 8192, IPC_CREAT | 0600);
    CHECK(id >= 0);
    int *p = shmat(id, 0, 0), *again = shmat(id, 0, SHM_RDONLY);
    struct shmid_ds d;
    CHECK(p != (void *)-1 && again != (void *)-1 && shmctl(id, IPC_STAT, &d) == 0 && d.shm_segsz == 8192 && d.shm_nattch == 2 && d.shm_cpid == getpid());
    CHECK(shmctl(id, IPC_RMID, 0) == 0);
    int sem = semget(IPC_PRIVATE, 2, IPC_CREAT | 0600), queue = msgget(IPC_PRIVATE, IPC_CREAT | 0600);
    CHECK(sem >= 0 && queue >= 0);
    union { int val; struct semid_ds *buf; unsigned short *array; } v = { .val = 0 };
    CHECK(semctl(sem, 0, SETVAL, v) == 0);
    struct { long kind; char text[12]; } m = { 7, "hello queue" }, got;
    if (!fork()) {
        *p = 4711;
        CHECK(msgsnd(queue, &m, sizeof m.text, 0) == 0);
        struct sembuf up = { 0, 3, 0 };
        CHECK(semop(sem, &up, 1) == 0);
        _exit(0);
    }
    struct sembuf down[] = { { 0, -3, 0 }, { 1, 0, 0 } };
    struct timespec limit = { 10, 0 };
    CHECK(semtimedop(sem, down, 2, &limit) == 0 && *again == 4711);
    CHECK(msgrcv(queue, &got, sizeof got.text, 7, 0) == sizeof m.text && !strcmp(got.text, m.text));
    struct msqid_ds info;
    struct semid_ds sets;
    v.buf = &sets;
    CHECK(msgctl(queue, IPC_STAT, &info) == 0 && info.msg_qnum == 0 && semctl(sem, 0, IPC_STAT, v) == 0 && sets.sem_nsems == 2);
    limit = (struct timespec){ 0, 1000000 };
    CHECK(semtimedop(sem, down, 1, &limit) == -1 && errno == EAGAIN);
    CHECK(msgctl(queue, IPC_RMID, 0) == 0 && semctl(sem, 0, IPC_RMID) == 0 && shmdt(p) == 0 && shmdt(again) == 0 && shmdt(p) == -1);
    CHECK(wait(&status) > 0 && status == 0);
}

/* As many events at once as there is room for. */
static void many_events(void) {
    const int count = 5000;
    struct rlimit limit;
    CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0);
    if (limit.rlim_max < (rlim_t)count + 100) return;
    limit.rlim_cur = limit.rlim_max;
    CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    int poller = epoll_create1(0), ready = eventfd(1, 0);
    static struct epoll_event got[8192];
    for (int i = 0; i < count; i++) {
        struct epoll_event ev = { .events = EPOLLIN, .data.u32 = (unsigned)i };
        int fd = dup(ready);
        CHECK(fd >= 0 && epoll_ctl(poller, EPOLL_CTL_ADD, fd, &ev) == 0);
    }
    CHECK(epoll_wait(poller, got, 8192, 0) == count);
    char *seen = calloc(1, (size_t)count);
    for (int i = 0; i < count; i++) CHECK(got[i].data.u32 < (unsigned)count && !seen[got[i].data.u32]++);
    CHECK(epoll_wait(poller, got, 0, 0) == -1 && errno == EINVAL && syscall(SYS_epoll_wait, poller, got, 0x7fffffff, 0) == -1 && errno == EINVAL);
}

static void event_descriptors(void) {
    uint64_t n = 0;
    int e = eventfd(3, EFD_SEMAPHORE | EFD_NONBLOCK), t = timerfd_create(CLOCK_MONOTONIC, 0);
    CHECK(read(e, &n, 8) == 8 && n == 1);
    struct itimerspec soon = { { 0, 1000000 }, { 0, 2000000 } }, left;
    CHECK(timerfd_settime(t, 0, &soon, 0) == 0 && read(t, &n, 8) == 8 && n >= 1 && timerfd_gettime(t, &left) == 0 && left.it_interval.tv_nsec == 1000000);
    sigset_t set;
    sigemptyset(&set); sigaddset(&set, SIGUSR1); sigaddset(&set, SIGRTMIN + 2);
    CHECK(sigprocmask(SIG_BLOCK, &set, 0) == 0);
    int s = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
    struct signalfd_siginfo info;
    union sigval value = { .sival_int = 99 };
    CHECK(s >= 0 && read(s, &info, sizeof info) == -1 && errno == EAGAIN && sigqueue(getpid(), SIGRTMIN + 2, value) == 0);
    CHECK(read(s, &info, sizeof info) == sizeof info && info.ssi_signo == (unsigned)SIGRTMIN + 2 && info.ssi_int == 99 && info.ssi_pid == (unsigned)getpid());
    char dir[] = "/tmp/probe-XXXXXX", file[64], room[512];
    CHECK(mkdtemp(dir));
    int i = inotify_init1(IN_NONBLOCK), w = inotify_add_watch(i, dir, IN_CREATE | IN_DELETE);
    snprintf(file, sizeof file, "%s/watched", dir);
    close(open(file, O_CREAT | O_WRONLY, 0600));
    unlink(file);
    CHECK(read(i, room, sizeof room) == 64);
    struct inotify_event *first = (void *)room, *second = (void *)(room + 32);
    CHECK(first->wd == w && first->mask == IN_CREATE && !strcmp(first->name, "watched") && second->mask == IN_DELETE);
    CHECK(rmdir(dir) == 0 && read(i, room, sizeof room) == 16 && first->mask == IN_IGNORED);
    int m = memfd_create("sealed", MFD_ALLOW_SEALING);
    CHECK(ftruncate(m, 100) == 0 && fcntl(m, F_ADD_SEALS, F_SEAL_SHRINK) == 0 && ftruncate(m, 50) == -1 && errno == EPERM && fcntl(m, F_GET_SEALS) == F_SEAL_SHRINK);
    int poller = epoll_create1(0), old;
    struct epoll_event ev = { .events = EPOLLIN | EPOLLET, .data.u64 = 0x8877665544332211ULL }, got[4];
    CHECK(epoll_ctl(poller, EPOLL_CTL_ADD, e, &ev) == 0 && epoll_wait(poller, got, 4, 1000) == 1 && got[0].data.u64 == ev.data.u64);
    struct pollfd p[] = { { e, POLLIN, 0 }, { i, POLLIN, 0 } };
    fd_set r;
    FD_ZERO(&r); FD_SET(e, &r); FD_SET(i, &r);
    struct timeval none = { 0, 0 };
    CHECK(poll(p, 2, 0) == 1 && p[0].revents == POLLIN && select(i + 1 > e + 1 ? i + 1 : e + 1, &r, 0, 0, &none) == 1 && FD_ISSET(e, &r) && !FD_ISSET(i, &r));
    CHECK((old = fcntl(e, F_DUPFD_CLOEXEC, 100)) >= 100 && fcntl(old, F_GETFD) == FD_CLOEXEC && dup3(e, old, 0) == old && fcntl(old, F_GETFD) == 0);
}

static void clocks_and_timers(void) {
    struct timespec t, r;
    struct timeval tv;
    CHECK(clock_gettime(CLOCK_REALTIME, &t) == 0 && gettimeofday(&tv, 0) == 0 && tv.tv_sec - t.tv_sec <= 60 && time(0) - t.tv_sec <= 60);
    CHECK(clock_getres(CLOCK_MONOTONIC, &r) == 0 && r.tv_sec == 0 && r.tv_nsec > 0 && clock_gettime(99, &t) == -1 && errno == EINVAL);
    double begin = now();
    t = (struct timespec){ 0, 3000000 };
    CHECK(nanosleep(&t, 0) == 0 && now() - begin >= 0.003);
    clock_gettime(CLOCK_MONOTONIC, &t);
    t.tv_nsec += 2000000;
    if (t.tv_nsec > 999999999) { t.tv_nsec -= 1000000000; t.tv_sec++; }
    CHECK(clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, 0) == 0 && now() >= (double)t.tv_sec + (double)t.tv_nsec * 1e-9);
    sigset_t set;
    sigemptyset(&set); sigaddset(&set, SIGRTMIN); sigaddset(&set, SIGALRM);
    sigprocmask(SIG_BLOCK, &set, 0);
    timer_t timer;
    struct sigevent ev = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN, .sigev_value.sival_int = 5 };
    struct itimerspec once = { { 0, 0 }, { 0, 1000000 } };
    siginfo_t info;
    CHECK(timer_create(CLOCK_MONOTONIC, &ev, &timer) == 0 && timer_settime(timer, 0, &once, 0) == 0);
    CHECK(sigwaitinfo(&set, &info) == SIGRTMIN && info.si_code == SI_TIMER && info.si_value.sival_int == 5 && timer_getoverrun(timer) == 0 && timer_delete(timer) == 0);
    struct itimerval alarm_soon = { { 0, 0 }, { 0, 1000 } };
    t = (struct timespec){ 5, 0 };
    CHECK(setitimer(ITIMER_REAL, &alarm_soon, 0) == 0 && sigtimedwait(&set, &info, &t) == SIGALRM);
    t = (struct timespec){ 0, 1000 };
    CHECK(sigtimedwait(&set, &info, &t) == -1 && errno == EAGAIN);
#ifdef __arm__
    /* Both generations of calls: 32-bit and 64-bit times. */
    struct { int32_t sec, nsec; } narrow, ask = { 0, 1000000 };
    struct { int64_t sec, nsec; } wide, sleep = { 0, 1000000 };
    CHECK(syscall(263, CLOCK_REALTIME, &narrow) == 0 && syscall(403, CLOCK_REALTIME, &wide) == 0 && wide.sec - narrow.sec <= 60 && wide.nsec < 1000000000);
    CHECK(syscall(162, &ask, 0) == 0 && syscall(407, CLOCK_MONOTONIC, 0, &sleep, 0) == 0);
    uint32_t word = 3;
    CHECK(syscall(240, &word, 0, 3, &ask, 0, 0) == -1 && errno == ETIMEDOUT && syscall(422, &word, 0, 3, &sleep, 0, 0) == -1 && errno == ETIMEDOUT);
    int fd = scratch();
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    struct { int64_t sec, nsec; } late[2] = { { 5000000000LL, 1 }, { 5000000000LL, 2 } };
    struct statx x;
    CHECK(syscall(412, AT_FDCWD, path, late, 0) == 0 && statx(fd, "", AT_EMPTY_PATH, STATX_MTIME, &x) == 0);
    CHECK(x.stx_mtime.tv_sec == 5000000000LL || x.stx_mtime.tv_sec == 4294967295LL || x.stx_mtime.tv_sec == 2147483647LL);
#endif
}

static void terminals(void) {
    int master = posix_openpt(O_RDWR | O_NOCTTY), number = -1, zero = 0, queued = -1;
    if (master < 0) absent();
    char name[32];
    CHECK(ioctl(master, TIOCSPTLCK, &zero) == 0 && ioctl(master, TIOCGPTN, &number) == 0 && number >= 0);
    snprintf(name, sizeof name, "/dev/pts/%d", number);
    int slave = open(name, O_RDWR | O_NOCTTY);
    if (slave < 0) absent();
    struct termios t, back;
    struct winsize w = { 50, 132, 1, 2 }, got;
    CHECK(tcgetattr(slave, &t) == 0 && (t.c_lflag & ICANON) && t.c_cc[VINTR] == 3);
    cfmakeraw(&t);
    cfsetspeed(&t, B115200);
    CHECK(tcsetattr(slave, TCSANOW, &t) == 0 && tcgetattr(slave, &back) == 0 && !(back.c_lflag & ICANON) && cfgetospeed(&back) == B115200);
    CHECK(ioctl(master, TIOCSWINSZ, &w) == 0 && ioctl(slave, TIOCGWINSZ, &got) == 0 && got.ws_row == 50 && got.ws_col == 132 && got.ws_ypixel == 2);
    /* The kernel passes it on in its own time. */
    struct pollfd p = { slave, POLLIN, 0 };
    CHECK(write(master, "abc", 3) == 3 && poll(&p, 1, 5000) == 1 && ioctl(slave, FIONREAD, &queued) == 0 && queued == 3 && tcflush(slave, TCIFLUSH) == 0);
    CHECK(ioctl(slave, FIONREAD, &queued) == 0 && queued == 0 && isatty(slave) && !isatty(scratch()) && errno == ENOTTY);
    pid_t group = -1;
    pid_t child = fork();
    if (!child) { CHECK(setsid() > 0 && ioctl(slave, TIOCSCTTY, 0) == 0 && ioctl(slave, TIOCGPGRP, &group) == 0 && group == getpid() && tcgetsid(slave) == getpid()); _exit(0); }
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
}

static void sockets(void) {
    int one = 1, size = 0, s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) }, from;
    socklen_t n = sizeof a;
    CHECK(s >= 0 && bind(s, (void *)&a, sizeof a) == 0 && getsockname(s, (void *)&a, &n) == 0 && n == sizeof a);
    struct timeval limit = { 0, 2000 }, got;
    n = sizeof got;
    CHECK(setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) == 0 && getsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &got, &n) == 0 && got.tv_usec >= 2000);
    char c, room[512];
    CHECK(recv(s, &c, 1, 0) == -1 && errno == EAGAIN);
    limit = (struct timeval){ 30, 0 };
    CHECK(setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) == 0);
    CHECK(setsockopt(s, IPPROTO_IP, IP_PKTINFO, &one, sizeof one) == 0 && setsockopt(s, SOL_SOCKET, SO_TIMESTAMP, &one, sizeof one) == 0);
    CHECK(sendto(s, "d", 1, 0, (void *)&a, sizeof a) == 1);
    struct iovec v = { &c, 1 };
    struct msghdr m = { .msg_name = &from, .msg_namelen = sizeof from, .msg_iov = &v, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room };
    CHECK(recvmsg(s, &m, 0) == 1 && c == 'd' && from.sin_port == a.sin_port);
    int stamps = 0, infos = 0;
    for (struct cmsghdr *h = CMSG_FIRSTHDR(&m); h; h = CMSG_NXTHDR(&m, h)) {
        if (h->cmsg_level == SOL_SOCKET) { struct timeval t; memcpy(&t, CMSG_DATA(h), sizeof t); CHECK(h->cmsg_len == CMSG_LEN(sizeof t)); stamps += labs((long)(t.tv_sec - time(0))) < 60; }
        if (h->cmsg_level == IPPROTO_IP && h->cmsg_type == IP_PKTINFO) { struct in_pktinfo i; memcpy(&i, CMSG_DATA(h), sizeof i); infos += i.ipi_addr.s_addr == htonl(INADDR_LOOPBACK); }
    }
    CHECK(stamps == 1 && infos == 1);
    struct mmsghdr many[2] = { { .msg_hdr = { .msg_name = &a, .msg_namelen = sizeof a, .msg_iov = &v, .msg_iovlen = 1 } } };
    many[1] = many[0];
    struct timespec wait = { 30, 0 };
    CHECK(sendmmsg(s, many, 2, 0) == 2 && many[1].msg_len == 1);
    many[0].msg_hdr.msg_name = many[1].msg_hdr.msg_name = 0;
    many[0].msg_hdr.msg_namelen = many[1].msg_hdr.msg_namelen = 0;
    CHECK(recvmmsg(s, many, 2, 0, &wait) == 2);
    /* Names of interfaces: structures with pointers in them. */
    struct ifreq list[16], r = { .ifr_name = "lo" };
    struct ifconf conf = { .ifc_len = sizeof list, .ifc_req = list };
    CHECK(ioctl(s, SIOCGIFCONF, &conf) == 0 && conf.ifc_len % (int)sizeof *list == 0);
    CHECK(ioctl(s, SIOCGIFINDEX, &r) == 0 && r.ifr_ifindex == (int)if_nametoindex("lo") && ioctl(s, SIOCGIFFLAGS, &r) == 0 && (r.ifr_flags & IFF_LOOPBACK));
    int pair[2];
    struct ucred me;
    n = sizeof me;
    CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) == 0 && getsockopt(pair[0], SOL_SOCKET, SO_PEERCRED, &me, &n) == 0 && me.pid == getpid() && me.uid == getuid());
    CHECK(setsockopt(pair[1], SOL_SOCKET, SO_PASSCRED, &one, sizeof one) == 0 && send(pair[0], "x", 1, 0) == 1);
    m = (struct msghdr){ .msg_iov = &v, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room };
    CHECK(recvmsg(pair[1], &m, 0) == 1 && CMSG_FIRSTHDR(&m)->cmsg_type == SCM_CREDENTIALS);
    memcpy(&me, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof me);
    n = sizeof size;
    CHECK(me.pid == getpid() && getsockopt(s, SOL_SOCKET, SO_TYPE, &size, &n) == 0 && size == SOCK_DGRAM);
    /* Netlink: the loopback interface is among the links. */
    struct { struct nlmsghdr h; struct ifinfomsg i; } ask = { { sizeof ask, RTM_GETLINK, NLM_F_REQUEST | NLM_F_DUMP, 1, 0 }, { .ifi_family = AF_UNSPEC } };
    static char answer[65536];
    int nl = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE), loopback = 0, done = 0;
    CHECK(nl >= 0 && send(nl, &ask, sizeof ask, 0) == sizeof ask);
    while (!done) {
        ssize_t len = recv(nl, answer, sizeof answer, 0);
        CHECK(len > 0);
        for (struct nlmsghdr *h = (void *)answer; NLMSG_OK(h, (size_t)len); h = NLMSG_NEXT(h, len)) {
            done |= h->nlmsg_type == NLMSG_DONE;
            loopback |= h->nlmsg_type == RTM_NEWLINK && (((struct ifinfomsg *)NLMSG_DATA(h))->ifi_flags & IFF_LOOPBACK);
        }
    }
    CHECK(loopback);
}

static void about_the_process(void) {
    struct rusage use;
    struct sysinfo info;
    struct tms t;
    CHECK(getrusage(RUSAGE_SELF, &use) == 0 && use.ru_maxrss > 0 && sysinfo(&info) == 0 && info.mem_unit && info.totalram && times(&t) != -1);
    cpu_set_t cpus;
    unsigned cpu = 999;
    CHECK(sched_getaffinity(0, sizeof cpus, &cpus) == 0 && CPU_COUNT(&cpus) >= 1 && getcpu(&cpu, 0) == 0 && CPU_ISSET(cpu, &cpus));
    struct rlimit64 l;
    CHECK(prlimit64(0, RLIMIT_NOFILE, 0, &l) == 0 && l.rlim_cur > 10 && getauxval(AT_PAGESZ) == 4096 && getauxval(AT_RANDOM));
    char line[256] = "", path[64];
    int fd = open("/proc/self/auxv", O_RDONLY), found = 0;
    unsigned long pair[2];
    while (read(fd, pair, sizeof pair) == sizeof pair) found |= pair[0] == AT_ENTRY && pair[1] == getauxval(AT_ENTRY);
    CHECK(found && close(fd) == 0);
    fd = open("/proc/self/mem", O_RDWR);
    static char word[8] = "before";
    CHECK(fd >= 0 && pread64(fd, line, 8, (off64_t)(uintptr_t)word) == 8 && !strcmp(line, "before") && pwrite64(fd, "after", 6, (off64_t)(uintptr_t)word) == 6 && !strcmp(word, "after"));
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(path, line, sizeof line - 1);
    CHECK(n > 4 && !strcmp((line[n] = 0, line + n - 4), "/mem") && close(fd) == 0);
    FILE *f = fopen("/proc/self/smaps", "r");
    int sizes = 0, stack = 0, ours = 0;
    CHECK(f);
    while (fgets(line, sizeof line, f)) {
        unsigned long from, to;
        if (sscanf(line, "%lx-%lx", &from, &to) == 2 && from < to) { stack += strstr(line, "[stack]") != 0; ours += (unsigned long)about_the_process - from < to - from; }
        sizes += !strncmp(line, "Size:", 5);
    }
    CHECK(sizes > 3 && stack == 1 && ours == 1 && fclose(f) == 0);
    f = fopen("/proc/self/status", "r");
    int pid = 0, threads = 0;
    while (f && fgets(line, sizeof line, f)) { if (sscanf(line, "Pid: %d", &pid)) continue; if (sscanf(line, "Threads: %d", &threads)) continue; }
    CHECK(pid == getpid() && threads == 1);
#ifdef __arm__
    f = fopen("/proc/cpuinfo", "r");
    int model = 0, features = 0;
    while (f && fgets(line, sizeof line, f)) { model += !strncmp(line, "model name\t: ", 13); features += strstr(line, "Features") && strstr(line, "neon"); }
    CHECK(model >= 1 && features == model);
#endif
    siginfo_t i;
    int status;
    pid_t child = fork();
    if (!child) _exit(9);
    CHECK(waitid(P_PID, (id_t)child, &i, WEXITED | WNOWAIT) == 0 && i.si_code == CLD_EXITED && i.si_status == 9 && i.si_pid == child);
    CHECK(wait4(child, &status, 0, &use) == child && WEXITSTATUS(status) == 9 && wait4(child, 0, 0, 0) == -1 && errno == ECHILD);
}

static const struct probe probes[] = {
    { "large_offsets", large_offsets }, { "file_attributes", file_attributes }, { "mappings", mappings },
    { "shared_between_processes", shared_between_processes }, { "event_descriptors", event_descriptors }, { "many_events", many_events },
    { "clocks_and_timers", clocks_and_timers }, { "terminals", terminals }, { "sockets", sockets },
    { "about_the_process", about_the_process },
};
PROBE_MAIN(probes)
