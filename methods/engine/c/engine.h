/* The C side of the packed engine: from token ids to outputs in one call.
 *
 * A caller describes a model by the structures below, which methods/engine/plan.py mirrors with ctypes, opens it, runs
 * batches and closes it. Nothing here knows file formats, methods or Python. Every pointer is read during `engine_open`
 * only: the engine keeps its own copy, packed for its kernels.
 */
#ifndef ENGINE_H
#define ENGINE_H

#include <stdint.h>

#define ENGINE_ABI 1
#define EXPORT     __attribute__((visibility("default")))

/* Where the codes of an activation come from. A code c stands for step * c + offset. */
enum {
    RANGE_NONE = 0,       /* full precision */
    RANGE_STEP = 1,       /* a learned step */
    RANGE_SHIFTED = 2,    /* a learned step above the tensor's minimum */
    RANGE_SYMMETRIC = 3,  /* the largest magnitude */
    RANGE_ASYMMETRIC = 4, /* minimum to maximum */
    RANGE_TORCH = 5,      /* torch's dynamic int8: a range that holds 0, in 7 bits, with a whole zero point */
};

typedef struct {
    int32_t kind;
    int32_t low, high;         /* smallest and largest code */
    int32_t by_rows;           /* every row has its own range, or the tensor has one */
    int32_t two_levels;        /* only the codes -1 and 1 */
    float step;                /* of a learned step */
    float clip_low, clip_high; /* values beyond count as these; infinite where nothing is clipped */
} Range;

/* Rows of codes as a bit stream, lowest bit first, with no gap between rows: value = step * (from + by * code). */
typedef struct {
    int64_t rows, columns;
    int32_t bits; /* 1 to 8; 3 levels in bytes of five where `trits` is set; 32: float32 */
    int32_t trits;
    int32_t from, by;
    const void *codes;
    int64_t bytes; /* of `codes` */
    const float *step;
    int64_t steps; /* 1, or one a row */
} Matrix;

/* y = Q(x) W' + bias; W is one matrix, the sum of two, or (inner) a product of two linears. */
typedef struct Linear {
    Matrix first, second; /* second.rows is 0 where there is one matrix */
    const float *bias;    /* one a row, or NULL */
    Range input;
    const struct Linear *inner; /* applied before, or NULL */
} Linear;

typedef struct {
    const float *weight, *bias; /* hidden numbers each */
} Norm;

typedef struct {
    Linear query, key, value, output, up, down;
    Range input; /* of queries, keys and values together */
    Range of_query, of_key, of_probabilities, of_value;
    Norm after_attention, after_feed_forward;
    int32_t heads, width; /* heads, and numbers a head */
    int32_t activation;   /* ACTIVATION_GELU or ACTIVATION_RELU */
} Layer;

enum { ACTIVATION_NONE = 0, ACTIVATION_GELU = 1, ACTIVATION_RELU = 2, ACTIVATION_TANH = 3 };

typedef struct {
    int32_t hidden, layers, outputs;
    int64_t vocabulary, positions, types;
    float epsilon;               /* of the layer norms */
    int32_t by_token;            /* the head scores every token, or the first of each row */
    Matrix words, words_too;     /* tables of words; the second is added where its rows are not 0 */
    const Linear *words_out;     /* from a narrow table to the hidden size, or NULL */
    const float *position_table; /* (positions, hidden) */
    const float *type_table;     /* (types, hidden) */
    Norm embedding;
    const Layer *layer;
    const Linear *pooler; /* with tanh behind it, or NULL */
    const Linear *head;
} Model;

typedef struct Engine Engine;

/* Every call that can fail returns 0 or NULL then, with one line in `error`. */
EXPORT int32_t engine_abi(void);
EXPORT int64_t engine_size_of(int32_t what); /* 0 Range, 1 Matrix, 2 Linear, 3 Layer, 4 Model */
EXPORT const char *engine_sets(void);        /* instruction sets usable here, best first, with blanks between */
EXPORT Engine *engine_open(const Model *model, const char *set, int32_t threads, char *error, int64_t room);
EXPORT const char *engine_set(const Engine *engine);
EXPORT int64_t engine_memory(const Engine *engine); /* bytes held */
EXPORT void engine_close(Engine *engine);

/* `tokens` ids with the place and type of each; row r ends before ends[r]. out: (rows or tokens, outputs). */
EXPORT int32_t engine_run(Engine *engine, const int32_t *ids, const int32_t *places, const int32_t *types, int64_t tokens,
                          const int64_t *ends, int64_t rows, float *out, char *error, int64_t room);

/* For tests: the integer product of u8 (rows, columns) and a packed matrix, (rows, matrix rows), by every route. */
EXPORT int32_t engine_product(const Matrix *matrix, const char *set, const uint8_t *codes, int64_t rows, int32_t lookup,
                              int32_t *out, char *error, int64_t room);

#endif
