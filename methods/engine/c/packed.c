#define _GNU_SOURCE
#include "packed.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MOST_COLUMNS 65536 /* so that a sum of 255 * 128 * columns fits into 32 bits */
#define MOST_NUMBERS (1ll << 34)
#define BEHIND       128 /* bytes that vectors may read behind an end */

struct Block {
    struct Block *next;
    void *memory;
};

void *keep(Store *store, int64_t bytes) {
    Block *block = malloc(sizeof(Block));
    void *memory = NULL;
    if (!block || bytes < 0 || posix_memalign(&memory, 64, (size_t)(bytes + BEHIND + 63) / 64 * 64)) {
        free(block);
        return NULL;
    }
    memset(memory, 0, (size_t)(bytes + BEHIND + 63) / 64 * 64);
    *block = (Block){store->blocks, memory};
    store->blocks = block;
    store->bytes += bytes;
    return memory;
}

void *keep_copy(Store *store, const void *from, int64_t bytes, int64_t room) {
    void *memory = keep(store, room > bytes ? room : bytes);
    if (memory && from) memcpy(memory, from, (size_t)bytes);
    return memory;
}

void give_back(Store *store) {
    for (Block *block = store->blocks, *next; block; block = next) {
        next = block->next;
        free(block->memory);
        free(block);
    }
    *store = (Store){0};
}

int64_t panels_of(const Packed *packed) { return (packed->rows + PANEL - 1) / PANEL; }

int32_t check_matrix(const Matrix *m, char *error, int64_t room) {
    if (m->rows < 1 || m->columns < 1 || m->columns > MOST_COLUMNS || m->rows > MOST_NUMBERS / m->columns) {
        snprintf(error, room, "a matrix of %lld x %lld is beyond what the engine holds", (long long)m->rows,
                 (long long)m->columns);
        return 0;
    }
    const int64_t numbers = m->rows * m->columns;
    int64_t bytes = numbers * 4;
    if (m->trits)
        bytes = (numbers + 4) / 5;
    else if (m->bits >= 1 && m->bits <= 8)
        bytes = (numbers * m->bits + 7) / 8;
    else if (m->bits != 32)
        bytes = -1;
    const int32_t sane = m->bits == 32 || (m->from >= -128 && m->from <= 127 && m->by >= 1 && m->by <= 255);
    if (bytes != m->bytes || !m->codes || !sane || (m->bits != 32 && ((m->steps != 1 && m->steps != m->rows) || !m->step))) {
        snprintf(error, room, "the codes of a matrix of %lld x %lld do not fit its description", (long long)m->rows,
                 (long long)m->columns);
        return 0;
    }
    return 1;
}

/* `count` codes from the one at `start`, out of a bit stream or of bytes of five. */
static void codes_from(const Matrix *m, int64_t start, int64_t count, uint8_t *codes) {
    const uint8_t *bytes = m->codes;
    if (m->trits) {
        static const uint8_t powers[5] = {1, 3, 9, 27, 81};
        for (int64_t i = 0; i < count; i++) codes[i] = bytes[(start + i) / 5] / powers[(start + i) % 5] % 3;
        return;
    }
    if (m->bits == 8) {
        memcpy(codes, bytes + start, (size_t)count);
        return;
    }
    const int32_t bits = m->bits, skipped = (int32_t)(start * bits % 8);
    const uint8_t *next = bytes + start * bits / 8;
    uint32_t window = (uint32_t)*next++ >> skipped;
    for (int32_t have = 8 - skipped; count > 0; count--, have -= bits) {
        if (have < bits) {
            window |= (uint32_t)*next++ << have;
            have += 8;
        }
        *codes++ = (uint8_t)(window & ((1u << bits) - 1));
        window >>= bits;
    }
}

void decode_row(const Matrix *m, int64_t row, float *out) {
    if (m->bits == 32) {
        memcpy(out, (const float *)m->codes + row * m->columns, (size_t)m->columns * sizeof(float));
        return;
    }
    const float step = m->step[m->steps == 1 ? 0 : row];
    uint8_t codes[256];
    for (int64_t k = 0; k < m->columns; k += 256) {
        const int64_t some = m->columns - k < 256 ? m->columns - k : 256;
        codes_from(m, row * m->columns + k, some, codes);
        for (int64_t i = 0; i < some; i++) out[k + i] = (float)(m->from + m->by * codes[i]) * step;
    }
}

typedef struct {
    const Matrix *matrix;
    Packed *packed;
    int32_t failed;
} Packing;

/* One panel: the codes of 64 rows of the matrix, four columns of it at a time. */
static void pack_panel(void *context, int64_t panel, int32_t thread) {
    (void)thread;
    Packing *packing = context;
    const Matrix *m = packing->matrix;
    Packed *p = packing->packed;
    uint8_t *to = p->panels + panel * p->panel_bytes;
    uint8_t *codes = malloc((size_t)m->columns);
    if (!codes) {
        packing->failed = 1;
        return;
    }
    for (int64_t n = panel * PANEL; n < (panel + 1) * PANEL && n < m->rows; n++) {
        const int32_t column = (int32_t)(n % PANEL);
        if (p->width == 32) {
            const float *row = (const float *)m->codes + n * m->columns;
            for (int64_t k = 0; k < m->columns; k++) ((float *)to)[k * PANEL + column] = row[k];
            continue;
        }
        codes_from(m, n * m->columns, m->columns, codes);
        int32_t sum = 0, largest = 0;
        for (int64_t k = 0; k < m->columns; k++) {
            sum += codes[k];
            largest = codes[k] > largest ? codes[k] : largest;
        }
        if (m->from + m->by * largest > 127) packing->failed = 2;
        p->weights[n] = m->from * (int32_t)m->columns + m->by * sum;
        p->scale[n] = m->step[m->steps == 1 ? 0 : n];
        for (int64_t k = 0; k < m->columns; k++) {
            const int64_t step = k / 4;
            const int32_t at = column * 4 + (int32_t)(k % 4), vector = at / 64, byte = at % 64;
            const uint8_t code = codes[k];
            switch (p->width) {
                case 1: to[step / 2 * 64 + byte] |= code << (step % 2 * 4 + vector); break;
                case 2: to[step * 64 + byte] |= code << (2 * vector); break;
                case 4: to[step * 128 + vector / 2 * 64 + byte] |= code << (vector % 2 * 4); break;
                default: to[step * 256 + at] = (uint8_t)(int8_t)(m->from + m->by * code);
            }
        }
        if (p->lookup) {
            const int64_t pairs = (m->columns + 2 * LOOKUP_GROUP - 1) / (2 * LOOKUP_GROUP);
            uint8_t *block = p->lookup + n / LOOKUP_COLUMNS * pairs * LOOKUP_BYTES + n % LOOKUP_COLUMNS * 2;
            for (int64_t k = 0; k < m->columns; k++) {
                const int64_t group = k / LOOKUP_GROUP;
                block[group / 2 * LOOKUP_BYTES + group % 2] |= codes[k] << k % LOOKUP_GROUP;
            }
        }
    }
    free(codes);
}

int32_t pack(Store *store, Pool *pool, const Kernels *kernels, int32_t look_up, const Matrix *m, Packed *p, char *error,
             int64_t room) {
    if (!check_matrix(m, error, room)) return 0;
    *p = (Packed){.rows = m->rows, .columns = m->columns};
    p->width = m->bits == 32 ? 32 : m->trits ? 2 : m->bits <= 2 ? m->bits : m->bits <= 4 ? 4 : 8;
    p->steps = (int32_t)((m->columns + kernels->pad - 1) / kernels->pad * kernels->pad / 4);
    p->panel_bytes = p->width == 32 ? m->columns * PANEL * 4 : (int64_t)p->steps * 32 * p->width;
    const int64_t panels = panels_of(p);
    p->panels = keep(store, panels * p->panel_bytes);
    p->scale = keep(store, panels * PANEL * sizeof(float));
    p->weights = keep(store, panels * PANEL * sizeof(int32_t));
    const int32_t codes = m->bits == 32 ? 0 : m->trits ? 3 : 1 << m->bits;
    for (int32_t c = 0; c < codes && c < 16; c++) {
        const int32_t value = m->from + m->by * c;
        p->values[c] = (int8_t)(value > 127 ? 127 : value);
    }
    p->small = m->bits != 32 && m->from >= -64 && m->from + m->by * (codes - 1) <= 64;
    if (look_up && kernels->lookup && m->bits == 1 && m->from == -1 && m->by == 2) {
        p->blocks = (int32_t)((m->rows + LOOKUP_COLUMNS - 1) / LOOKUP_COLUMNS);
        p->lookup = keep(store, p->blocks * ((m->columns + 2 * LOOKUP_GROUP - 1) / (2 * LOOKUP_GROUP)) * LOOKUP_BYTES);
    }
    if (!p->panels || !p->scale || !p->weights || (p->blocks && !p->lookup)) {
        snprintf(error, room, "there is not enough memory for the model");
        return 0;
    }
    Packing packing = {m, p, 0};
    pool_run(pool, pack_panel, &packing, panels);
    if (packing.failed == 2)
        snprintf(error, room, "a matrix has codes beyond eight bits");
    else if (packing.failed)
        snprintf(error, room, "there is not enough memory for the model");
    return !packing.failed;
}

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

int32_t looking_up_is_faster(const Kernels *kernels) {
    enum { ROWS = 24, DEPTH = 504, BLOCKS = 6, TURNS = 7 };
    if (!kernels->lookup) return 0;
    Store store = {0};
    const int64_t columns = BLOCKS * LOOKUP_COLUMNS;
    uint8_t *codes = keep(&store, ROWS * DEPTH), *weights = keep(&store, BLOCKS * DEPTH / 12 * LOOKUP_BYTES);
    int8_t *panel = keep(&store, DEPTH * PANEL);
    int32_t *sums = keep(&store, ROWS * columns * (int64_t)sizeof(int32_t));
    uint16_t *tables = keep(&store, LOOKUP_ROWS * LOOKUP_DEPTH * 64 * 2);
    double best[2] = {1, 1}; /* of looking up, of multiplying */
    if (kernels->enter) kernels->enter();
    for (int32_t turn = 0; turn < TURNS && codes && weights && panel && sums && tables; turn++) {
        double start = seconds();
        for (int32_t r = 0; r < ROWS; r += LOOKUP_ROWS)
            kernels->lookup(codes + r * DEPTH, DEPTH, LOOKUP_ROWS, DEPTH, weights, 0, BLOCKS, sums, columns, tables);
        const double looked = seconds() - start;
        start = seconds();
        for (int64_t j = 0; j < columns; j += PANEL) kernels->dot_small(codes, DEPTH, ROWS, panel, DEPTH / 4, 4, sums);
        const double multiplied = seconds() - start;
        best[0] = looked < best[0] ? looked : best[0];
        best[1] = multiplied < best[1] ? multiplied : best[1];
    }
    give_back(&store);
    return best[0] < best[1];
}
