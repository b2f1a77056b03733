/* Opening and closing an engine: a model's description is checked and packed. */
#include "forward.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOST_THREADS 256

int32_t engine_abi(void) { return ENGINE_ABI; }

int64_t engine_size_of(int32_t what) {
    const int64_t sizes[] = {sizeof(Range), sizeof(Matrix), sizeof(Linear), sizeof(Layer), sizeof(Model)};
    return what >= 0 && what < 5 ? sizes[what] : -1;
}

static int32_t fail(Opening *o, const char *line) {
    snprintf(o->error, o->room, "%s", line);
    return 0;
}

static int32_t check_range(Opening *o, const Range *r) {
    if (r->kind < RANGE_NONE || r->kind > RANGE_TORCH) return fail(o, "an activation range is of no known kind");
    if (r->kind == RANGE_NONE) return 1;
    const int32_t learned = r->kind == RANGE_STEP || r->kind == RANGE_SHIFTED;
    if (r->low < -128 || r->high > 255 || r->high - r->low > 255 || r->high < r->low || (r->low < 0 && r->high > 127))
        return fail(o, "an activation has codes beyond eight bits");
    if (learned && !(isfinite(r->step) && r->step > 0 && isfinite(1 / r->step)))
        return fail(o, "an activation's step is no positive number");
    if (!(r->clip_low < r->clip_high)) return fail(o, "an activation's bounds are in the wrong order");
    return 1;
}

/* A vector of the caller's, padded to whole panels with zeros. */
static float *vector(Opening *o, const float *from, int64_t count) {
    const int64_t padded = (count + PANEL - 1) / PANEL * PANEL;
    float *to = from ? keep_copy(o->store, from, count * (int64_t)sizeof(float), padded * (int64_t)sizeof(float))
                     : keep(o->store, padded * (int64_t)sizeof(float));
    if (!to) fail(o, "there is not enough memory for the model");
    return to;
}

static int32_t open_linear(Opening *o, const Linear *from, OpenLinear *to, int64_t rows, int64_t columns) {
    *to = (OpenLinear){.input = from->input};
    if (from->first.rows != rows) return fail(o, "a matrix has another number of rows than its place");
    if (!check_range(o, &from->input)) return 0;
    if (from->inner) {
        if (from->inner->inner) return fail(o, "a factor has factors");
        if (!(to->inner = keep(o->store, sizeof(OpenLinear)))) return fail(o, "there is not enough memory for the model");
        if (!open_linear(o, from->inner, to->inner, from->first.columns, columns)) return 0;
    } else if (from->first.columns != columns)
        return fail(o, "a matrix has another number of columns than its place");
    if (!pack(o->store, o->pool, o->kernels, o->look_up, &from->first, &to->first, o->error, o->room)) return 0;
    if (from->second.rows) {
        if (from->second.rows != rows || from->second.columns != from->first.columns || from->second.bits == 32 ||
            from->first.bits == 32)
            return fail(o, "the two matrices of a split do not fit each other");
        if (!pack(o->store, o->pool, o->kernels, o->look_up, &from->second, &to->second, o->error, o->room)) return 0;
        to->two = 1;
    }
    to->bias = vector(o, from->bias, rows);
    if (to->first.width == 32 && from->input.kind != RANGE_NONE) to->decoded = 1;
    for (const OpenLinear *l = to; l; l = l->inner) {
        const Packed *p = &l->first;
        const int64_t bytes = p->columns * PANEL * 4;
        o->widest_panel = bytes > o->widest_panel ? bytes : o->widest_panel;
        const int64_t codes = (int64_t)p->steps * 256;
        o->widest_panel = codes > o->widest_panel ? codes : o->widest_panel;
        o->most_rows = p->rows > o->most_rows ? p->rows : o->most_rows;
        o->most_blocks = p->blocks > o->most_blocks ? p->blocks : o->most_blocks;
        o->most_inner = l->inner && l->first.columns > o->most_inner ? l->first.columns : o->most_inner;
        o->most_columns = p->steps * 4 > o->most_columns ? p->steps * 4 : o->most_columns;
    }
    return to->bias != 0;
}

static int32_t open_norm(Opening *o, const Norm *from, OpenNorm *to, int64_t hidden) {
    if (!from->weight || !from->bias) return fail(o, "a layer norm lacks its weight or bias");
    to->weight = vector(o, from->weight, hidden);
    to->bias = vector(o, from->bias, hidden);
    return to->weight && to->bias;
}

static int32_t open_layer(Opening *o, const Layer *from, OpenLayer *to, int64_t hidden) {
    const int64_t width = (int64_t)from->heads * from->width, inside = from->up.first.rows;
    if (from->heads < 1 || from->heads > 4096 || from->width < 1 || from->width > 4096)
        return fail(o, "a layer has no sound number of heads");
    if (from->activation != ACTIVATION_GELU && from->activation != ACTIVATION_RELU)
        return fail(o, "a feed-forward has no known activation");
    *to = (OpenLayer){.input = from->input, .heads = from->heads, .width = from->width, .activation = from->activation};
    to->ranges[QUERY] = from->of_query;
    to->ranges[KEY] = from->of_key;
    to->ranges[VALUE] = from->of_value;
    to->ranges[PROBABILITIES] = from->of_probabilities;
    for (int32_t i = 0; i < 4; i++)
        if (!check_range(o, &to->ranges[i])) return 0;
    o->most_width = width > o->most_width ? width : o->most_width;
    o->most_head = from->width > o->most_head ? from->width : o->most_head;
    int32_t floats = 0; /* one input feeds all three: as codes, or as floats */
    const Linear *three[] = {&from->query, &from->key, &from->value};
    for (int32_t i = 0; i < 3; i++) floats += (three[i]->inner ? three[i]->inner : three[i])->first.bits == 32;
    if (floats != 0 && floats != 3) return fail(o, "queries, keys and values are not all on grids, or all in floats");
    return check_range(o, &to->input) && open_linear(o, &from->query, &to->query, width, hidden) &&
           open_linear(o, &from->key, &to->key, width, hidden) && open_linear(o, &from->value, &to->value, width, hidden) &&
           open_linear(o, &from->output, &to->output, hidden, width) && open_linear(o, &from->up, &to->up, inside, hidden) &&
           open_linear(o, &from->down, &to->down, hidden, inside) &&
           open_norm(o, &from->after_attention, &to->after_attention, hidden) &&
           open_norm(o, &from->after_feed_forward, &to->after_feed_forward, hidden);
}

/* A table of words stays as it is in its file: only the rows that are looked up are decoded. */
static int32_t open_table(Opening *o, const Matrix *from, Matrix *to, int64_t rows, int64_t columns) {
    if (from->rows != rows || from->columns != columns) return fail(o, "a table of words does not fit the model");
    if (!check_matrix(from, o->error, o->room)) return 0;
    *to = *from;
    to->codes = keep_copy(o->store, from->codes, from->bytes, from->bytes);
    to->step = from->bits == 32 ? NULL : keep_copy(o->store, from->step, from->steps * (int64_t)sizeof(float), 0);
    return to->codes && (to->step || from->bits == 32) ? 1 : fail(o, "there is not enough memory for the model");
}

static int32_t open_model(Opening *o, const Model *m, Engine *e) {
    const int64_t hidden = m->hidden;
    if (hidden < 1 || hidden > 65536 || m->layers < 0 || m->layers > 4096 || m->outputs < 1 || m->outputs > 65536)
        return fail(o, "the model has no sound size");
    if (m->vocabulary < 1 || m->positions < 1 || m->types < 1 || m->positions > 1 << 20 || m->types > 1 << 20 || !m->head ||
        (m->layers && !m->layer))
        return fail(o, "the model has no sound tables");
    if (!m->position_table || !m->type_table || !(m->epsilon >= 0)) return fail(o, "the model lacks a table");
    e->hidden = hidden;
    e->layers = m->layers;
    e->outputs = m->outputs;
    e->vocabulary = m->vocabulary;
    e->positions = m->positions;
    e->types = m->types;
    e->epsilon = m->epsilon;
    e->by_token = m->by_token;
    const int64_t narrow = m->words.columns;
    if (!open_table(o, &m->words, &e->words, m->vocabulary, m->words_out ? narrow : hidden)) return 0;
    if (m->words_too.rows && !open_table(o, &m->words_too, &e->words_too, m->vocabulary, e->words.columns)) return 0;
    if (m->words_out) {
        if (!(e->words_out = keep(o->store, sizeof(OpenLinear)))) return fail(o, "there is not enough memory for the model");
        if (!open_linear(o, m->words_out, e->words_out, hidden, narrow)) return 0;
        o->most_inner = narrow > o->most_inner ? narrow : o->most_inner;
    }
    e->position_table = vector(o, m->position_table, m->positions * hidden);
    e->type_table = vector(o, m->type_table, m->types * hidden);
    e->layer = keep(o->store, (m->layers + 1) * (int64_t)sizeof(OpenLayer));
    if (!e->position_table || !e->type_table || !e->layer) return fail(o, "there is not enough memory for the model");
    if (!open_norm(o, &m->embedding, &e->embedding, hidden)) return 0;
    for (int32_t l = 0; l < m->layers; l++)
        if (!open_layer(o, &m->layer[l], &e->layer[l], hidden)) return 0;
    if (m->pooler) {
        if (!(e->pooler = keep(o->store, sizeof(OpenLinear)))) return fail(o, "there is not enough memory for the model");
        if (!open_linear(o, m->pooler, e->pooler, hidden, hidden)) return 0;
    }
    return open_linear(o, m->head, &e->head, m->outputs, hidden);
}

Engine *engine_open(const Model *model, const char *set, int32_t threads, char *error, int64_t room) {
    const Kernels *kernels = kernels_named(set, error, room);
    if (!kernels) return NULL;
    if (threads < 1 || threads > MOST_THREADS) {
        snprintf(error, room, "an engine runs on 1 to %d threads, not %d", MOST_THREADS, threads);
        return NULL;
    }
    Engine *e = calloc(1, sizeof(Engine));
    if (!e) {
        snprintf(error, room, "there is not enough memory for the model");
        return NULL;
    }
    e->kernels = kernels;
    pthread_mutex_init(&e->mutex, NULL);
    e->pool = pool_new(threads);
    Opening o = {.store = &e->model, .pool = e->pool, .kernels = kernels, .error = error, .room = room};
    o.look_up = looking_up_is_faster(kernels);
    if (!e->pool || !open_model(&o, model, e)) {
        if (!e->pool) snprintf(error, room, "there is not enough memory for the model");
        engine_close(e);
        return NULL;
    }
    e->limits = o;
    return e;
}

const char *engine_set(const Engine *engine) { return engine->kernels->name; }

int64_t engine_memory(const Engine *engine) { return engine->model.bytes + engine->buffers.bytes + engine->kept.bytes; }

void engine_close(Engine *engine) {
    if (!engine) return;
    pool_free(engine->pool);
    give_back(&engine->buffers);
    give_back(&engine->kept);
    give_back(&engine->model);
    pthread_mutex_destroy(&engine->mutex);
    free(engine);
}
