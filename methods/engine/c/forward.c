/* A run: from token ids to outputs, phase by phase. Each phase is shared by the threads, and the next one needs all of it.
 */
#include "forward.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ROWS_AT_ONCE 16
#define LOOKUP_FROM  8 /* rows from which look-ups beat products of unpacked weights */
#define ATTENTION    0 /* operands: one feeds the attention and its output, the other the feed-forward and inner factors */
#define FORWARD      1

static int64_t least64(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t share_of(int64_t count, int64_t size) { return (count + size - 1) / size; }

/* --- ranges ------------------------------------------------------------------------------------------------------ */

int32_t by_tensor(const Range *r) { return r->kind > RANGE_STEP && !r->by_rows; }

static float inverse_of(float step) { return step >= FLT_MIN ? 1 / step : 0; }

Grid grid_of(const Range *r, float least, float most) {
    Grid g = {.low = (float)r->low, .high = (float)r->high, .signs = r->two_levels};
    g.shift = r->low < 0 ? 128 : 0;
    g.zero = (int32_t)g.shift;
    const float low = fminf(fmaxf(least, r->clip_low), r->clip_high), high = fminf(fmaxf(most, r->clip_low), r->clip_high);
    switch (r->kind) {
        case RANGE_STEP:
            g.alpha = r->step;
            g.inverse = 1 / r->step;
            break;
        case RANGE_SHIFTED:
            g.alpha = r->step;
            g.inverse = 1 / r->step;
            g.least = least;
            g.zero = (r->high + 1) / 2; /* counting from the middle keeps rounding errors small */
            g.beta = least + (float)g.zero * r->step;
            break;
        case RANGE_SYMMETRIC: {
            const float largest = fmaxf(fabsf(low), fabsf(high)), levels = (float)(r->high > 1 ? r->high : 1);
            g.alpha = largest / levels;
            g.inverse = g.alpha >= FLT_MIN ? levels / largest : 0;
            if (!g.signs && isfinite(r->clip_low + r->clip_high)) { /* what is clipped has the code of the bound */
                g.low = fmaxf(g.low, nearbyintf(r->clip_low * g.inverse));
                g.high = fminf(g.high, nearbyintf(r->clip_high * g.inverse));
            }
            break;
        }
        case RANGE_ASYMMETRIC:
            g.alpha = (high - low) / (float)r->high;
            g.inverse = inverse_of(g.alpha);
            g.least = low;
            g.zero = (r->high + 1) / 2;
            g.beta = low + (float)g.zero * g.alpha;
            break;
        case RANGE_TORCH: { /* as torch's ChooseQuantizationParams: 0 is a level, the end that it misses by less stays */
            const float from = fminf(least, 0), to = fmaxf(most, 0);
            double step = ((double)to - from) / r->high;
            if ((float)step == 0.0f || isinf(1.0f / (float)step)) step = 0.1;
            const double below = -from / step, above = r->high - to / step;
            const double of_below = fabs(from / step), of_above = r->high + fabs(to / step);
            const double place = of_below < of_above ? below : above;
            g.zero = place < 0 ? 0 : place > r->high ? r->high : (int32_t)nearbyint(place);
            g.alpha = (float)step;
            g.inverse = 1.0f / g.alpha;
            g.shift = (float)g.zero;
            g.low = (float)-g.zero;
            g.high = (float)(r->high - g.zero);
            break;
        }
        default: break;
    }
    return g;
}

static void forget_extremes(Engine *e) {
    for (int32_t t = 0; t < pool_threads(e->pool); t++)
        for (int32_t i = 0; i < 3; i++) {
            e->threads[t].least[i] = INFINITY;
            e->threads[t].most[i] = -INFINITY;
        }
}

static Grid grid_from_extremes(Engine *e, const Range *range, int32_t part) {
    float least = INFINITY, most = -INFINITY;
    for (int32_t t = 0; t < pool_threads(e->pool); t++) {
        least = fminf(least, e->threads[t].least[part]);
        most = fmaxf(most, e->threads[t].most[part]);
    }
    return grid_of(range, least, most);
}

static Thread *of(Engine *e, int32_t thread) {
    Thread *t = &e->threads[thread];
    if (!t->entered) {
        if (e->kernels->enter) e->kernels->enter();
        t->entered = 1;
    }
    return t;
}

/* --- operands ---------------------------------------------------------------------------------------------------- */

typedef struct {
    Engine *e;
    Operand *operand;
    const float *x;
    int64_t stride, rows, columns;
    const Range *range;
    Grid grid;
    int32_t decode;
} Quantizing;

static void measure_rows(void *context, int64_t item, int32_t thread) {
    Quantizing *q = context;
    Thread *t = of(q->e, thread);
    for (int64_t r = item * ROWS_AT_ONCE; r < least64(q->rows, (item + 1) * ROWS_AT_ONCE); r++)
        q->e->kernels->extent(q->x + r * q->stride, (int32_t)q->columns, &t->least[0], &t->most[0]);
}

static void quantize_rows(void *context, int64_t item, int32_t thread) {
    Quantizing *q = context;
    Operand *o = q->operand;
    Thread *t = of(q->e, thread);
    for (int64_t r = item * ROWS_AT_ONCE; r < least64(q->rows, (item + 1) * ROWS_AT_ONCE); r++) {
        const float *x = q->x + r * q->stride;
        uint8_t *codes = o->codes + r * o->codes_stride;
        Grid own;
        const Grid *grid = &q->grid;
        if (o->per_row) {
            float least = x[0], most = x[0];
            q->e->kernels->extent(x, (int32_t)q->columns, &least, &most);
            own = grid_of(q->range, least, most);
            grid = &own;
            o->alpha[r] = own.alpha;
            o->beta[r] = own.beta;
            if (own.zero != o->zero) t->poison = NAN; /* kinds with rows of their own have one zero for all */
        }
        q->e->kernels->quantize(x, (int32_t)q->columns, grid, codes);
        memset(codes + q->columns, 0, (size_t)(o->codes_stride - q->columns));
        if (q->decode)
            for (int64_t k = 0; k < q->columns; k++)
                ((float *)x)[k] = grid->alpha * (float)(codes[k] - grid->zero) + grid->beta;
    }
}

static int64_t padded(const Engine *e, int64_t columns) { return share_of(columns, e->kernels->pad) * e->kernels->pad; }

/* Let whoever computes the operand's numbers write its codes: possible where the range is known before. NULL: not so. */
static const Grid *ahead(Engine *e, int32_t slot, const Range *range, int64_t rows, int64_t columns, int32_t decoded,
                         Grid *grid) {
    Operand *o = &e->operands[slot];
    if (range->kind != RANGE_STEP || decoded) return NULL;
    *grid = grid_of(range, 0, 0);
    o->on_grid = 1;
    o->per_row = 0;
    o->codes_stride = padded(e, columns);
    o->alpha[0] = grid->alpha;
    o->beta[0] = grid->beta;
    o->zero = grid->zero;
    if (o->codes_stride > columns)
        for (int64_t r = 0; r < rows; r++)
            memset(o->codes + r * o->codes_stride + columns, 0, (size_t)(o->codes_stride - columns));
    return grid;
}

/* The operand of floats on a range. `measured`: their extremes are in the threads' first places already. */
static Operand *operand_of(Engine *e, int32_t slot, float *x, int64_t stride, int64_t rows, int64_t columns,
                           const Range *range, int32_t measured, int32_t decoded) {
    Operand *o = &e->operands[slot];
    o->floats = x;
    o->stride = stride;
    o->on_grid = 0;
    if (range->kind == RANGE_NONE) return o;
    const int64_t items = share_of(rows, ROWS_AT_ONCE);
    Quantizing q = {
        .e = e, .operand = o, .x = x, .stride = stride, .rows = rows, .columns = columns, .range = range, .decode = decoded};
    if (range->by_rows && range->kind != RANGE_STEP) {
        o->per_row = 1;
        o->zero = grid_of(range, -1, 1).zero;
    } else {
        if (by_tensor(range) && !measured) {
            forget_extremes(e);
            pool_run(e->pool, measure_rows, &q, items);
        }
        q.grid = by_tensor(range) ? grid_from_extremes(e, range, 0) : grid_of(range, 0, 0);
        o->per_row = 0;
        o->alpha[0] = q.grid.alpha;
        o->beta[0] = q.grid.beta;
        o->zero = q.grid.zero;
        if (!isfinite(q.grid.alpha) || !isfinite(q.grid.beta)) e->threads[0].poison = NAN;
    }
    o->codes_stride = padded(e, columns);
    pool_run(e->pool, quantize_rows, &q, items);
    o->on_grid = !decoded;
    return o;
}

/* --- products ---------------------------------------------------------------------------------------------------- */

typedef struct {
    Engine *e;
    const Operand *in;
    int32_t parts;
    const OpenLinear *linear[3];
    float *out[3];
    int64_t stride, rows, chunk, chunks, panels[3], splits;
    int32_t add, activation;
    const Grid *grid[3]; /* codes instead of floats, where they are not NULL */
    uint8_t *codes[3];
    int64_t codes_stride;
} Product;

static Tile tile_of(const Product *p, const OpenLinear *linear, int32_t part, int64_t column, int64_t columns, int64_t row) {
    Tile tile = {
        .stride = columns,
        .columns = (int32_t)least64(columns, linear->first.rows - column),
        .bias = linear->bias + column,
        .scale = {linear->first.scale + column, linear->two ? linear->second.scale + column : NULL},
        .weights = {linear->first.weights + column, linear->two ? linear->second.weights + column : NULL},
        .per_row = p->in->per_row,
        .zero = p->in->zero,
        .activation = p->activation,
        .out = p->out[part] ? p->out[part] + row * p->stride + column : NULL,
        .out_stride = p->stride,
        .add = p->add,
        .grid = p->grid[part],
        .codes = p->codes[part] ? p->codes[part] + row * p->codes_stride + column : NULL,
        .codes_stride = p->codes_stride,
        .least = INFINITY,
        .most = -INFINITY,
    };
    if (p->in->on_grid) {
        tile.alpha = p->in->alpha + (p->in->per_row ? row : 0);
        tile.beta = p->in->beta + (p->in->per_row ? row : 0);
    }
    return tile;
}

static void finish_tile(const Product *p, Thread *t, int32_t part, Tile *tile, int32_t rows) {
    p->e->kernels->finish(tile, rows);
    t->least[part] = fminf(t->least[part], tile->least);
    t->most[part] = fmaxf(t->most[part], tile->most);
    if (tile->poison != 0) t->poison = NAN;
}

/* Weights of one panel as signed bytes: where they are so already, they stay where they are. */
static const int8_t *unpacked(const Engine *e, const Packed *packed, int64_t panel, int8_t *room) {
    const uint8_t *from = packed->panels + panel * packed->panel_bytes;
    if (packed->width == 8) return (const int8_t *)from;
    e->kernels->unpack(from, packed->width, packed->values, packed->steps, room);
    return room;
}

/* Weights of one panel as floats, (columns, 64). */
static const float *decoded(const Engine *e, const OpenLinear *linear, int64_t panel, Thread *t) {
    const Packed *packed = &linear->first;
    if (packed->width == 32) return (const float *)(packed->panels + panel * packed->panel_bytes);
    float *to = (float *)t->panel[1];
    for (int32_t m = 0; m <= linear->two; m++) {
        packed = m ? &linear->second : &linear->first;
        const int8_t *from = unpacked(e, packed, panel, t->panel[0]);
        const float *scale = packed->scale + panel * PANEL;
        for (int64_t k = 0; k < packed->columns; k++)
            for (int32_t j = 0; j < PANEL; j++) {
                const float weight = (float)from[k / 4 * 256 + j * 4 + k % 4] * scale[j];
                to[k * PANEL + j] = m ? to[k * PANEL + j] + weight : weight;
            }
    }
    return to;
}

/* One panel of columns by one chunk of rows. */
static void multiply_panel(void *context, int64_t item, int32_t thread) {
    const Product *p = context;
    const Kernels *kernels = p->e->kernels;
    Thread *t = of(p->e, thread);
    int64_t panel = item / p->chunks, row = item % p->chunks * p->chunk;
    int32_t part = 0;
    for (; panel >= p->panels[part]; part++) panel -= p->panels[part];
    const OpenLinear *linear = p->linear[part];
    const int64_t end = least64(p->rows, row + p->chunk);
    const int32_t groups = (int32_t)share_of(least64(PANEL, linear->first.rows - panel * PANEL), 16);
    const int8_t *codes[2];
    const float *floats = NULL;
    if (p->in->on_grid)
        for (int32_t m = 0; m <= linear->two; m++)
            codes[m] = unpacked(p->e, m ? &linear->second : &linear->first, panel, t->panel[m]);
    else
        floats = decoded(p->e, linear, panel, t);
    for (; row < end; row += TILE_ROWS) {
        const int32_t some = (int32_t)least64(TILE_ROWS, end - row);
        Tile tile = tile_of(p, linear, part, panel * PANEL, PANEL, row);
        if (p->in->on_grid)
            for (int32_t m = 0; m <= linear->two; m++) {
                const Packed *packed = m ? &linear->second : &linear->first;
                (packed->small ? kernels->dot_small : kernels->dot)(p->in->codes + row * p->in->codes_stride,
                                                                    p->in->codes_stride, some, codes[m], packed->steps,
                                                                    groups, t->sums[m]);
                tile.sums[m] = t->sums[m];
            }
        else {
            kernels->dot_float(p->in->floats + row * p->in->stride, p->in->stride, some, floats,
                               (int32_t)linear->first.columns, groups, t->floats);
            tile.floats = t->floats;
        }
        finish_tile(p, t, part, &tile, some);
    }
}

/* Four rows by look-ups, all columns of one split of them. */
static void look_up_rows(void *context, int64_t item, int32_t thread) {
    const Product *p = context;
    Thread *t = of(p->e, thread);
    const int64_t row = item / p->splits * LOOKUP_ROWS, split = item % p->splits;
    const int32_t some = (int32_t)least64(LOOKUP_ROWS, p->rows - row);
    for (int32_t part = 0; part < p->parts; part++) {
        const OpenLinear *linear = p->linear[part];
        const int64_t blocks = linear->first.blocks;
        const int32_t from = (int32_t)(blocks * split / p->splits), to = (int32_t)(blocks * (split + 1) / p->splits);
        if (from == to) continue;
        for (int32_t m = 0; m <= linear->two; m++) {
            const Packed *packed = m ? &linear->second : &linear->first;
            p->e->kernels->lookup(p->in->codes + row * p->in->codes_stride, p->in->codes_stride, some,
                                  (int32_t)packed->columns, packed->lookup, from, to, t->looked[m],
                                  (to - from) * LOOKUP_COLUMNS, t->tables);
        }
        Tile tile = tile_of(p, linear, part, (int64_t)from * LOOKUP_COLUMNS, (int64_t)(to - from) * LOOKUP_COLUMNS, row);
        for (int32_t m = 0; m <= linear->two; m++) tile.sums[m] = t->looked[m];
        finish_tile(p, t, part, &tile, some);
    }
}

static void run_product(Product *p) {
    const int32_t threads = pool_threads(p->e->pool);
    int64_t panels = 0;
    int32_t by_lookup = p->in->on_grid && p->rows >= LOOKUP_FROM;
    for (int32_t i = 0; i < p->parts; i++) {
        p->panels[i] = panels_of(&p->linear[i]->first);
        panels += p->panels[i];
        if (!p->linear[i]->first.lookup || (p->linear[i]->two && !p->linear[i]->second.lookup)) by_lookup = 0;
    }
    if (by_lookup) {
        const int64_t blocks = share_of(p->rows, LOOKUP_ROWS);
        p->splits = blocks >= 3 * threads ? 1 : share_of(3 * threads, blocks);
        pool_run(p->e->pool, look_up_rows, p, blocks * p->splits);
        return;
    }
    p->chunks = share_of(p->rows, CHUNK_ROWS);
    while (p->chunks * panels < 2 * threads && p->chunks * 24 < p->rows) p->chunks++;
    p->chunk = share_of(p->rows, p->chunks);
    p->chunks = share_of(p->rows, p->chunk);
    pool_run(p->e->pool, multiply_panel, p, panels * p->chunks);
}

/* y = linear(x) for an operand that is ready; factors one after the other, through `inner`. */
static void apply(Engine *e, const OpenLinear *linear, const Operand *in, int64_t rows, float *out, int64_t stride,
                  int32_t add, int32_t activation, const Grid *grid, int32_t slot) {
    if (linear->inner) {
        const int64_t columns = linear->first.columns;
        forget_extremes(e);
        apply(e, linear->inner, in, rows, e->inner, columns, 0, ACTIVATION_NONE, NULL, slot);
        in = operand_of(e, FORWARD, e->inner, columns, rows, columns, &linear->input, 1, linear->decoded);
        forget_extremes(e);
    }
    Product p = {.e = e,
                 .in = in,
                 .parts = 1,
                 .linear = {linear},
                 .out = {out},
                 .stride = stride,
                 .rows = rows,
                 .add = add,
                 .activation = activation};
    if (grid) {
        p.grid[0] = grid;
        p.codes[0] = e->operands[slot].codes;
        p.codes_stride = e->operands[slot].codes_stride;
    }
    run_product(&p);
}

static const Range *entry(const OpenLinear *linear) { return linear->inner ? &linear->inner->input : &linear->input; }
static int32_t entry_decoded(const OpenLinear *linear) { return linear->inner ? linear->inner->decoded : linear->decoded; }

/* --- embeddings and norms ---------------------------------------------------------------------------------------- */

typedef struct {
    Engine *e;
    const int32_t *ids, *places, *types;
    int64_t tokens;
    float *x;
    const OpenNorm *norm;
    const Grid *grid;
    Operand *operand;
} Rowwise;

static void embed_words(void *context, int64_t item, int32_t thread) {
    Rowwise *w = context;
    Engine *e = w->e;
    (void)thread;
    const int64_t width = e->words.columns;
    float *to = e->words_out ? e->inner : w->x;
    for (int64_t t = item * ROWS_AT_ONCE; t < least64(w->tokens, (item + 1) * ROWS_AT_ONCE); t++) {
        float *row = to + t * width;
        decode_row(&e->words, w->ids[t], row);
        if (e->words_too.rows) {
            float *other = e->wide + t * width;
            decode_row(&e->words_too, w->ids[t], other);
            for (int64_t k = 0; k < width; k++) row[k] += other[k];
        }
    }
}

static void normalise(void *context, int64_t item, int32_t thread) {
    Rowwise *w = context;
    Engine *e = w->e;
    Thread *t = of(e, thread);
    const int32_t hidden = (int32_t)e->hidden;
    for (int64_t r = item * ROWS_AT_ONCE; r < least64(w->tokens, (item + 1) * ROWS_AT_ONCE); r++) {
        float *x = w->x + r * hidden;
        if (w->ids) {
            const float *type = e->type_table + w->types[r] * e->hidden,
                        *place = e->position_table + w->places[r] * e->hidden;
            for (int32_t k = 0; k < hidden; k++) x[k] = (x[k] + type[k]) + place[k];
        }
        if (!e->kernels->norm(x, hidden, w->norm->weight, w->norm->bias, e->epsilon)) t->poison = NAN;
        if (w->grid)
            e->kernels->quantize(x, hidden, w->grid, w->operand->codes + r * w->operand->codes_stride);
        else
            e->kernels->extent(x, hidden, &t->least[0], &t->most[0]);
    }
}

/* Norms of all rows, and what comes next: the operand of `next`. Row-wise work writes its codes where it can. */
static Operand *normalised(Engine *e, Rowwise *w, const OpenNorm *norm, const Range *next, int32_t decoded, int32_t slot) {
    Grid grid;
    w->norm = norm;
    w->operand = &e->operands[slot];
    forget_extremes(e);
    w->grid = ahead(e, slot, next, w->tokens, e->hidden, decoded, &grid);
    pool_run(e->pool, normalise, w, share_of(w->tokens, ROWS_AT_ONCE));
    w->ids = NULL;
    if (w->grid) return w->operand;
    if (!decoded) return operand_of(e, slot, w->x, e->hidden, w->tokens, e->hidden, next, 1, 0);
    memcpy(e->context, w->x, (size_t)(w->tokens * e->hidden) * sizeof(float)); /* the residual needs what is not rounded */
    return operand_of(e, slot, e->context, e->hidden, w->tokens, e->hidden, next, 1, 1);
}

/* --- layers ------------------------------------------------------------------------------------------------------ */

#define MOST_KEPT (16ll << 20) /* probabilities that are kept: 64 MB */

/* Where each row's probabilities begin, and how many there are in all: every query's stand at a multiple of a panel. */
static int64_t probabilities_of(const int64_t *ends, int64_t rows, int64_t heads, int64_t *starts) {
    int64_t numbers = 0;
    for (int64_t r = 0; r < rows; r++) {
        const int64_t length = ends[r] - (r ? ends[r - 1] : 0);
        starts[r] = numbers;
        numbers += heads * length * (share_of(length, PANEL) * PANEL);
    }
    return numbers;
}

static float *room_for_probabilities(Engine *e, int64_t numbers) {
    if (numbers > MOST_KEPT) return NULL;
    if (numbers > e->room_kept) {
        give_back(&e->kept);
        e->probabilities = keep(&e->kept, numbers * (int64_t)sizeof(float));
        e->room_kept = e->probabilities ? numbers : 0;
    }
    return e->probabilities;
}

static void run_layer(Engine *e, const OpenLayer *l, Rowwise *w, Operand *in, const int64_t *ends, int64_t rows) {
    const int64_t tokens = w->tokens, width = (int64_t)l->heads * l->width;
    Grid next;

    /* queries, keys and values side by side */
    forget_extremes(e);
    float *parts[3] = {e->wide, e->wide + width, e->wide + 2 * width};
    const OpenLinear *linears[3] = {&l->query, &l->key, &l->value};
    Attention a = {.engine = e, .layer = l, .ends = ends, .rows = rows, .context = e->context};
    if (!l->query.inner && !l->key.inner && !l->value.inner) {
        Product p = {.e = e, .in = in, .parts = 3, .stride = 3 * width, .rows = tokens, .codes_stride = 3 * width};
        int32_t known = 0; /* ranges, so that codes can be written at once */
        for (int32_t i = 0; i < 3; i++) known += l->ranges[i].kind == RANGE_STEP;
        memcpy(p.linear, linears, sizeof linears);
        memcpy(p.out, parts, sizeof parts);
        for (int32_t i = 0; i < 3 && known == 3; i++) {
            a.grids[i] = grid_of(&l->ranges[i], 0, 0);
            p.grid[i] = &a.grids[i];
            p.codes[i] = e->operands[FORWARD].codes + i * width;
            a.coded = e->operands[FORWARD].codes;
        }
        run_product(&p);
        for (int32_t i = 0; i < 3 && known < 3; i++) a.grids[i] = grid_from_extremes(e, &l->ranges[i], i);
    } else
        for (int32_t i = 0; i < 3; i++) {
            forget_extremes(e);
            apply(e, linears[i], in, tokens, parts[i], 3 * width, 0, ACTIVATION_NONE, NULL, FORWARD);
            a.grids[i] = grid_from_extremes(e, &l->ranges[i], 0);
        }

    /* attention */
    const Range *range = &l->ranges[PROBABILITIES];
    if (by_tensor(range)) { /* all of them are looked at before one is quantized: kept meanwhile, or computed twice */
        const int64_t numbers = probabilities_of(ends, rows, l->heads, e->starts);
        a.starts = e->starts;
        a.kept = room_for_probabilities(e, numbers);
        a.measuring = 1;
        forget_extremes(e);
        pool_run(e->pool, attend, &a, rows * l->heads);
        a.measuring = 0;
        a.grids[PROBABILITIES] = grid_from_extremes(e, range, 0);
    } else
        a.grids[PROBABILITIES] = grid_of(range, 0, 1);
    forget_extremes(e);
    a.grid = ahead(e, ATTENTION, entry(&l->output), tokens, width, entry_decoded(&l->output), &next);
    a.codes = e->operands[ATTENTION].codes;
    a.codes_stride = e->operands[ATTENTION].codes_stride;
    pool_run(e->pool, attend, &a, rows * l->heads);
    Operand *context = &e->operands[ATTENTION];
    if (!a.grid)
        context =
            operand_of(e, ATTENTION, e->context, width, tokens, width, entry(&l->output), 1, entry_decoded(&l->output));
    apply(e, &l->output, context, tokens, w->x, e->hidden, 1, ACTIVATION_NONE, NULL, FORWARD);

    /* feed-forward */
    Operand *up = normalised(e, w, &l->after_attention, entry(&l->up), entry_decoded(&l->up), ATTENTION);
    const int64_t inside = l->up.first.rows;
    forget_extremes(e);
    const Grid *grid =
        l->up.inner ? NULL : ahead(e, FORWARD, entry(&l->down), tokens, inside, entry_decoded(&l->down), &next);
    apply(e, &l->up, up, tokens, e->wide, inside, 0, l->activation, grid, FORWARD);
    Operand *down = &e->operands[FORWARD];
    if (!grid) down = operand_of(e, FORWARD, e->wide, inside, tokens, inside, entry(&l->down), 1, entry_decoded(&l->down));
    apply(e, &l->down, down, tokens, w->x, e->hidden, 1, ACTIVATION_NONE, NULL, FORWARD);
}

/* The head, over every token or over the pooled first token of each row. */
static void run_head(Engine *e, const int64_t *ends, int64_t rows, int64_t tokens, float *out) {
    const Range none = {.kind = RANGE_NONE};
    float *x = e->hidden_states;
    int64_t count = tokens;
    if (!e->by_token) {
        for (int64_t r = 0; r < rows; r++)
            memcpy(e->first + r * e->hidden, x + (r ? ends[r - 1] : 0) * e->hidden, (size_t)e->hidden * sizeof(float));
        x = e->first;
        count = rows;
    }
    if (e->pooler) {
        Operand *in =
            operand_of(e, ATTENTION, x, e->hidden, count, e->hidden, entry(e->pooler), 0, entry_decoded(e->pooler));
        forget_extremes(e);
        apply(e, e->pooler, in, count, e->pooled, e->hidden, 0, ACTIVATION_TANH, NULL, FORWARD);
        x = e->pooled;
    }
    Operand *in = operand_of(e, ATTENTION, x, e->hidden, count, e->hidden, &none, 0, 0);
    forget_extremes(e);
    apply(e, &e->head, in, count, out, e->outputs, 0, ACTIVATION_NONE, NULL, FORWARD);
}

/* --- memory ------------------------------------------------------------------------------------------------------ */

/* Make the buffers hold a batch; they grow and never shrink. */
static int32_t make_room(Engine *e, int64_t tokens, int64_t rows, int64_t length) {
    if (tokens <= e->room_tokens && rows <= e->room_rows && length <= e->room_length) return 1;
    const int64_t t = tokens > e->room_tokens ? tokens : e->room_tokens, r = rows > e->room_rows ? rows : e->room_rows;
    const int64_t s = length > e->room_length ? length : e->room_length;
    const Opening *most = &e->limits;
    const int64_t f = sizeof(float), width = most->most_width, table = e->words.columns;
    int64_t wide = most->most_rows > 3 * width ? most->most_rows : 3 * width;
    wide = wide > e->hidden ? wide : e->hidden;
    wide = wide > table ? wide : table;
    const int64_t context = width > e->hidden ? width : e->hidden;
    int64_t columns = padded(e, wide > most->most_columns ? wide : most->most_columns);
    Store *store = &e->buffers;
    give_back(store);
    e->room_tokens = e->room_rows = e->room_length = 0;
    const int64_t attention = attention_room(e, s);
    if (t > (1ll << 40) / (wide * f) || !attention) return 0;
    e->hidden_states = keep(store, t * e->hidden * f);
    e->wide = keep(store, t * wide * f);
    e->context = keep(store, t * context * f);
    e->inner = most->most_inner ? keep(store, t * most->most_inner * f) : NULL;
    e->first = keep(store, r * e->hidden * f);
    e->pooled = keep(store, (e->by_token ? t : r) * e->hidden * f);
    e->starts = keep(store, r * (int64_t)sizeof(int64_t));
    e->threads = keep(store, pool_threads(e->pool) * (int64_t)sizeof(Thread));
    int32_t whole = e->hidden_states && e->wide && e->context && (e->inner || !most->most_inner) && e->first && e->pooled &&
                    e->starts && e->threads;
    for (int32_t i = 0; i < 2; i++) {
        Operand *o = &e->operands[i];
        *o = (Operand){.codes = keep(store, t * columns), .alpha = keep(store, t * f), .beta = keep(store, t * f)};
        whole = whole && o->codes && o->alpha && o->beta;
    }
    for (int32_t i = 0; whole && i < pool_threads(e->pool); i++) {
        Thread *one = &e->threads[i];
        one->panel[0] = keep(store, most->widest_panel);
        one->panel[1] = keep(store, most->widest_panel);
        one->sums[0] = keep(store, TILE_ROWS * PANEL * 4);
        one->sums[1] = keep(store, TILE_ROWS * PANEL * 4);
        one->floats = keep(store, TILE_ROWS * PANEL * 4);
        one->looked[0] = keep(store, LOOKUP_ROWS * most->most_blocks * LOOKUP_COLUMNS * 4);
        one->looked[1] = keep(store, LOOKUP_ROWS * most->most_blocks * LOOKUP_COLUMNS * 4);
        one->tables = keep(store, LOOKUP_ROWS * LOOKUP_DEPTH * 64 * 2);
        one->attention = keep(store, attention);
        whole = one->panel[0] && one->panel[1] && one->sums[0] && one->sums[1] && one->floats && one->looked[0] &&
                one->looked[1] && one->tables && one->attention;
    }
    if (!whole) {
        give_back(store);
        return 0;
    }
    e->room_tokens = t;
    e->room_rows = r;
    e->room_length = s;
    return 1;
}

/* --- the run ----------------------------------------------------------------------------------------------------- */

static int32_t run_batch(Engine *e, const int32_t *ids, const int32_t *places, const int32_t *types, int64_t tokens,
                         const int64_t *ends, int64_t rows, float *out, char *error, int64_t room) {
    int64_t longest = 0;
    for (int64_t r = 0, start = 0; r < rows; start = ends[r++]) {
        if (ends[r] <= start || ends[r] > tokens) {
            snprintf(error, room, "row %lld is empty or ends behind the tokens", (long long)r);
            return 0;
        }
        longest = ends[r] - start > longest ? ends[r] - start : longest;
    }
    if (rows < 1 || ends[rows - 1] != tokens || longest > e->positions) {
        snprintf(error, room, "the rows do not cover the tokens, or one has more than %lld", (long long)e->positions);
        return 0;
    }
    for (int64_t t = 0; t < tokens; t++)
        if (ids[t] < 0 || ids[t] >= e->vocabulary || places[t] < 0 || places[t] >= e->positions || types[t] < 0 ||
            types[t] >= e->types) {
            snprintf(error, room, "token %lld is none of the model's", (long long)t);
            return 0;
        }
    if (!make_room(e, tokens, rows, longest)) {
        snprintf(error, room, "there is not enough memory for %lld tokens at once: use smaller batches", (long long)tokens);
        return 0;
    }
    e->threads[0].entered = 0; /* other code may have used the caller's tiles since */
    for (int32_t t = 0; t < pool_threads(e->pool); t++) e->threads[t].poison = 0;

    Rowwise w = {.e = e, .ids = ids, .places = places, .types = types, .tokens = tokens, .x = e->hidden_states};
    pool_run(e->pool, embed_words, &w, share_of(tokens, ROWS_AT_ONCE));
    if (e->words_out) {
        const OpenLinear *to = e->words_out;
        Operand *in =
            operand_of(e, ATTENTION, e->inner, e->words.columns, tokens, e->words.columns, &to->input, 0, to->decoded);
        forget_extremes(e);
        apply(e, to, in, tokens, w.x, e->hidden, 0, ACTIVATION_NONE, NULL, FORWARD);
    }
    const OpenNorm *norm = &e->embedding;
    const Range none = {.kind = RANGE_NONE};
    for (int64_t l = 0; l < e->layers; l++) {
        const OpenLayer *layer = &e->layer[l];
        const OpenLinear *query = layer->query.inner ? layer->query.inner : &layer->query;
        const int32_t decoded = query->first.width == 32 && layer->input.kind != RANGE_NONE;
        Operand *in = normalised(e, &w, norm, &layer->input, decoded, ATTENTION);
        run_layer(e, layer, &w, in, ends, rows);
        norm = &layer->after_feed_forward;
    }
    normalised(e, &w, norm, &none, 0, ATTENTION);
    run_head(e, ends, rows, tokens, out);
    int32_t sound = 1;
    for (int32_t t = 0; t < pool_threads(e->pool); t++) sound = sound && e->threads[t].poison == 0;
    for (int64_t i = 0; i < (e->by_token ? tokens : rows) * e->outputs; i++) sound = sound && isfinite(out[i]);
    if (!sound) snprintf(error, room, "its numbers are not finite for these texts");
    return sound;
}

int32_t engine_run(Engine *e, const int32_t *ids, const int32_t *places, const int32_t *types, int64_t tokens,
                   const int64_t *ends, int64_t rows, float *out, char *error, int64_t room) {
    pthread_mutex_lock(&e->mutex);
    const int32_t done = run_batch(e, ids, places, types, tokens, ends, rows, out, error, room);
    pthread_mutex_unlock(&e->mutex);
    return done;
}

/* --- for tests --------------------------------------------------------------------------------------------------- */

int32_t engine_product(const Matrix *matrix, const char *set, const uint8_t *codes, int64_t rows, int32_t by_lookup,
                       int32_t *out, char *error, int64_t room) {
    const Kernels *kernels = kernels_named(set, error, room);
    if (!kernels) return 0;
    Store store = {0};
    Pool *pool = pool_new(1);
    Packed packed;
    int32_t done = pool && pack(&store, pool, kernels, by_lookup, matrix, &packed, error, room) && packed.width != 32;
    if (done && by_lookup && !packed.lookup) {
        snprintf(error, room, "%s looks nothing up in such a matrix", kernels->name);
        done = 0;
    }
    if (done) {
        const int64_t stride = packed.steps * 4, depth = packed.columns;
        uint8_t *a = keep(&store, rows * stride);
        int8_t *panel = keep(&store, (int64_t)packed.steps * 256);
        const int64_t wide = packed.blocks * LOOKUP_COLUMNS;
        int32_t *c = keep(&store, rows * PANEL * 4 + LOOKUP_ROWS * wide * 4);
        uint16_t *tables = keep(&store, LOOKUP_ROWS * LOOKUP_DEPTH * 64 * 2);
        if (kernels->enter) kernels->enter();
        for (int64_t r = 0; r < rows; r++) memcpy(a + r * stride, codes + r * depth, (size_t)depth);
        if (by_lookup)
            for (int64_t r = 0; r < rows; r += LOOKUP_ROWS) {
                const int32_t some = (int32_t)least64(LOOKUP_ROWS, rows - r);
                kernels->lookup(a + r * stride, stride, some, (int32_t)depth, packed.lookup, 0, packed.blocks, c, wide,
                                tables);
                for (int32_t i = 0; i < some; i++)
                    memcpy(out + (r + i) * packed.rows, c + i * wide, (size_t)packed.rows * 4);
            }
        else
            for (int64_t p = 0; p < panels_of(&packed); p++) {
                const int64_t columns = least64(PANEL, packed.rows - p * PANEL);
                const int8_t *weights = (const int8_t *)(packed.panels + p * packed.panel_bytes);
                if (packed.width != 8) {
                    kernels->unpack((const uint8_t *)weights, packed.width, packed.values, packed.steps, panel);
                    weights = panel;
                }
                (packed.small ? kernels->dot_small : kernels->dot)(a, stride, (int32_t)rows, weights, packed.steps,
                                                                   (int32_t)share_of(columns, 16), c);
                for (int64_t r = 0; r < rows; r++)
                    memcpy(out + r * packed.rows + p * PANEL, c + r * PANEL, (size_t)columns * 4);
            }
    }
    pool_free(pool);
    give_back(&store);
    return done;
}
