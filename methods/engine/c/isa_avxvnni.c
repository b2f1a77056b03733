/* Kernels for AVX2 with AVX-VNNI. */
#include "avx2.h"

#if defined(ENGINE_EMULATE) /* for tests on processors without it */
INLINE __m256i dot4(__m256i sum, __m256i x, __m256i w) {
    uint8_t a[32];
    int8_t b[32];
    int32_t y[8];
    _mm256_storeu_si256((__m256i *)a, x);
    _mm256_storeu_si256((__m256i *)b, w);
    _mm256_storeu_si256((__m256i *)y, sum);
    for (int32_t i = 0; i < 32; i++) y[i / 4] += a[i] * b[i];
    return _mm256_loadu_si256((const __m256i *)y);
}
#else
#define dot4(sum, x, w) _mm256_dpbusd_avx_epi32(sum, x, w)
#endif

TILE_256(dot, dot4)

const Kernels kernels_avxvnni = {.name = "avx_vnni", .pad = 8, .dot = dot, .dot_small = dot, SHARED_KERNELS};
