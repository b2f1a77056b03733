/* Attention of one head over one row of a batch: there is no padding, so there is no mask.
 *
 * Products of operands on grids are integer products. With q = a (u - z) + b and k = c s + d, where s are signed bytes, over
 * D features: q k = a (c (sum u s - z sum s) + d sum (u - z)) + b (c sum s + D d). The sums of s are known by column, the
 * sum of (u - z) by row. Where an operand has no such grid, the products are of floats, in the values of the grids there
 * are. */
#include "forward.h"

#include <math.h>
#include <string.h>

/* A second operand: panels of signed bytes with what `combine` needs by column, or panels of floats. */
typedef struct {
    int8_t *panels;
    float *floats, *a, *b, *e;
    int32_t *z;
} Columns;

typedef struct {
    Columns keys, values;
    uint8_t *queries, *probabilities, *four;
    float *scores, *context, *query_floats;
} Scratch;

static int64_t up_to(int64_t count, int64_t size) { return (count + size - 1) / size * size; }

static void *take(uint8_t **at, int64_t bytes) {
    void *here = *at;
    *at += up_to(bytes, 64) + 64;
    return here;
}

/* Cut a thread's memory up for rows of `length` tokens; returns what it takes. */
static int64_t cut_up(const Engine *e, int64_t length, int64_t head, uint8_t *memory, Scratch *s) {
    uint8_t *at = memory;
    const int64_t pad = e->kernels->pad, keys = up_to(length, PANEL), wide = up_to(head, PANEL), f = sizeof(float);
    s->keys.panels = take(&at, keys * up_to(head, pad));
    s->keys.floats = take(&at, keys * head * f);
    s->values.panels = take(&at, wide * up_to(length, pad));
    s->values.floats = take(&at, wide * length * f);
    for (int32_t i = 0; i < 2; i++) {
        Columns *c = i ? &s->values : &s->keys;
        const int64_t columns = i ? wide : keys;
        c->a = take(&at, columns * f);
        c->b = take(&at, columns * f);
        c->e = take(&at, columns * f);
        c->z = take(&at, columns * f);
    }
    s->queries = take(&at, TILE_ROWS * up_to(head, pad));
    s->probabilities = take(&at, TILE_ROWS * up_to(length, pad));
    s->four = take(&at, 4 * wide);
    s->scores = take(&at, TILE_ROWS * keys * f);
    s->context = take(&at, TILE_ROWS * wide * f);
    s->query_floats = take(&at, TILE_ROWS * head * f);
    return at - memory;
}

int64_t attention_room(const Engine *engine, int64_t length) {
    Scratch scratch;
    const int64_t head = engine->limits.most_head ? engine->limits.most_head : 1;
    uint8_t nothing;
    return cut_up(engine, length, head, &nothing, &scratch);
}

/* The grid of one row: its own, or the tensor's. */
static Grid grid_of_row(const Attention *a, int32_t which, const float *x, int32_t count) {
    const Range *range = &a->layer->ranges[which];
    if (!range->by_rows || range->kind <= RANGE_STEP) return a->grids[which];
    float least = x[0], most = x[0];
    a->engine->kernels->extent(x, count, &least, &most);
    return grid_of(range, least, most);
}

static void decode(const uint8_t *codes, int32_t count, const Grid *grid, float *out) {
    for (int32_t i = 0; i < count; i++) out[i] = grid->alpha * (float)(codes[i] - grid->zero) + grid->beta;
}

static int32_t sum_of_codes(const uint8_t *codes, int32_t count, int32_t zero) {
    int32_t sum = 0;
    for (int32_t i = 0; i < count; i++) sum += codes[i];
    return sum - zero * count;
}

/* What a column needs, from the grid of its numbers and the sum of its signed bytes over `depth`. */
static void describe(Columns *c, int64_t column, const Grid *grid, int32_t sum, int64_t depth, int32_t zero) {
    const float offset = grid->beta + grid->alpha * (float)(128 - grid->zero);
    c->a[column] = grid->alpha;
    c->b[column] = offset;
    c->e[column] = grid->alpha * (float)sum + (float)depth * offset;
    c->z[column] = zero * sum;
}

/* The codes of one row of queries, keys or values on a grid: those that are there, or made in `room`. */
static const uint8_t *codes_of_row(const Attention *a, int32_t which, int64_t token, int64_t place, const Grid *grid,
                                   uint8_t *room) {
    const int64_t width = (int64_t)a->layer->heads * a->layer->width, at = (3 * token + which) * width + place;
    if (a->coded) return a->coded + at;
    a->engine->kernels->quantize(a->engine->wide + at, a->layer->width, grid, room);
    return room;
}

static const float *floats_of_row(const Attention *a, int32_t which, int64_t token, int64_t place) {
    return a->engine->wide + (3 * token + which) * (int64_t)a->layer->heads * a->layer->width + place;
}

/* Keys as columns of panels. */
static void lay_keys(const Attention *a, Scratch *s, int64_t start, int64_t place, int64_t length, int32_t in_codes) {
    const int32_t head = a->layer->width, zero = a->grids[QUERY].zero, on_grid = a->layer->ranges[KEY].kind != RANGE_NONE;
    const int64_t depth = up_to(head, a->engine->kernels->pad);
    for (int64_t n = 0; n < length; n++) {
        const float *row = floats_of_row(a, KEY, start + n, place);
        const int64_t panel = n / PANEL, column = n % PANEL;
        const uint8_t *codes = NULL;
        Grid grid = {0};
        if (on_grid) {
            grid = grid_of_row(a, KEY, row, head);
            codes = codes_of_row(a, KEY, start + n, place, &grid, s->four);
        }
        if (in_codes) {
            int8_t *to = s->keys.panels + panel * depth * PANEL + column * 4;
            int32_t k = 0;
            for (; k + 4 <= head; k += 4) { /* four at once */
                uint32_t four;
                memcpy(&four, codes + k, 4);
                four ^= 0x80808080u;
                memcpy(to + k * PANEL, &four, 4);
            }
            for (; k < head; k++) to[k / 4 * 256 + k % 4] = (int8_t)(codes[k] ^ 0x80);
            describe(&s->keys, n, &grid, sum_of_codes(codes, head, 128), head, zero);
        } else {
            float *to = s->keys.floats + panel * head * PANEL + column;
            for (int32_t k = 0; k < head; k++)
                to[k * PANEL] = on_grid ? grid.alpha * (float)(codes[k] - grid.zero) + grid.beta : row[k];
        }
    }
}

/* Values as rows of panels: four tokens are one step of a product. */
static void lay_values(const Attention *a, Scratch *s, int64_t start, int64_t place, int64_t length, int32_t in_codes) {
    const int32_t head = a->layer->width, on_grid = a->layer->ranges[VALUE].kind != RANGE_NONE;
    const int64_t wide = up_to(head, PANEL), depth = up_to(length, a->engine->kernels->pad);
    if (!in_codes) {
        for (int64_t n = 0; n < length; n++) {
            const float *row = floats_of_row(a, VALUE, start + n, place);
            const uint8_t *codes = NULL;
            Grid grid;
            if (on_grid) {
                grid = grid_of_row(a, VALUE, row, head);
                codes = codes_of_row(a, VALUE, start + n, place, &grid, s->four);
            }
            for (int32_t j = 0; j < head; j++)
                s->values.floats[j / PANEL * length * PANEL + n * PANEL + j % PANEL] =
                    on_grid ? grid.alpha * (float)(codes[j] - grid.zero) + grid.beta : row[j];
        }
        return;
    }
    int32_t *sums = s->values.z;
    memset(sums, 0, (size_t)wide * sizeof(int32_t));
    for (int64_t n = 0; n < length; n += 4) {
        const uint8_t *rows[4];
        for (int64_t i = 0; i < 4; i++) {
            uint8_t *room = s->four + i * wide;
            if (n + i < length) {
                rows[i] = codes_of_row(a, VALUE, start + n + i, place, &a->grids[VALUE], room);
            } else {
                memset(room, 0x80, (size_t)head); /* zero, as a signed byte */
                rows[i] = room;
            }
        }
        for (int32_t panel = 0; panel * PANEL < head; panel++) {
            const int32_t columns = head - panel * PANEL < PANEL ? head - panel * PANEL : PANEL;
            uint32_t *to = (uint32_t *)(s->values.panels + panel * depth * PANEL + n / 4 * 256);
            const uint8_t *r0 = rows[0] + panel * PANEL, *r1 = rows[1] + panel * PANEL, *r2 = rows[2] + panel * PANEL,
                          *r3 = rows[3] + panel * PANEL;
            for (int32_t j = 0; j < columns; j++) {
                to[j] = (r0[j] | (uint32_t)r1[j] << 8 | (uint32_t)r2[j] << 16 | (uint32_t)r3[j] << 24) ^ 0x80808080u;
                sums[panel * PANEL + j] += (r0[j] + r1[j] + r2[j] + r3[j]) - 512;
            }
        }
    }
    for (int32_t j = 0; j < head; j++)
        describe(&s->values, j, &a->grids[VALUE], sums[j], length, a->grids[PROBABILITIES].zero);
}

static void multiply_codes(const Kernels *kernels, const uint8_t *codes, int64_t depth, int32_t rows, const Columns *c,
                           int64_t columns, const Grid *grids, const int32_t *sums, int32_t *tile, float *out,
                           int64_t stride) {
    for (int64_t j = 0; j < columns; j += PANEL) {
        const int32_t some = (int32_t)(columns - j < PANEL ? columns - j : PANEL);
        kernels->dot(codes, depth, rows, c->panels + j * depth, (int32_t)(depth / 4), (some + 15) / 16, tile);
        for (int32_t r = 0; r < rows; r++)
            kernels->combine(tile + r * PANEL, some, c->a + j, c->b + j, c->e + j, c->z + j, grids[r].alpha, grids[r].beta,
                             (float)sums[r], out + r * stride + j);
    }
}

static void multiply_floats(const Kernels *kernels, const float *x, int64_t x_stride, int64_t depth, int32_t rows,
                            const float *panels, int64_t columns, float *tile, float *out, int64_t stride) {
    for (int64_t j = 0; j < columns; j += PANEL) {
        const int64_t some = columns - j < PANEL ? columns - j : PANEL;
        kernels->dot_float(x, x_stride, rows, panels + j * depth, (int32_t)depth, (int32_t)(some + 15) / 16, tile);
        for (int32_t r = 0; r < rows; r++) memcpy(out + r * stride + j, tile + r * PANEL, (size_t)some * sizeof(float));
    }
}

/* The scores of up to 48 queries with all keys, before the softmax. */
static void score(const Attention *a, Scratch *s, int64_t token, int64_t place, int32_t rows, int64_t length, Grid *grids,
                  int32_t *sums, Thread *t) {
    const Kernels *kernels = a->engine->kernels;
    const int32_t head = a->layer->width, on_grid = a->layer->ranges[QUERY].kind != RANGE_NONE;
    const int32_t in_codes = on_grid && a->layer->ranges[KEY].kind != RANGE_NONE;
    const int64_t stride = 3 * (int64_t)a->layer->heads * head, depth = up_to(head, kernels->pad),
                  keys = up_to(length, PANEL);
    const float *queries = floats_of_row(a, QUERY, token, place);
    for (int32_t r = 0; r < rows && on_grid; r++) {
        uint8_t *codes = s->queries + r * depth;
        grids[r] = grid_of_row(a, QUERY, queries + r * stride, head);
        const uint8_t *found = codes_of_row(a, QUERY, token + r, place, &grids[r], codes);
        if (found != codes) memcpy(codes, found, (size_t)head);
        memset(codes + head, 0, (size_t)(depth - head));
        sums[r] = sum_of_codes(codes, head, grids[r].zero);
        if (!in_codes) decode(codes, head, &grids[r], s->query_floats + r * head);
    }
    if (in_codes)
        multiply_codes(kernels, s->queries, depth, rows, &s->keys, length, grids, sums, t->sums[0], s->scores, keys);
    else if (on_grid)
        multiply_floats(kernels, s->query_floats, head, head, rows, s->keys.floats, length, t->floats, s->scores, keys);
    else
        multiply_floats(kernels, queries, stride, head, rows, s->keys.floats, length, t->floats, s->scores, keys);
}

/* An item is a head of a row. */
void attend(void *context, int64_t item, int32_t thread) {
    const Attention *a = context;
    Engine *e = a->engine;
    Thread *t = &e->threads[thread];
    const Kernels *kernels = e->kernels;
    const OpenLayer *l = a->layer;
    const int32_t head = l->width, place = (int32_t)(item % l->heads) * head;
    const int64_t width = (int64_t)l->heads * head, row = item / l->heads;
    const int64_t start = row ? a->ends[row - 1] : 0, length = a->ends[row] - start;
    const int64_t keys = up_to(length, PANEL), wide = up_to(head, PANEL), reach = up_to(length, kernels->pad);
    const int32_t codes_of_scores = l->ranges[QUERY].kind != RANGE_NONE && l->ranges[KEY].kind != RANGE_NONE;
    const int32_t own_values = l->ranges[VALUE].by_rows && l->ranges[VALUE].kind > RANGE_STEP;
    const int32_t probability_grid = l->ranges[PROBABILITIES].kind != RANGE_NONE;
    const int32_t codes_of_context = probability_grid && l->ranges[VALUE].kind != RANGE_NONE && !own_values;
    const float scale = 1.0f / sqrtf((float)head);
    Scratch s;
    cut_up(e, length, head, t->attention, &s);
    if (!t->entered && kernels->enter) kernels->enter();
    t->entered = 1;
    float *kept = a->kept ? a->kept + a->starts[row] + item % l->heads * length * keys : NULL;
    const int32_t known = kept && !a->measuring;
    if (!known) lay_keys(a, &s, start, place, length, codes_of_scores);
    if (!a->measuring) lay_values(a, &s, start, place, length, codes_of_context);
    for (int64_t first = 0; first < length; first += TILE_ROWS) {
        const int32_t rows = (int32_t)(length - first < TILE_ROWS ? length - first : TILE_ROWS);
        Grid grids[TILE_ROWS];
        int32_t sums[TILE_ROWS];
        if (kept) s.scores = kept + first * keys;
        if (!known) score(a, &s, start + first, place, rows, length, grids, sums, t);
        for (int32_t r = 0; r < rows; r++) {
            float *x = s.scores + r * keys, least = 0, most = 1;
            if (!known) kernels->softmax(x, (int32_t)length, scale, &least, &most);
            if (!(most <= 1)) t->poison = NAN; /* 1 is the largest share there is */
            if (a->measuring) {
                t->least[0] = fminf(t->least[0], least);
                t->most[0] = fmaxf(t->most[0], most);
                continue;
            }
            if (!probability_grid) continue;
            uint8_t *codes = s.probabilities + r * reach;
            grids[r] = a->grids[PROBABILITIES];
            if (l->ranges[PROBABILITIES].by_rows && l->ranges[PROBABILITIES].kind > RANGE_STEP)
                grids[r] = grid_of(&l->ranges[PROBABILITIES], least, most);
            kernels->quantize(x, (int32_t)length, &grids[r], codes);
            memset(codes + length, 0, (size_t)(reach - length));
            sums[r] = sum_of_codes(codes, (int32_t)length, grids[r].zero);
            if (!codes_of_context) decode(codes, (int32_t)length, &grids[r], x);
        }
        if (a->measuring) continue;
        if (codes_of_context)
            multiply_codes(kernels, s.probabilities, reach, rows, &s.values, head, grids, sums, t->sums[0], s.context, wide);
        else
            multiply_floats(kernels, s.scores, keys, length, rows, s.values.floats, head, t->floats, s.context, wide);
        for (int32_t r = 0; r < rows; r++) {
            const float *x = s.context + r * wide;
            const int64_t to = start + first + r;
            if (a->grid)
                kernels->quantize(x, head, a->grid, a->codes + to * a->codes_stride + place);
            else {
                memcpy(a->context + to * width + place, x, (size_t)head * sizeof(float));
                kernels->extent(x, head, &t->least[0], &t->most[0]);
            }
        }
    }
}
