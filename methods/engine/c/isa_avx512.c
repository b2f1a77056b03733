/* Kernels for AVX512-VNNI, with the look-up of one-bit weights. */
#include "avx512.h"

/* The sums of all 64 subsets of six codes, in 16 bits: what a look-up reads. */
INLINE void subset_sums(const uint8_t *six, uint16_t *table) {
    static const int8_t bits[4][64] __attribute__((aligned(64))) = {
#define PAIR(i, low) (i) >> (low) & 1, (i) >> ((low) + 1) & 1
#define EIGHT(i, low)                                                                                       \
    PAIR(i, low), PAIR(i + 1, low), PAIR(i + 2, low), PAIR(i + 3, low), PAIR(i + 4, low), PAIR(i + 5, low), \
        PAIR(i + 6, low), PAIR(i + 7, low)
        {EIGHT(0, 0), EIGHT(8, 0), EIGHT(16, 0), EIGHT(24, 0)},
        {EIGHT(0, 2), EIGHT(8, 2), EIGHT(16, 2), EIGHT(24, 2)},
        {EIGHT(0, 4), EIGHT(8, 4), EIGHT(16, 4), EIGHT(24, 4)},
        {EIGHT(32, 4), EIGHT(40, 4), EIGHT(48, 4), EIGHT(56, 4)},
    };
    int16_t pairs[3];
    memcpy(pairs, six, 6);
    __m512i x = _mm512_set1_epi16(pairs[0]), y = _mm512_set1_epi16(pairs[1]), z = _mm512_set1_epi16(pairs[2]);
    __m512i shared = _mm512_add_epi16(_mm512_maddubs_epi16(x, _mm512_load_si512(bits[0])),
                                      _mm512_maddubs_epi16(y, _mm512_load_si512(bits[1])));
    _mm512_store_si512(table, _mm512_add_epi16(shared, _mm512_maddubs_epi16(z, _mm512_load_si512(bits[2]))));
    _mm512_store_si512(table + 32, _mm512_add_epi16(shared, _mm512_maddubs_epi16(z, _mm512_load_si512(bits[3]))));
}

/* Up to 42 groups of one block of 128 columns: sums in 16 bits of what the weights of value 1 select, added to c. A weight
 * of 1 or -1 times a code sums to twice what the ones select less the sum of all codes, `totals`: given with the last
 * groups. A word of weights holds the indices of two groups in its bytes. vpermi2w reads the low six bits of a word, so the
 * first group's indices are the words at an address, and the second's those one byte behind. */
static __attribute__((noinline)) void look_up(const uint16_t *tables, int32_t groups, const uint8_t *weights, int32_t *c,
                                              int64_t stride, int32_t first_groups, const int32_t *totals) {
    __m512i sums[LOOKUP_ROWS][4];
#pragma GCC unroll 4
    for (int32_t r = 0; r < LOOKUP_ROWS; r++)
#pragma GCC unroll 4
        for (int32_t v = 0; v < 4; v++) sums[r][v] = _mm512_setzero_si512();
    for (int32_t g = 0; g < groups; g++) {
        __m512i index[4];
#pragma GCC unroll 4
        for (int32_t v = 0; v < 4; v++)
            index[v] = _mm512_loadu_si512(weights + (int64_t)(g / 2) * LOOKUP_BYTES + v * 64 + g % 2);
#pragma GCC unroll 4
        for (int32_t r = 0; r < LOOKUP_ROWS; r++) {
            const uint16_t *table = tables + ((int64_t)r * LOOKUP_DEPTH + g) * 64;
            __m512i first = _mm512_load_si512(table), second = _mm512_load_si512(table + 32);
#pragma GCC unroll 4
            for (int32_t v = 0; v < 4; v++) {
                sums[r][v] = _mm512_add_epi16(sums[r][v], _mm512_permutex2var_epi16(first, index[v], second));
                __asm__("" : "+v"(sums[r][v]));
            }
        }
    }
#pragma GCC unroll 4
    for (int32_t r = 0; r < LOOKUP_ROWS; r++)
#pragma GCC unroll 4
        for (int32_t v = 0; v < 4; v++) {
            int32_t *to = c + r * stride + v * 32;
            __m512i low = _mm512_cvtepu16_epi32(_mm512_castsi512_si256(sums[r][v])),
                    high = _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(sums[r][v], 1));
            if (!first_groups) {
                low = _mm512_add_epi32(_mm512_loadu_si512(to), low);
                high = _mm512_add_epi32(_mm512_loadu_si512(to + 16), high);
            }
            if (totals) {
                low = _mm512_sub_epi32(_mm512_add_epi32(low, low), _mm512_set1_epi32(totals[r]));
                high = _mm512_sub_epi32(_mm512_add_epi32(high, high), _mm512_set1_epi32(totals[r]));
            }
            _mm512_storeu_si512(to, low);
            _mm512_storeu_si512(to + 16, high);
        }
}

/* Columns behind `depth` are selected by no weight, so it does not matter what stands there. */
static void lookup(const uint8_t *a, int64_t stride, int32_t rows, int32_t depth, const uint8_t *weights, int32_t from,
                   int32_t to, int32_t *c, int64_t c_stride, uint16_t *tables) {
    const int32_t groups = (depth + LOOKUP_GROUP - 1) / LOOKUP_GROUP, pairs = (groups + 1) / 2;
    int32_t totals[LOOKUP_ROWS] = {0};
    for (int32_t r = 0; r < rows; r++)
        for (int32_t k = 0; k < depth; k++) totals[r] += a[r * stride + k];
    for (int32_t start = 0; start < groups; start += LOOKUP_DEPTH) {
        const int32_t some = groups - start < LOOKUP_DEPTH ? groups - start : LOOKUP_DEPTH;
        for (int32_t r = 0; r < rows; r++)
            for (int32_t g = 0; g < some; g++)
                subset_sums(a + r * stride + (start + g) * LOOKUP_GROUP, tables + (r * LOOKUP_DEPTH + g) * 64);
        for (int32_t b = from; b < to; b++)
            look_up(tables, some, weights + ((int64_t)b * pairs + start / 2) * LOOKUP_BYTES, c + (b - from) * LOOKUP_COLUMNS,
                    c_stride, start == 0, start + some == groups ? totals : NULL);
    }
}

const Kernels kernels_avx512 = {
    .name = "avx512_vnni", .pad = 8, .dot = dot, .dot_small = dot, .lookup = lookup, SHARED_KERNELS};
