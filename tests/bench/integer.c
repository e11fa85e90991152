/* Integer work: records and strings, checksums, sorting, state machines, wide arithmetic. */
#include "bench.h"

/* Records, pointers, short strings and small procedures, in the mix that system programs have. */
struct record { struct record *next; int kind, a, b; char text[31]; };
static NOINLINE int classify(char x, char y) { return x == y ? 1 : 0; }
static NOINLINE void adjust(struct record *r, int *out) { r->a += 10; *out = r->kind == 2 ? r->a - 1 : r->b; }
static NOINLINE int compare_text(const char *a, const char *b) {
    int i = 2;
    while (i <= 2) if (classify(a[i], b[i + 1])) i += 3; else i++;
    return strcmp(a, b) > 0 ? 7 + i : i;
}
static uint64_t records(unsigned n) {
    static int grid[50][50], line[50];
    struct record one = { 0, 2, 5, 40, "A PROGRAM, SOME STRING" }, two = one;
    uint64_t sum = 1;
    one.next = &two;
    for (unsigned i = 1; i <= n; i++) {
        char other[31];
        int x = 2, y = 3, z = 0;
        strcpy(other, i & 1 ? "A PROGRAM, 2'ND STRING" : "A PROGRAM, 3'RD STRING");
        while (x < y) { z = 5 * x - y; x++; }
        line[z] = (int)i; line[z + 1] = line[z]; line[z + 30] = z;
        for (int k = z; k <= z + 1; k++) grid[z][k] = line[k];
        grid[z][z - 1] += 1;
        *one.next = one;
        adjust(one.next, &x);
        y = compare_text(one.text, other) * (int)i / (x ? x : 1);
        sum = mix(sum, (uint32_t)(x + y + grid[z][z - 1]));
    }
    return sum;
}

static uint32_t crc_table[256];
static uint64_t crc32(unsigned n) {
    static uint8_t data[4096];
    uint32_t seed = 1, c = ~0u;
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t v = i;
        for (int k = 0; k < 8; k++) v = v & 1 ? 0xedb88320u ^ v >> 1 : v >> 1;
        crc_table[i] = v;
    }
    for (int i = 0; i < 4096; i++) data[i] = (uint8_t)next_random(&seed);
    while (n--) for (int i = 0; i < 4096; i++) c = crc_table[(c ^ data[i]) & 255] ^ c >> 8;
    return ~c;
}

static const uint32_t K[64] = {
    0x428a2f98,0x71374491,0xb5c0fbcf,0xe9b5dba5,0x3956c25b,0x59f111f1,0x923f82a4,0xab1c5ed5,0xd807aa98,0x12835b01,0x243185be,0x550c7dc3,0x72be5d74,0x80deb1fe,0x9bdc06a7,0xc19bf174,
    0xe49b69c1,0xefbe4786,0x0fc19dc6,0x240ca1cc,0x2de92c6f,0x4a7484aa,0x5cb0a9dc,0x76f988da,0x983e5152,0xa831c66d,0xb00327c8,0xbf597fc7,0xc6e00bf3,0xd5a79147,0x06ca6351,0x14292967,
    0x27b70a85,0x2e1b2138,0x4d2c6dfc,0x53380d13,0x650a7354,0x766a0abb,0x81c2c92e,0x92722c85,0xa2bfe8a1,0xa81a664b,0xc24b8b70,0xc76c51a3,0xd192e819,0xd6990624,0xf40e3585,0x106aa070,
    0x19a4c116,0x1e376c08,0x2748774c,0x34b0bcb5,0x391c0cb3,0x4ed8aa4a,0x5b9cca4f,0x682e6ff3,0x748f82ee,0x78a5636f,0x84c87814,0x8cc70208,0x90befffa,0xa4506ceb,0xbef9a3f7,0xc67178f2 };
static inline uint32_t ror(uint32_t x, int n) { return x >> n | x << (32 - n); }
static uint64_t sha256(unsigned n) {
    uint32_t h[8] = { 0x6a09e667,0xbb67ae85,0x3c6ef372,0xa54ff53a,0x510e527f,0x9b05688c,0x1f83d9ab,0x5be0cd19 }, w[64], seed = 7;
    while (n--) {
        uint32_t s[8];
        for (int i = 0; i < 16; i++) w[i] = next_random(&seed);
        for (int i = 16; i < 64; i++)
            w[i] = w[i - 16] + w[i - 7] + (ror(w[i - 15], 7) ^ ror(w[i - 15], 18) ^ w[i - 15] >> 3) + (ror(w[i - 2], 17) ^ ror(w[i - 2], 19) ^ w[i - 2] >> 10);
        memcpy(s, h, sizeof s);
        for (int i = 0; i < 64; i++) {
            uint32_t t1 = s[7] + (ror(s[4], 6) ^ ror(s[4], 11) ^ ror(s[4], 25)) + ((s[4] & s[5]) ^ (~s[4] & s[6])) + K[i] + w[i];
            uint32_t t2 = (ror(s[0], 2) ^ ror(s[0], 13) ^ ror(s[0], 22)) + ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));
            memmove(s + 1, s, 7 * sizeof *s);
            s[4] += t1; s[0] = t1 + t2;
        }
        for (int i = 0; i < 8; i++) h[i] += s[i];
    }
    return (uint64_t)h[0] << 32 | h[7];
}

static void sift(uint32_t *a, unsigned lo, unsigned hi) {
    for (unsigned c; (c = 2 * lo + 1) < hi; lo = c) {
        if (c + 1 < hi && a[c + 1] > a[c]) c++;
        if (a[lo] >= a[c]) return;
        uint32_t t = a[lo]; a[lo] = a[c]; a[c] = t;
    }
}
static uint64_t heapsort(unsigned n) {
    uint32_t *a = must(malloc(n * sizeof *a)), seed = 3;
    uint64_t sum = 0;
    for (unsigned i = 0; i < n; i++) a[i] = next_random(&seed);
    for (unsigned i = n / 2; i-- > 0;) sift(a, i, n);
    for (unsigned i = n; i-- > 1;) { uint32_t t = a[0]; a[0] = a[i]; a[i] = t; sift(a, 0, i); }
    for (unsigned i = 0; i < n; i += 97) sum = mix(sum, a[i]);
    free(a);
    return sum;
}

static uint64_t sieve(unsigned n) {
    static uint8_t composite[1 << 17];
    uint64_t count = 0;
    while (n--) {
        memset(composite, 0, sizeof composite);
        for (unsigned i = 2; i < sizeof composite; i++)
            if (!composite[i]) { count++; for (unsigned k = 2 * i; k < sizeof composite; k += i) composite[k] = 1; }
    }
    return count;
}

/* A lexer-like machine: one table look-up, one unpredictable branch a byte. */
static uint64_t machine(unsigned n) {
    static uint8_t text[8192];
    uint32_t seed = 11, count[6] = { 0 };
    for (unsigned i = 0; i < sizeof text; i++) text[i] = "0123456789+-.eE,xyz \n"[next_random(&seed) % 21];
    while (n--) {
        int state = 0;
        for (unsigned i = 0; i < sizeof text; i++) {
            uint8_t c = text[i];
            switch (state) {
            case 0: state = c >= '0' && c <= '9' ? 1 : c == '+' || c == '-' ? 2 : c == '.' ? 3 : 0; break;
            case 1: state = c == '.' ? 3 : c == 'e' || c == 'E' ? 4 : c >= '0' && c <= '9' ? 1 : c == ',' ? 0 : 5; break;
            case 2: state = c == '.' ? 3 : c >= '0' && c <= '9' ? 1 : 5; break;
            case 3: state = c == 'e' ? 4 : c >= '0' && c <= '9' ? 3 : c == ',' ? 0 : 5; break;
            case 4: state = c == '+' || c == '-' ? 2 : c >= '0' && c <= '9' ? 1 : 5; break;
            default: state = c == ',' || c == '\n' ? 0 : 5;
            }
            count[state]++;
        }
    }
    uint64_t sum = 0;
    for (int i = 0; i < 6; i++) sum = mix(sum, count[i]);
    return sum;
}

/* Multi-word multiplication: 32x32 to 64 multiply-accumulate with carries. */
static uint64_t bignum(unsigned n) {
    uint32_t a[32], b[32], r[64], seed = 5;
    for (int i = 0; i < 32; i++) { a[i] = next_random(&seed); b[i] = next_random(&seed); }
    while (n--) {
        memset(r, 0, sizeof r);
        for (int i = 0; i < 32; i++) {
            uint64_t carry = 0;
            for (int k = 0; k < 32; k++) { carry += (uint64_t)a[i] * b[k] + r[i + k]; r[i + k] = (uint32_t)carry; carry >>= 32; }
            r[i + 32] = (uint32_t)carry;
        }
        for (int i = 0; i < 32; i++) { a[i] ^= r[i + 32]; b[i] += r[i]; }
    }
    return (uint64_t)r[63] << 32 | r[5];
}

static uint64_t divide(unsigned n) {
    uint32_t seed = 9;
    uint64_t sum = 0, wide = 0x123456789abcdefull;
    while (n--) {
        uint32_t x = next_random(&seed), y = (x >> 20) + 1;
        sum += x / y + (uint32_t)((int32_t)x % (int32_t)y);
        wide = wide * 3 + x;
        sum ^= wide / (y | 1u << 30) + wide % 1000003u;
    }
    return sum;
}

static uint64_t matrix(unsigned n) {
    enum { S = 40 };
    static int32_t a[S][S], b[S][S], c[S][S];
    for (int i = 0; i < S * S; i++) { (&a[0][0])[i] = i * 7 % 13; (&b[0][0])[i] = i * 5 % 11; }
    while (n--) {
        for (int i = 0; i < S; i++)
            for (int k = 0; k < S; k++) {
                int32_t s = 0;
                for (int m = 0; m < S; m++) s += a[i][m] * b[m][k];
                c[i][k] = s;
            }
        a[0][0] = c[S - 1][S - 1] & 15;
    }
    return (uint64_t)(uint32_t)c[3][4] << 32 | (uint32_t)c[S - 1][1];
}

/* Dictionary compression of text: hash chains, byte compares, unaligned copies. */
static uint64_t squeeze(unsigned n) {
    static uint8_t in[32768], out[65536];
    static uint16_t head[4096];
    uint32_t seed = 21;
    uint64_t sum = 0;
    for (unsigned i = 0; i < sizeof in; i++)
        in[i] = i > 300 && next_random(&seed) % 5 ? in[i - 1 - seed % 257] : (uint8_t)('a' + seed % 26);
    while (n--) {
        unsigned o = 0;
        memset(head, 0, sizeof head);
        for (unsigned i = 0; i + 4 < sizeof in;) {
            unsigned h = (in[i] | in[i + 1] << 8 | in[i + 2] << 16) * 2654435761u >> 20, at = head[h], len = 0;
            head[h] = (uint16_t)i;
            if (at < i) while (len < 255 && i + len < sizeof in && in[at + len] == in[i + len]) len++;
            if (len > 3) { out[o++] = 255; out[o++] = (uint8_t)len; out[o++] = (uint8_t)(i - at); i += len; } else out[o++] = in[i++];
        }
        sum = mix(sum, o); sum = mix(sum, out[o / 2]);
    }
    return sum;
}

static uint64_t hanoi_moves;
static NOINLINE void hanoi_move(int n, int from, int to, int via) {
    if (!n) return;
    hanoi_move(n - 1, from, via, to);
    hanoi_moves += (unsigned)(from * 3 + to);
    hanoi_move(n - 1, via, to, from);
}
static uint64_t hanoi(unsigned n) { while (n--) hanoi_move(16, 0, 2, 1); return hanoi_moves; }

static uint64_t bitcount(unsigned n) {
    uint32_t seed = 17;
    uint64_t sum = 0;
    while (n--) {
        uint32_t x = next_random(&seed), y = x, c = 0;
        while (y) { y &= y - 1; c++; }
        x = (x & 0x55555555u) << 1 | (x >> 1 & 0x55555555u);
        sum += c + (unsigned)__builtin_clz(x | 1) + (unsigned)__builtin_ctz(x | 1u << 31) + __builtin_bswap32(x) % 3;
    }
    return sum;
}

static const struct row rows[] = {
    { "records", records }, { "crc32", crc32 }, { "sha256", sha256 }, { "heapsort", heapsort }, { "sieve", sieve },
    { "machine", machine }, { "bignum", bignum }, { "divide", divide }, { "matrix", matrix }, { "squeeze", squeeze },
    { "hanoi", hanoi }, { "bitcount", bitcount },
};
BENCH_MAIN(rows)
