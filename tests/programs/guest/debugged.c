// What the stories of gdb.rs look at. The lines marked with a name are found by that name.
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

int shared_counter;
volatile int spin = 1;
double scale = 1.5;
static volatile sig_atomic_t seen;

static void handler(int n)
{
    seen = n;
}

__attribute__((noinline)) int sum(int n)
{
    int s = 0;
    for (int i = 1; i <= n; i++)
        s += i;
    return s;
}

__attribute__((noinline)) double scaled(double x)
{
    double y = x * scale;
    return y;
}

__attribute__((noinline)) int twice(int x)
{
    return 2 * x;
}

static void *worker(void *arg)
{
    int id = *(int *)arg;
    for (int i = 0; i < 3; i++) {
        __atomic_add_fetch(&shared_counter, id, __ATOMIC_SEQ_CST);
        usleep(1000);
    }
    return arg;
}

static int threads(void)
{
    pthread_t t[2];
    int ids[2] = {1, 10};
    for (int i = 0; i < 2; i++)
        pthread_create(&t[i], NULL, worker, &ids[i]);
    for (int i = 0; i < 2; i++)
        pthread_join(t[i], NULL);
    printf("counter %d\n", shared_counter);
    return 0;
}

static void *storm_thread(void *arg)
{
    long s = 0;
    for (int i = 0; i < 50; i++)
        s += twice(i);
    return arg ? (void *)s : NULL;
}

// Every thread calls twice() often; so do children, which nobody debugs.
static int storm(void)
{
    pthread_t t[8];
    long total = 0;
    int status;
    for (int i = 0; i < 8; i++)
        pthread_create(&t[i], NULL, storm_thread, &total);
    for (int i = 0; i < 8; i++) {
        void *s;
        pthread_join(t[i], &s);
        total += (long)s;
    }
    pid_t pid = fork();
    if (pid == 0)
        _exit(twice(11));
    waitpid(pid, &status, 0);
    total += WEXITSTATUS(status);
    pid = vfork();
    if (pid == 0)
        _exit(twice(7));
    waitpid(pid, &status, 0);
    printf("total %ld, vforked %d\n", total, WEXITSTATUS(status));
    return 0;
}

static int signals(void)
{
    signal(SIGUSR1, handler);
    raise(SIGUSR1);
    printf("seen %d\n", seen);
    seen = 0;
    raise(SIGUSR1);
    printf("seen %d\n", seen);
    fflush(stdout);
    *(volatile int *)0x10 = 1;
    return 0;
}

// For scripts that must not begin before this.
static void arrive(void)
{
    fclose(fopen("arrived", "w"));
}

static int blocked(void)
{
    char buf[64];
    arrive();
    int n = read(0, buf, sizeof buf);
    printf("read %d: %.*s", n, n < 0 ? 0 : n, buf);
    return 0;
}

static int loops(void)
{
    arrive();
    while (spin)
        ;
    printf("left the loop\n");
    return 5;
}

// A child, and another that executes this program again.
static int family(char *self)
{
    int status;
    pid_t pid = fork();
    if (pid == 0)
        _exit(sum(8));
    waitpid(pid, &status, 0);
    printf("child %d\n", WEXITSTATUS(status));
    pid = vfork();
    if (pid == 0) {
        execl(self, "leaf", "leaf", NULL);
        _exit(99);
    }
    waitpid(pid, &status, 0);
    printf("leaf %d\n", WEXITSTATUS(status));
    return sum(2);
}

int main(int argc, char **argv)
{
    int total = sum(10);
    double y = scaled(3.0);
    printf("total %d, scaled %.2f\n", total, y);
    fflush(stdout);
    if (argc < 2)
        return total == 55 ? 7 : 1;
    if (!strcmp(argv[1], "threads"))
        return threads();
    if (!strcmp(argv[1], "family"))
        return family(argv[0]);
    if (!strcmp(argv[1], "leaf"))
        return sum(9);
    if (!strcmp(argv[1], "storm"))
        return storm();
    if (!strcmp(argv[1], "signals"))
        return signals();
    if (!strcmp(argv[1], "blocked"))
        return blocked();
    return loops();
}
