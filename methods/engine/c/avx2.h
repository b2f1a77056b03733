/* Kernels for vectors of 32 bytes. `dot4` adds products of four unsigned and four signed bytes to every 32-bit lane. */
#define LANES_256
#include "kernels.h"
#include "lanes.h"
#include "rows.h"

#define ROWS_256 4
#define TILE_256(NAME, DOT4)                                                                                          \
    INLINE void NAME##_tile(const uint8_t *a, int64_t stride, const int32_t rows, const int8_t *panel, int32_t steps, \
                            int32_t *c) {                                                                             \
        __m256i sums[ROWS_256][2];                                                                                    \
        for (int32_t r = 0; r < rows; r++) sums[r][0] = sums[r][1] = _mm256_setzero_si256();                          \
        for (int32_t s = 0; s < steps; s++) {                                                                         \
            __m256i w0 = _mm256_loadu_si256((const __m256i *)(panel + (int64_t)s * 256));                             \
            __m256i w1 = _mm256_loadu_si256((const __m256i *)(panel + (int64_t)s * 256 + 32));                        \
            for (int32_t r = 0; r < rows; r++) {                                                                      \
                int32_t four;                                                                                         \
                memcpy(&four, a + r * stride + 4 * s, 4);                                                             \
                __m256i x = _mm256_set1_epi32(four);                                                                  \
                sums[r][0] = DOT4(sums[r][0], x, w0);                                                                 \
                sums[r][1] = DOT4(sums[r][1], x, w1);                                                                 \
            }                                                                                                         \
        }                                                                                                             \
        for (int32_t r = 0; r < rows; r++) {                                                                          \
            _mm256_storeu_si256((__m256i *)(c + r * PANEL), sums[r][0]);                                              \
            _mm256_storeu_si256((__m256i *)(c + r * PANEL + 8), sums[r][1]);                                          \
        }                                                                                                             \
    }                                                                                                                 \
    static __attribute__((noinline)) void NAME(const uint8_t *a, int64_t stride, int32_t rows, const int8_t *panel,   \
                                               int32_t steps, int32_t groups, int32_t *c) {                           \
        for (int32_t g = 0; g < groups; g++)                                                                          \
            for (int32_t r = 0; r < rows; r += ROWS_256) {                                                            \
                const uint8_t *x = a + r * stride;                                                                    \
                const int8_t *w = panel + g * 64;                                                                     \
                int32_t *y = c + r * PANEL + g * 16;                                                                  \
                switch (rows - r) {                                                                                   \
                    case 1: NAME##_tile(x, stride, 1, w, steps, y); break;                                            \
                    case 2: NAME##_tile(x, stride, 2, w, steps, y); break;                                            \
                    case 3: NAME##_tile(x, stride, 3, w, steps, y); break;                                            \
                    default: NAME##_tile(x, stride, 4, w, steps, y);                                                  \
                }                                                                                                     \
            }                                                                                                         \
    }

static void unpack(const uint8_t *packed, int32_t bits, const int8_t *values, int32_t steps, int8_t *panel) {
    const __m256i low = _mm256_set1_epi8(15);
    int8_t table[4][16]; /* what the bits at each place of half a byte stand for */
    const int32_t parts = 4 / bits;
    for (int32_t p = 0; p < parts; p++)
        for (int32_t i = 0; i < 16; i++) table[p][i] = values[i >> p * bits & ((1 << bits) - 1)];
    const int32_t vectors = bits == 1 ? 8 : bits == 2 ? 4 : 2;
    const int64_t blocks = bits == 1 ? steps / 2 : bits == 2 ? steps : 2 * (int64_t)steps;
    for (int64_t b = 0; b < blocks; b++)
        for (int32_t half = 0; half < 2; half++) {
            __m256i x = _mm256_loadu_si256((const __m256i *)(packed + b * 64 + half * 32));
            __m256i nibbles[2] = {_mm256_and_si256(x, low), _mm256_and_si256(_mm256_srli_epi16(x, 4), low)};
            for (int32_t v = 0; v < vectors; v++) {
                __m256i map = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)table[v % parts]));
                _mm256_storeu_si256((__m256i *)(panel + (b * vectors + v) * 64 + half * 32),
                                    _mm256_shuffle_epi8(map, nibbles[v / parts]));
            }
        }
}
