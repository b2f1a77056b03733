/* Vectors of floats under one set of names, so that rows.h is written once for every instruction set. */
#ifndef LANES_H
#define LANES_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

#if defined(LANES_512)
#include <immintrin.h>
#define LANES 16
typedef __m512 Floats;
INLINE Floats all(float x) { return _mm512_set1_ps(x); }
INLINE Floats load(const float *p) { return _mm512_loadu_ps(p); }
INLINE Floats load_some(const float *p, int n, float rest) {
    return _mm512_mask_loadu_ps(all(rest), (__mmask16)((1u << n) - 1), p);
}
INLINE void store(float *p, Floats x) { _mm512_storeu_ps(p, x); }
INLINE void store_some(float *p, int n, Floats x) { _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), x); }
INLINE Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
INLINE Floats sub(Floats a, Floats b) { return _mm512_sub_ps(a, b); }
INLINE Floats mul(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
INLINE Floats divide(Floats a, Floats b) { return _mm512_div_ps(a, b); }
/* a / b to the last bit or two: an estimate of 1 / b, made better once. */
INLINE Floats quotient(Floats a, Floats b) {
    Floats r = _mm512_rcp14_ps(b);
    return _mm512_mul_ps(a, _mm512_fmadd_ps(r, _mm512_fnmadd_ps(b, r, _mm512_set1_ps(1)), r));
}
INLINE Floats fma_(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
INLINE Floats least(Floats a, Floats b) { return _mm512_min_ps(a, b); }
INLINE Floats most(Floats a, Floats b) { return _mm512_max_ps(a, b); }
INLINE Floats nearest(Floats a) { return _mm512_roundscale_ps(a, 8); }
INLINE Floats scale2(Floats a, Floats n) { return _mm512_scalef_ps(a, n); }
INLINE Floats sign_of(Floats a) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, _mm512_setzero_ps(), _CMP_GE_OQ), all(-1), all(1));
}
INLINE Floats whole(const int32_t *p) { return _mm512_cvtepi32_ps(_mm512_loadu_si512(p)); }
INLINE Floats whole_less(const int32_t *p, const int32_t *q) {
    return _mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_loadu_si512(p), _mm512_loadu_si512(q)));
}
INLINE void store_bytes(uint8_t *p, Floats x) {
    _mm_storeu_si128((__m128i *)p, _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(x)));
}
INLINE void store_some_bytes(uint8_t *p, int n, Floats x) {
    _mm_mask_storeu_epi8(p, (__mmask16)((1u << n) - 1), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(x)));
}
INLINE float sum_of(Floats a) { return _mm512_reduce_add_ps(a); }
INLINE float least_of(Floats a) { return _mm512_reduce_min_ps(a); }
INLINE float most_of(Floats a) { return _mm512_reduce_max_ps(a); }

#elif defined(LANES_256)
#include <immintrin.h>
#define LANES 8
typedef __m256 Floats;
INLINE Floats all(float x) { return _mm256_set1_ps(x); }
INLINE Floats load(const float *p) { return _mm256_loadu_ps(p); }
INLINE Floats load_some(const float *p, int n, float rest) {
    float x[8];
    for (int i = 0; i < 8; i++) x[i] = i < n ? p[i] : rest;
    return _mm256_loadu_ps(x);
}
INLINE void store(float *p, Floats x) { _mm256_storeu_ps(p, x); }
INLINE void store_some(float *p, int n, Floats x) {
    float y[8];
    _mm256_storeu_ps(y, x);
    memcpy(p, y, n * sizeof(float));
}
INLINE Floats add(Floats a, Floats b) { return _mm256_add_ps(a, b); }
INLINE Floats sub(Floats a, Floats b) { return _mm256_sub_ps(a, b); }
INLINE Floats mul(Floats a, Floats b) { return _mm256_mul_ps(a, b); }
INLINE Floats divide(Floats a, Floats b) { return _mm256_div_ps(a, b); }
INLINE Floats quotient(Floats a, Floats b) { return divide(a, b); }
INLINE Floats fma_(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
INLINE Floats least(Floats a, Floats b) { return _mm256_min_ps(a, b); }
INLINE Floats most(Floats a, Floats b) { return _mm256_max_ps(a, b); }
INLINE Floats nearest(Floats a) { return _mm256_round_ps(a, 8); }
INLINE Floats scale2(Floats a, Floats n) {
    return _mm256_mul_ps(
        a, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23)));
}
INLINE Floats sign_of(Floats a) {
    return _mm256_blendv_ps(all(-1), all(1), _mm256_cmp_ps(a, _mm256_setzero_ps(), _CMP_GE_OQ));
}
INLINE Floats whole(const int32_t *p) { return _mm256_cvtepi32_ps(_mm256_loadu_si256((const __m256i *)p)); }
INLINE Floats whole_less(const int32_t *p, const int32_t *q) {
    return _mm256_cvtepi32_ps(
        _mm256_sub_epi32(_mm256_loadu_si256((const __m256i *)p), _mm256_loadu_si256((const __m256i *)q)));
}
INLINE void store_bytes(uint8_t *p, Floats x) {
    __m256i i = _mm256_cvtps_epi32(x);
    __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(i), _mm256_extracti128_si256(i, 1));
    _mm_storel_epi64((__m128i *)p, _mm_packus_epi16(words, words));
}
INLINE void store_some_bytes(uint8_t *p, int n, Floats x) {
    uint8_t y[8];
    store_bytes(y, x);
    memcpy(p, y, n);
}
INLINE float sum_of(Floats a) {
    float x[8];
    store(x, a);
    return ((x[0] + x[4]) + (x[1] + x[5])) + ((x[2] + x[6]) + (x[3] + x[7]));
}
INLINE float least_of(Floats a) {
    float x[8], y;
    store(x, a);
    y = x[0];
    for (int i = 1; i < 8; i++) y = x[i] < y ? x[i] : y;
    return y;
}
INLINE float most_of(Floats a) { return -least_of(sub(all(0), a)); }

#else /* one number at a time; compilers make vectors of it where they can */
#define LANES 1
typedef float Floats;
INLINE Floats all(float x) { return x; }
INLINE Floats load(const float *p) { return *p; }
INLINE Floats load_some(const float *p, int n, float rest) { return n ? *p : rest; }
INLINE void store(float *p, Floats x) { *p = x; }
INLINE void store_some(float *p, int n, Floats x) {
    if (n) *p = x;
}
INLINE Floats add(Floats a, Floats b) { return a + b; }
INLINE Floats sub(Floats a, Floats b) { return a - b; }
INLINE Floats mul(Floats a, Floats b) { return a * b; }
INLINE Floats divide(Floats a, Floats b) { return a / b; }
INLINE Floats quotient(Floats a, Floats b) { return a / b; }
INLINE Floats fma_(Floats a, Floats b, Floats c) { return a * b + c; }
INLINE Floats least(Floats a, Floats b) { return a < b ? a : b; }
INLINE Floats most(Floats a, Floats b) { return a > b ? a : b; }
INLINE Floats nearest(Floats a) { return rintf(a); }
INLINE Floats scale2(Floats a, Floats n) {
    int32_t bits = ((int32_t)n + 127) << 23;
    float power;
    memcpy(&power, &bits, 4);
    return a * power;
}
INLINE Floats sign_of(Floats a) { return a >= 0 ? 1 : -1; }
INLINE Floats whole(const int32_t *p) { return (float)*p; }
INLINE Floats whole_less(const int32_t *p, const int32_t *q) { return (float)(*p - *q); }
INLINE void store_bytes(uint8_t *p, Floats x) { *p = (uint8_t)(int32_t)x; }
INLINE void store_some_bytes(uint8_t *p, int n, Floats x) {
    if (n) store_bytes(p, x);
}
INLINE float sum_of(Floats a) { return a; }
INLINE float least_of(Floats a) { return a; }
INLINE float most_of(Floats a) { return a; }
#endif

#endif
