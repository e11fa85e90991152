/* A disk without the page cache: disk ROW DEVICE N. Sequential rows move N MiB in blocks of 256 KiB (from the start again at
 * the end of the device), random rows N blocks of 4 KiB. The checksum covers what was read; written blocks are what was there.
 */
#include "bench.h"
#include <fcntl.h>
#include <unistd.h>

#define LARGE (256 << 10)
#define SMALL 4096

static int device;
static uint32_t blocks;
static unsigned char *buffer;

static uint64_t sum(uint64_t s, size_t size) {
    for (size_t i = 0; i < size; i += 512) s = mix(s, *(uint32_t *)(buffer + i));
    return s;
}

static uint64_t transfer(unsigned count, size_t size, int random, int write) {
    uint32_t seed = 12345, at = 0, all = blocks / (uint32_t)(size / SMALL);
    uint64_t s = 0;
    if (write) check(pread(device, buffer, size, 0) != (ssize_t)size, "pread");
    for (unsigned i = 0; i < count; i++) {
        at = (random ? next_random(&seed) : i) % all;
        off_t offset = (off_t)at * (off_t)size;
        if (write) {
            *(uint32_t *)buffer = i;
            check(pwrite(device, buffer, size, offset) != (ssize_t)size, "pwrite");
        } else {
            check(pread(device, buffer, size, offset) != (ssize_t)size, "pread");
            s = sum(s, size);
        }
    }
    if (!write) return s;
    check(pread(device, buffer, size, (off_t)at * (off_t)size) != (ssize_t)size, "pread");
    return *(uint32_t *)buffer;
}

int main(int argc, char **argv) {
    check(argc != 4, "disk ROW DEVICE N");
    static const struct { const char *name; int random, write; } rows[] = {
        { "read", 0, 0 }, { "write", 0, 1 }, { "read_random", 1, 0 }, { "write_random", 1, 1 },
    };
    device = open(argv[2], O_RDWR | O_DIRECT);
    check(device < 0, argv[2]);
    blocks = (uint32_t)(lseek(device, 0, SEEK_END) / SMALL);
    check(posix_memalign((void **)&buffer, SMALL, LARGE) != 0, "posix_memalign");
    unsigned n = (unsigned)atol(argv[3]);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (!strcmp(rows[i].name, argv[1])) {
            uint64_t s = rows[i].random ? transfer(n, SMALL, 1, rows[i].write) : transfer(n * 4, LARGE, 0, rows[i].write);
            printf("%s %016llx\n", argv[1], (unsigned long long)s);
            return 0;
        }
    return 1;
}
