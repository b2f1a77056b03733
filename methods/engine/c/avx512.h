/* What AVX512-VNNI and AMX share: work on rows, unpacking, and products of a few rows. */
#define LANES_512
#include "kernels.h"
#include "lanes.h"
#include "rows.h"

/* `rows` by `groups` sums in registers. Each size is a function of its own, and the empty asm keeps its sums where they are:
 * otherwise gcc 12 moves some of them to memory and back, at half the speed. */
INLINE void dot_tile(const uint8_t *a, int64_t stride, const int32_t rows, const int8_t *panel, int32_t steps,
                     const int32_t groups, int32_t *c) {
    __m512i sums[8][4];
#pragma GCC unroll 8
    for (int32_t r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int32_t g = 0; g < groups; g++) sums[r][g] = _mm512_setzero_si512();
    for (int32_t s = 0; s < steps; s++) {
        __m512i w[4];
#pragma GCC unroll 4
        for (int32_t g = 0; g < groups; g++) w[g] = _mm512_loadu_si512(panel + (int64_t)s * 256 + g * 64);
#pragma GCC unroll 8
        for (int32_t r = 0; r < rows; r++) {
            int32_t four;
            memcpy(&four, a + r * stride + 4 * s, 4);
            __m512i x = _mm512_set1_epi32(four);
#pragma GCC unroll 4
            for (int32_t g = 0; g < groups; g++) {
                sums[r][g] = _mm512_dpbusd_epi32(sums[r][g], x, w[g]);
                __asm__("" : "+v"(sums[r][g]));
            }
        }
    }
#pragma GCC unroll 8
    for (int32_t r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int32_t g = 0; g < groups; g++) _mm512_storeu_si512(c + r * PANEL + g * 16, sums[r][g]);
}
#define DOT(R, G)                                                                                              \
    static __attribute__((noinline)) void dot_##R##_##G(const uint8_t *a, int64_t stride, const int8_t *panel, \
                                                        int32_t steps, int32_t *c) {                           \
        dot_tile(a, stride, R, panel, steps, G, c);                                                            \
    }
#define DOTS(G) DOT(1, G) DOT(2, G) DOT(3, G) DOT(4, G) DOT(5, G) DOT(6, G)
DOTS(1)
DOTS(2)
DOTS(4)
#define NAMES(G) {0, dot_1_##G, dot_2_##G, dot_3_##G, dot_4_##G, dot_5_##G, dot_6_##G}

static void dot(const uint8_t *a, int64_t stride, int32_t rows, const int8_t *panel, int32_t steps, int32_t groups,
                int32_t *c) {
    typedef void Function(const uint8_t *, int64_t, const int8_t *, int32_t, int32_t *);
    static Function *const tiles[][7] = {{0}, NAMES(1), NAMES(2), NAMES(4), NAMES(4)};
    for (int32_t r = 0; r < rows; r += 6) {
        int32_t some = rows - r < 6 ? rows - r : 6;
        tiles[groups][some](a + r * stride, stride, panel, steps, c + r * PANEL);
    }
}

/* `bits` is a constant here, so that all loops but the outermost are unrolled. */
INLINE void unpack_as(const uint8_t *packed, const int32_t bits, const int8_t *values, int64_t blocks, int8_t *panel) {
    const __m512i low = _mm512_set1_epi8(15);
    const int32_t parts = 4 / bits;
    int8_t table[4][16]; /* what the bits at each place of half a byte stand for */
    __m512i map[4];
#pragma GCC unroll 4
    for (int32_t p = 0; p < parts; p++) {
        for (int32_t i = 0; i < 16; i++) table[p][i] = values[i >> p * bits & ((1 << bits) - 1)];
        map[p] = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)table[p]));
    }
    for (int64_t b = 0; b < blocks; b++) {
        _mm_prefetch((const char *)(packed + (b + 32) * 64), _MM_HINT_T0); /* it comes from memory */
        const __m512i x = _mm512_loadu_si512(packed + b * 64);
        const __m512i first = _mm512_and_si512(x, low), second = _mm512_and_si512(_mm512_srli_epi16(x, 4), low);
        int8_t *out = panel + b * 128 * parts;
#pragma GCC unroll 4
        for (int32_t p = 0; p < parts; p++) {
            _mm512_store_si512(out + p * 64, _mm512_shuffle_epi8(map[p], first));
            _mm512_store_si512(out + (parts + p) * 64, _mm512_shuffle_epi8(map[p], second));
        }
    }
}

static void unpack(const uint8_t *packed, int32_t bits, const int8_t *values, int32_t steps, int8_t *panel) {
    switch (bits) {
        case 1: unpack_as(packed, 1, values, steps / 2, panel); break;
        case 2: unpack_as(packed, 2, values, steps, panel); break;
        default: unpack_as(packed, 4, values, 2 * (int64_t)steps, panel);
    }
}
