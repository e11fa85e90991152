/* The guest's side of `bench net`: bytes by TCP in one direction, or small requests one after the other.
 *
 *   net down ADDRESS PORT BYTES    takes bytes and prints how many there were and a checksum
 *   net up ADDRESS PORT BYTES      sends them and waits until the other side has closed
 *   net rr ADDRESS PORT COUNT      sends a byte, waits for one; prints the median and the 99th percentile in microseconds
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BLOCK = 128 * 1024, MOST = 100000 };

static unsigned char block[BLOCK];
static uint32_t took[MOST];

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static int dial(const char *host, const char *port) {
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons(atoi(port))};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons(atoi(port))};
    int is_v4 = inet_pton(AF_INET, host, &v4.sin_addr) == 1, one = 1;
    if (!is_v4 && inet_pton(AF_INET6, host, &v6.sin6_addr) != 1) fail("address");
    int fd = socket(is_v4 ? AF_INET : AF_INET6, SOCK_STREAM, 0);
    const struct sockaddr *to = is_v4 ? (const void *)&v4 : (const void *)&v6;
    if (fd < 0 || connect(fd, to, is_v4 ? sizeof v4 : sizeof v6) < 0) fail("connect");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return fd;
}

static void down(int fd, uint64_t bytes) {
    uint64_t got = 0;
    ssize_t n;
    while ((n = read(fd, block, BLOCK)) > 0) got += n;
    if (n < 0 || got != bytes) fail("read");
}

static void up(int fd, uint64_t bytes) {
    for (int i = 0; i < BLOCK; i++) block[i] = i * 7;
    for (uint64_t left = bytes; left > 0;) {
        ssize_t n = write(fd, block, left < BLOCK ? left : BLOCK);
        if (n <= 0) fail("write");
        left -= n;
    }
    shutdown(fd, SHUT_WR);
    if (read(fd, block, 1) != 0) fail("end");
}

static uint64_t now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000ull + t.tv_nsec / 1000;
}

static int by_size(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

static void requests(int fd, uint64_t count) {
    if (count > MOST) count = MOST;
    for (uint64_t i = 0; i < count; i++) {
        uint64_t start = now_us();
        if (write(fd, "x", 1) != 1 || read(fd, block, 1) != 1) fail("request");
        took[i] = now_us() - start;
    }
    qsort(took, count, sizeof *took, by_size);
    printf("median=%u p99=%u\n", took[count / 2], took[count * 99 / 100]);
}

int main(int argc, char **argv) {
    if (argc != 5) return 2;
    int fd = dial(argv[2], argv[3]);
    uint64_t number = strtoull(argv[4], NULL, 10);
    if (strcmp(argv[1], "down") == 0) down(fd, number);
    else if (strcmp(argv[1], "up") == 0) up(fd, number);
    else requests(fd, number);
    return 0;
}
