/* What the parts of the engine share: an instruction set's kernels, and the shapes they work on.
 *
 * Activations are unsigned bytes u with the value alpha * (u - zero) + beta. Weights and the second operands of attention
 * are signed bytes. They stand in panels of 64 columns: for every four rows of K, 64 columns of four bytes.
 */
#ifndef KERNELS_H
#define KERNELS_H

#include "engine.h"

#define PANEL          64  /* columns of a panel */
#define TILE_ROWS      48  /* rows of a tile of sums */
#define CHUNK_ROWS     192 /* rows that share one unpacked panel */
#define LOOKUP_ROWS    4   /* rows that share a pass over one-bit weights */
#define LOOKUP_COLUMNS 128
#define LOOKUP_GROUP   6   /* weights that one look-up adds up */
#define LOOKUP_BYTES   256 /* of two groups of all columns of a block */
#define LOOKUP_DEPTH   42  /* groups whose sums fit into 16 bits: 42 * 6 * 255 < 65536 */

/* A range resolved: code = round((x - least) * inverse), cut to low..high, stored as code + shift. */
typedef struct {
    float least, inverse, low, high, shift;
    int32_t signs; /* codes are 1 and -1, by sign */
    int32_t zero;
    float alpha, beta;
} Grid;

/* One tile on its way from sums to results. */
typedef struct {
    const int32_t *sums[2]; /* (rows, stride) of each matrix; the second may be NULL */
    const float *floats;    /* or sums in float, (rows, stride) */
    int64_t stride;
    int32_t columns;           /* that are real */
    const float *scale[2];     /* a column */
    const int32_t *weights[2]; /* a column: the sum of its weights */
    const float *bias;
    const float *alpha, *beta; /* a row, or one for all where `per_row` is 0 */
    int32_t per_row, zero, activation;
    float *out; /* (rows, out_stride) */
    int64_t out_stride;
    int32_t add;      /* to what `out` holds */
    const Grid *grid; /* codes instead of floats, where it is not NULL */
    uint8_t *codes;
    int64_t codes_stride;
    float least, most, poison; /* of what was stored; poison is 0 unless something is not finite */
} Tile;

typedef struct {
    const char *name;
    int32_t pad;         /* K is padded to a multiple of this */
    void (*enter)(void); /* called by a thread before its first product of a run, or NULL */
    /* c (rows, 64) = a (rows, 4 steps) times a panel, of which `groups` times 16 columns are wanted. */
    void (*dot)(const uint8_t *a, int64_t stride, int32_t rows, const int8_t *panel, int32_t steps, int32_t groups,
                int32_t *c);
    void (*dot_small)(const uint8_t *a, int64_t stride, int32_t rows, const int8_t *panel, int32_t steps, int32_t groups,
                      int32_t *c);
    void (*dot_float)(const float *a, int64_t stride, int32_t rows, const float *panel, int32_t depth, int32_t groups,
                      float *c);
    void (*unpack)(const uint8_t *packed, int32_t bits, const int8_t *values, int32_t steps, int8_t *panel);
    /* c (4, blocks * 128) = a (rows <= 4, depth) times one-bit weights; `tables` has room for a depth of 252. NULL: none. */
    void (*lookup)(const uint8_t *a, int64_t stride, int32_t rows, int32_t depth, const uint8_t *weights, int32_t from,
                   int32_t to, int32_t *c, int64_t c_stride, uint16_t *tables);
    void (*finish)(Tile *tile, int32_t rows);
    void (*quantize)(const float *x, int32_t count, const Grid *grid, uint8_t *codes);
    void (*extent)(const float *x, int32_t count, float *least, float *most);
    int32_t (*norm)(float *x, int32_t count, const float *weight, const float *bias, float epsilon); /* 0: not finite */
    /* x = softmax(x * scale); returns its sum's inverse, and the least and largest of the results. */
    void (*softmax)(float *x, int32_t count, float scale, float *least, float *most);
    /* out = alpha * (a * (c - z) + b * sum) + beta * e, over columns: a product of two grids. */
    void (*combine)(const int32_t *c, int32_t count, const float *a, const float *b, const float *e, const int32_t *z,
                    float alpha, float beta, float sum, float *out);
} Kernels;

/* The kernels of a name, or NULL with the reason in `error`; NULL or "" is the best that this processor has. */
const Kernels *kernels_named(const char *name, char *error, int64_t room);

extern const Kernels kernels_portable;
#if defined(__x86_64__)
extern const Kernels kernels_avx2, kernels_avxvnni, kernels_avx512, kernels_amx;
#endif

#endif
