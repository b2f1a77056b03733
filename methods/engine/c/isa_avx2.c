/* Kernels for AVX2 and FMA. */
#include "avx2.h"

/* Any bytes: even and odd ones apart, in 16 bits, where two products of bytes have room. */
INLINE __m256i any(__m256i sum, __m256i x, __m256i w) {
    __m256i even =
        _mm256_madd_epi16(_mm256_and_si256(x, _mm256_set1_epi16(255)), _mm256_srai_epi16(_mm256_slli_epi16(w, 8), 8));
    __m256i odd = _mm256_madd_epi16(_mm256_srli_epi16(x, 8), _mm256_srai_epi16(w, 8));
    return _mm256_add_epi32(sum, _mm256_add_epi32(even, odd));
}

/* Weights from -64 to 64: two products fit into 16 bits, 2 * 255 * 64 < 32768. */
INLINE __m256i small(__m256i sum, __m256i x, __m256i w) {
    return _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(x, w), _mm256_set1_epi16(1)));
}

TILE_256(dot, any)
TILE_256(dot_small, small)

const Kernels kernels_avx2 = {.name = "avx2", .pad = 8, .dot = dot, .dot_small = dot_small, SHARED_KERNELS};
