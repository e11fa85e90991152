/* Scalar floating point, single and double. Contraction is off, so every machine computes the same bits. */
#include "bench.h"
#include <math.h>

static uint64_t nbody(unsigned n) {
    enum { B = 5 };
    static double p[B][3] = { { 0, 0, 0 }, { 4.84, -1.16, -.10 }, { 8.34, 4.12, -.4 }, { 12.89, -15.11, -.22 }, { 15.37, -25.9, .179 } };
    static double v[B][3] = { { 0, 0, 0 }, { .606, 2.81, -.02 }, { -1.01, 1.82, .008 }, { 1.08, .868, -.01 }, { .979, .594, -.034 } };
    static const double m[B] = { 39.47, .037, .011, .0017, .002 };
    while (n--) {
        for (int i = 0; i < B; i++)
            for (int k = i + 1; k < B; k++) {
                double d[3], q = 0;
                for (int c = 0; c < 3; c++) { d[c] = p[i][c] - p[k][c]; q += d[c] * d[c]; }
                double f = 0.01 / (q * sqrt(q));
                for (int c = 0; c < 3; c++) { v[i][c] -= d[c] * m[k] * f; v[k][c] += d[c] * m[i] * f; }
            }
        for (int i = 0; i < B; i++) for (int c = 0; c < 3; c++) p[i][c] += 0.01 * v[i][c];
    }
    return bits(p[0][0] + p[4][2]);
}

static uint64_t mandelbrot(unsigned n) {
    uint64_t sum = 0;
    for (unsigned y = 0; y < n; y++)
        for (unsigned x = 0; x < n; x++) {
            double cr = 2.0 * x / n - 1.5, ci = 2.0 * y / n - 1.0, r = 0, i = 0;
            int k = 0;
            for (; k < 50; k++) {
                double rr = r * r, ii = i * i;
                if (rr + ii > 4) break;
                i = 2 * r * i + ci; r = rr - ii + cr;
            }
            sum = sum * 31 + (unsigned)k;
        }
    return sum;
}

#define MATMUL(name, type)                                                                   \
    static uint64_t name(unsigned n) {                                                       \
        enum { S = 48 };                                                                     \
        static type a[S][S], b[S][S], c[S][S];                                               \
        for (int i = 0; i < S * S; i++) { (&a[0][0])[i] = (type)(i % 7) / 8; (&b[0][0])[i] = (type)(i % 5) / 4; } \
        while (n--) {                                                                        \
            for (int i = 0; i < S; i++)                                                      \
                for (int k = 0; k < S; k++) {                                                \
                    type s = 0;                                                              \
                    for (int m = 0; m < S; m++) s += a[i][m] * b[m][k];                      \
                    c[i][k] = s;                                                             \
                }                                                                            \
            a[1][1] = c[5][5] / 64;                                                          \
        }                                                                                    \
        return bits(c[1][1] + c[S - 1][2]);                                                  \
    }
MATMUL(matmul_double, double)
MATMUL(matmul_float, float)

/* Gaussian elimination with partial pivoting. */
static uint64_t linpack(unsigned n) {
    enum { S = 60 };
    static double a[S][S + 1];
    double total = 0;
    while (n--) {
        uint32_t seed = 77;
        for (int i = 0; i < S; i++) for (int k = 0; k <= S; k++) a[i][k] = (double)(next_random(&seed) >> 8) / (1 << 24) - .5;
        for (int c = 0; c < S; c++) {
            int best = c;
            for (int r = c + 1; r < S; r++) if (fabs(a[r][c]) > fabs(a[best][c])) best = r;
            for (int k = c; k <= S; k++) { double t = a[c][k]; a[c][k] = a[best][k]; a[best][k] = t; }
            for (int r = c + 1; r < S; r++) {
                double f = a[r][c] / a[c][c];
                for (int k = c; k <= S; k++) a[r][k] -= f * a[c][k];
            }
        }
        for (int c = S - 1; c >= 0; c--) {
            a[c][S] /= a[c][c];
            for (int r = 0; r < c; r++) a[r][S] -= a[r][c] * a[c][S];
        }
        total += a[0][S];
    }
    return bits(total);
}

static uint64_t fft(unsigned n) {
    enum { S = 512 };
    static double re[S], im[S];
    for (int i = 0; i < S; i++) { re[i] = i % 17; im[i] = 0; }
    while (n--) {
        for (int i = 1, k = 0; i < S; i++) {
            int bit = S >> 1;
            for (; k & bit; bit >>= 1) k ^= bit;
            k ^= bit;
            if (i < k) { double t = re[i]; re[i] = re[k]; re[k] = t; t = im[i]; im[i] = im[k]; im[k] = t; }
        }
        for (int len = 2; len <= S; len <<= 1) {
            /* the rotation by 2 pi / len, from half-angle steps, so that no library is in the loop */
            double wr = -1, wi = 0;
            for (int l = 2; l < len; l <<= 1) { double c = sqrt((1 + wr) / 2), s = wi == 0 ? 1 : wi / (2 * c); wr = c; wi = s; }
            for (int i = 0; i < S; i += len) {
                double ur = 1, ui = 0;
                for (int k = 0; k < len / 2; k++) {
                    double xr = re[i + k + len / 2] * ur - im[i + k + len / 2] * ui, xi = re[i + k + len / 2] * ui + im[i + k + len / 2] * ur;
                    re[i + k + len / 2] = re[i + k] - xr; im[i + k + len / 2] = im[i + k] - xi;
                    re[i + k] += xr; im[i + k] += xi;
                    double t = ur * wr - ui * wi; ui = ur * wi + ui * wr; ur = t;
                }
            }
        }
        for (int i = 0; i < S; i++) { re[i] *= 1.0 / 32; im[i] *= 1.0 / 32; }
    }
    return bits(re[3]) ^ bits(im[200]);
}

static uint64_t libm(unsigned n) {
    double s = 0, x = 0.1;
    while (n--) {
        x += 0.37;
        if (x > 30) x -= 30;
        s += sin(x) + cos(x) * exp(-x) + log(x + 1) + pow(x, 0.3) + atan2(x, 2) + (double)tanhf((float)x);
    }
    return bits(floor(s * 1e3));
}

static uint64_t fused(unsigned n) {
    double a = 1.0, b = 0.5;
    float c = 1.0f;
    while (n--) {
        a = fma(a, -0.75, b);
        b = fma(b, 0.5, 1.0 - a * 1e-3);
        c = fmaf(c, 0.875f, (float)b * 0.25f);
        OPAQUE(n);
    }
    return bits(a) ^ bits(c);
}

/* Procedures, conditionals and polynomial arithmetic, as numerical programs mix them. */
static NOINLINE void whet_step(double *e) {
    for (int k = 0; k < 6; k++) {
        e[0] = (e[0] + e[1] + e[2] - e[3]) * .499975;
        e[1] = (e[0] + e[1] - e[2] + e[3]) * .499975;
        e[2] = (e[0] - e[1] + e[2] + e[3]) * .499975;
        e[3] = (-e[0] + e[1] + e[2] + e[3]) / 2.0;
    }
}
static uint64_t mixture(unsigned n) {
    double e[4] = { 1, -1, -1, -1 }, x = 0.75, total = 0;
    int j = 1;
    while (n--) {
        whet_step(e);
        j = j == 1 ? 2 : 3;
        j = j > 2 ? 0 : 1;
        j = j < 1 ? 1 : 0;
        double y = x * x, p = x * (1 - y * (1.0 / 6 - y * (1.0 / 120 - y / 5040)));
        total += p / (1 + fabs(e[3])) + (int)(total * 3) % 5;
        x = total > 1000 ? 0.75 : x * 1.0000001;
        if (total > 1e6) total = 0;
    }
    return bits(total) ^ bits(e[0]) ^ (unsigned)j;
}

static uint64_t convert(unsigned n) {
    uint32_t seed = 31;
    double s = 0;
    float f = 0;
    uint64_t sum = 0;
    while (n--) {
        uint32_t x = next_random(&seed);
        s += (double)x * 1e-9 + (double)(int32_t)x;
        f += (float)(int32_t)x;
        sum += (uint32_t)(int32_t)(s * 1e-6) + (s > f) + (uint64_t)(f < 0);
    }
    return bits(s) ^ bits(f) ^ sum;
}

static const struct row rows[] = {
    { "nbody", nbody }, { "mandelbrot", mandelbrot }, { "matmul_double", matmul_double }, { "matmul_float", matmul_float },
    { "linpack", linpack }, { "fft", fft }, { "libm", libm }, { "fused", fused }, { "mixture", mixture }, { "convert", convert },
};
BENCH_MAIN(rows)
