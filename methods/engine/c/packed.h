/* Matrices as the kernels read them, and the memory of an engine. */
#ifndef PACKED_H
#define PACKED_H

#include "kernels.h"
#include "pool.h"

#include <stddef.h>

typedef struct Block Block;

/* Memory that is given back together. */
typedef struct {
    Block *blocks;
    int64_t bytes;
} Store;

void *keep(Store *store, int64_t bytes); /* zeros at a multiple of 64, or NULL; some room behind them may be read */
void *keep_copy(Store *store, const void *from, int64_t bytes, int64_t room);
void give_back(Store *store);

typedef struct {
    int64_t rows, columns;
    int32_t width;     /* bits a weight takes here: 1, 2, 4, 8, or 32 for floats */
    int32_t steps;     /* of four columns, padding included */
    int32_t small;     /* no weight is beyond 64 */
    int8_t values[16]; /* what codes of less than 8 bits stand for */
    uint8_t *panels;
    int64_t panel_bytes;
    float *scale;     /* a row, to whole panels */
    int32_t *weights; /* the sum of each row's weights, likewise */
    uint8_t *lookup;  /* one-bit weights in the order of look-ups, or NULL */
    int32_t blocks;
} Packed;

int64_t panels_of(const Packed *packed);
/* Check a description and pack it, one-bit weights for look-ups too if `look_up`; 0 with a line in `error`. */
int32_t pack(Store *store, Pool *pool, const Kernels *kernels, int32_t look_up, const Matrix *matrix, Packed *packed,
             char *error, int64_t room);
/* Whether look-ups of one-bit weights beat products on this processor: both are tried on a small matrix. */
int32_t looking_up_is_faster(const Kernels *kernels);
/* The numbers of one row of a matrix as it is stored in a file. */
void decode_row(const Matrix *matrix, int64_t row, float *out);
int32_t check_matrix(const Matrix *matrix, char *error, int64_t room);

#endif
