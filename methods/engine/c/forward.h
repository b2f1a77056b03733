/* An opened model, and what a run needs. */
#ifndef FORWARD_H
#define FORWARD_H

#include "packed.h"

#include <pthread.h>

enum { QUERY, KEY, VALUE, PROBABILITIES };

typedef struct OpenLinear {
    Packed first, second;
    int32_t two;     /* the sum of both matrices */
    int32_t decoded; /* weights in floats with inputs on a grid: a product of floats */
    float *bias;
    Range input;
    struct OpenLinear *inner;
} OpenLinear;

typedef struct {
    float *weight, *bias;
} OpenNorm;

typedef struct {
    OpenLinear query, key, value, output, up, down;
    Range input, ranges[4];
    OpenNorm after_attention, after_feed_forward;
    int32_t heads, width, activation;
} OpenLayer;

/* What a model is opened with, and the largest of its parts. */
typedef struct {
    Store *store;
    Pool *pool;
    const Kernels *kernels;
    char *error;
    int64_t room;
    int32_t look_up; /* whether look-ups of one-bit weights pay here */
    int64_t widest_panel, most_rows, most_columns, most_inner, most_width, most_head, most_blocks;
} Opening;

/* The second operand of a product with weights: floats, or codes. */
typedef struct {
    const float *floats; /* (rows, stride) */
    int64_t stride;
    uint8_t *codes; /* (rows, codes_stride), zeros behind the last column */
    int64_t codes_stride;
    float *alpha, *beta; /* one a row, or one for all */
    int32_t per_row, zero, on_grid;
} Operand;

/* What one thread has for itself. */
typedef struct {
    int8_t *panel[2];
    int32_t *sums[2];
    float *floats; /* a tile of sums in float */
    int32_t *looked[2];
    uint16_t *tables;
    uint8_t *attention; /* cut up by attention.c */
    float least[3], most[3], poison;
    int32_t entered;
} Thread;

struct Engine {
    const Kernels *kernels;
    Pool *pool;
    pthread_mutex_t mutex;
    Store model, buffers;
    Opening limits;
    int64_t hidden, layers, outputs, vocabulary, positions, types;
    float epsilon;
    int32_t by_token;
    Matrix words, words_too;
    OpenLinear *words_out, *pooler, head;
    float *position_table, *type_table;
    OpenNorm embedding;
    OpenLayer *layer;

    /* Buffers of a run, for up to `room_tokens` tokens and `room_length` tokens a row. */
    int64_t room_tokens, room_rows, room_length;
    Thread *threads;
    float *hidden_states, *wide, *inner, *context, *first, *pooled;
    Operand operands[2];
    int64_t *starts;
    Store kept;
    float *probabilities;
    int64_t room_kept;
};

/* A range that is known: its grid, from the extremes of a tensor where it is dynamic. */
Grid grid_of(const Range *range, float least, float most);
int32_t by_tensor(const Range *range); /* the grid depends on the whole tensor */

/* Attention over the rows of a batch; the query, key and value stand side by side in `wide`. */
typedef struct {
    Engine *engine;
    const OpenLayer *layer;
    const int64_t *ends;
    int64_t rows;
    float *context;   /* (tokens, heads * width), where `grid` is NULL */
    const Grid *grid; /* of what comes behind */
    uint8_t *codes;
    int64_t codes_stride;
    Grid grids[4];
    const uint8_t *coded; /* queries, keys and values as codes, (tokens, 3 heads * width), or NULL: floats in `wide` */
    int32_t measuring;    /* only the range of the probabilities */
    float *kept;          /* probabilities from measuring, each row's from its start on, or NULL */
    const int64_t *starts;
} Attention;

int64_t attention_room(const Engine *engine, int64_t length);
void attend(void *attention, int64_t item, int32_t thread);

#endif
