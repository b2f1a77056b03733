/* Work on rows of numbers, in the lanes of whoever includes this file. */

/* exp(x) for x <= 0 or little above: 2^n times the series of exp on what is left, to the seventh power. */
INLINE Floats exponential(Floats x) {
    x = most(x, all(-87.0f));
    Floats n = nearest(mul(x, all(1.44269504f)));
    Floats r = fma_(n, all(-0.693145752f), x); /* ln 2 in two parts, so that n times the first is exact */
    r = fma_(n, all(-1.42860677e-6f), r);
    Floats p = all(1.0f / 5040);
    p = fma_(p, r, all(1.0f / 720));
    p = fma_(p, r, all(1.0f / 120));
    p = fma_(p, r, all(1.0f / 24));
    p = fma_(p, r, all(1.0f / 6));
    p = fma_(p, r, all(0.5f));
    p = fma_(p, r, all(1.0f));
    p = fma_(p, r, all(1.0f));
    return scale2(p, n);
}

/* erf(z) as z times a quotient of polynomials in z^2, fitted to a relative error of 2e-8 up to 3.95, where it is 1. */
INLINE Floats error_function(Floats z) {
    z = most(least(z, all(3.95f)), all(-3.95f));
    Floats s = mul(z, z);
    Floats p = all(2.0259367e-06f), q = all(3.7831862e-05f);
    p = fma_(p, s, all(0.00028468319f));
    p = fma_(p, s, all(0.0038079754f));
    p = fma_(p, s, all(0.052874874f));
    p = fma_(p, s, all(0.19154602f));
    p = fma_(p, s, all(1.1283791f));
    q = fma_(q, s, all(0.0011706799f));
    q = fma_(q, s, all(0.015054719f));
    q = fma_(q, s, all(0.11455785f));
    q = fma_(q, s, all(0.50308591f));
    q = fma_(q, s, all(1.0f));
    return mul(z, quotient(p, q));
}

INLINE Floats activated(Floats x, int32_t activation) {
    switch (activation) {
        case ACTIVATION_GELU: {
            Floats half = mul(x, all(0.5f));
            return fma_(half, error_function(mul(x, all(0.70710678f))), half);
        }
        case ACTIVATION_RELU: return most(x, all(0.0f));
        case ACTIVATION_TANH: { /* by the magnitude, so that nothing overflows */
            Floats m = most(x, sub(all(0.0f), x));
            Floats e = exponential(mul(m, all(-2.0f)));
            return mul(sign_of(x), divide(sub(all(1.0f), e), add(all(1.0f), e)));
        }
        default: return x;
    }
}

INLINE Floats codes_of(Floats x, const Grid *grid) {
    Floats code = grid->signs ? sign_of(x) : nearest(mul(sub(x, all(grid->least)), all(grid->inverse)));
    return add(most(least(code, all(grid->high)), all(grid->low)), all(grid->shift));
}

static void quantize(const float *x, int32_t count, const Grid *grid, uint8_t *codes) {
    int32_t i = 0;
    for (; i + LANES <= count; i += LANES) store_bytes(codes + i, codes_of(load(x + i), grid));
    if (i < count) store_some_bytes(codes + i, count - i, codes_of(load_some(x + i, count - i, 0), grid));
}

static void extent(const float *x, int32_t count, float *lowest, float *highest) {
    Floats low = all(*lowest), high = all(*highest);
    int32_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        Floats v = load(x + i);
        low = least(v, low);
        high = most(v, high);
    }
    if (i < count) {
        Floats v = load_some(x + i, count - i, x[i]);
        low = least(v, low);
        high = most(v, high);
    }
    *lowest = least_of(low);
    *highest = most_of(high);
}

static int32_t norm(float *x, int32_t count, const float *weight, const float *bias, float epsilon) {
    Floats sum = all(0), squares = all(0);
    int32_t i;
    for (i = 0; i + LANES <= count; i += LANES) sum = add(sum, load(x + i));
    if (i < count) sum = add(sum, load_some(x + i, count - i, 0));
    float mean = sum_of(sum) / count;
    for (i = 0; i + LANES <= count; i += LANES) {
        Floats d = sub(load(x + i), all(mean));
        squares = fma_(d, d, squares);
    }
    if (i < count) {
        Floats d = sub(load_some(x + i, count - i, mean), all(mean));
        squares = fma_(d, d, squares);
    }
    float variance = sum_of(squares) / count, inverse = 1.0f / sqrtf(variance + epsilon);
    Floats scale = all(inverse), shift = all(-mean * inverse);
    for (i = 0; i + LANES <= count; i += LANES)
        store(x + i, fma_(fma_(load(x + i), scale, shift), load(weight + i), load(bias + i)));
    if (i < count) {
        Floats y = fma_(load_some(x + i, count - i, 0), scale, shift);
        store_some(x + i, count - i, fma_(y, load_some(weight + i, count - i, 0), load_some(bias + i, count - i, 0)));
    }
    return variance - variance == 0;
}

static void softmax(float *x, int32_t count, float scale, float *lowest, float *highest) {
    float low = x[0], high = x[0];
    extent(x, count, &low, &high);
    Floats sum = all(0), top = all(high), by = all(scale);
    int32_t i;
    for (i = 0; i + LANES <= count; i += LANES) {
        Floats e = exponential(mul(sub(load(x + i), top), by));
        sum = add(sum, e);
        store(x + i, e);
    }
    if (i < count) {
        float rest[LANES];
        store(rest, exponential(mul(sub(load_some(x + i, count - i, high), top), by)));
        Floats e = load_some(rest, count - i, 0);
        sum = add(sum, e);
        store_some(x + i, count - i, e);
    }
    float inverse = 1.0f / sum_of(sum);
    float bottom[LANES];
    store(bottom, exponential(all((low - high) * scale)));
    *lowest = bottom[0] * inverse;
    *highest = inverse;
    Floats share = all(inverse);
    for (i = 0; i + LANES <= count; i += LANES) store(x + i, mul(load(x + i), share));
    if (i < count) store_some(x + i, count - i, mul(load_some(x + i, count - i, 0), share));
}

/* Columns are padded to whole panels, so that whole lanes can be read. */
static void combine(const int32_t *c, int32_t count, const float *a, const float *b, const float *e, const int32_t *z,
                    float alpha, float beta, float sum, float *out) {
    for (int32_t i = 0; i < count; i += LANES) {
        Floats y = fma_(load(a + i), whole_less(c + i, z + i), mul(load(b + i), all(sum)));
        y = fma_(all(alpha), y, mul(all(beta), load(e + i)));
        if (count - i >= LANES)
            store(out + i, y);
        else
            store_some(out + i, count - i, y);
    }
}

/* What belongs to one vector of columns. */
typedef struct {
    Floats bias, scale[2], weights[2];
    int32_t less[2][LANES];
} ColumnConstants;

INLINE void constants_of(const Tile *t, int32_t j, int32_t matrices, ColumnConstants *c) {
    c->bias = load(t->bias + j);
    for (int32_t m = 0; m < matrices; m++) {
        c->scale[m] = load(t->scale[m] + j);
        c->weights[m] = whole(t->weights[m] + j);
        for (int32_t i = 0; i < LANES; i++) c->less[m][i] = t->weights[m][j + i] * t->zero;
    }
}

INLINE Floats sums_of(const Tile *t, int32_t r, int32_t j, const int32_t matrices, const ColumnConstants *c, Floats alpha,
                      Floats beta) {
    Floats y = c->bias;
    for (int32_t m = 0; m < matrices; m++) {
        const Floats sums = whole_less(t->sums[m] + r * t->stride + j, c->less[m]);
        y = fma_(fma_(sums, alpha, mul(c->weights[m], beta)), c->scale[m], y);
    }
    return matrices ? y : add(y, load(t->floats + r * t->stride + j));
}

/* Blocks of 64 columns; in each, rows first, so that what is written lies together. */
INLINE void finish_as(Tile *t, int32_t rows, const int32_t activation, const int32_t matrices, const int32_t coded) {
    enum { VECTORS = PANEL / LANES };
    Floats low = all(t->least), high = all(t->most), poison = all(t->poison);
    for (int32_t block = 0; block < t->columns; block += PANEL) {
        ColumnConstants c[VECTORS];
        const int32_t width = t->columns - block < PANEL ? t->columns - block : PANEL;
        for (int32_t v = 0; v < VECTORS; v++) constants_of(t, block + v * LANES, matrices, &c[v]);
        for (int32_t r = 0; r < rows; r++) {
            Floats alpha = all(0), beta = all(0);
            if (matrices) {
                alpha = all(t->alpha[t->per_row ? r : 0]);
                beta = all(t->beta[t->per_row ? r : 0]);
            }
            float *out = t->out + r * t->out_stride + block;
            uint8_t *codes = t->codes + r * t->codes_stride + block;
#pragma GCC unroll 4
            for (int32_t v = 0; v < VECTORS; v++) {
                const int32_t j = v * LANES, some = width - j;
                if (some <= 0) break;
                Floats y = activated(sums_of(t, r, block + j, matrices, &c[v], alpha, beta), activation);
                if (some < LANES) { /* what is no column counts as the first that is one */
                    float rest[LANES];
                    store(rest, y);
                    y = load_some(rest, some, rest[0]);
                }
                if (coded) {
                    if (some < LANES)
                        store_some_bytes(codes + j, some, codes_of(y, t->grid));
                    else
                        store_bytes(codes + j, codes_of(y, t->grid));
                } else {
                    if (t->add) y = add(y, some < LANES ? load_some(out + j, some, out[j]) : load(out + j));
                    low = least(y, low);
                    high = most(y, high);
                    if (some < LANES)
                        store_some(out + j, some, y);
                    else
                        store(out + j, y);
                }
                poison = fma_(y, all(0.0f), poison);
            }
        }
    }
    t->least = least_of(low);
    t->most = most_of(high);
    float poisons[LANES];
    store(poisons, poison);
    for (int32_t i = 0; i < LANES; i++)
        if (poisons[i] != 0) t->poison = poisons[i];
}

static void finish(Tile *t, int32_t rows) {
#define FINISH(A)                                                                \
    case A:                                                                      \
        if (t->floats)                                                           \
            t->grid ? finish_as(t, rows, A, 0, 1) : finish_as(t, rows, A, 0, 0); \
        else if (!t->sums[1])                                                    \
            t->grid ? finish_as(t, rows, A, 1, 1) : finish_as(t, rows, A, 1, 0); \
        else                                                                     \
            t->grid ? finish_as(t, rows, A, 2, 1) : finish_as(t, rows, A, 2, 0); \
        break;
    switch (t->activation) {
        FINISH(ACTIVATION_NONE)
        FINISH(ACTIVATION_GELU)
        FINISH(ACTIVATION_RELU)
        FINISH(ACTIVATION_TANH)
    }
#undef FINISH
}

/* Sums in float: up to six rows by up to four vectors at once. */
#define DOT_FLOAT_ROWS 6
INLINE void dot_float_tile(const float *a, int64_t stride, const int32_t rows, const float *panel, int32_t depth, float *c) {
    enum { VECTORS = LANES == 16 ? 4 : LANES == 8 ? 2 : 16 };
    for (int32_t j = 0; j < PANEL; j += VECTORS * LANES) {
        Floats sums[DOT_FLOAT_ROWS][VECTORS];
        for (int32_t r = 0; r < rows; r++)
            for (int32_t v = 0; v < VECTORS; v++) sums[r][v] = all(0);
        for (int32_t k = 0; k < depth; k++)
            for (int32_t r = 0; r < rows; r++) {
                Floats x = all(a[r * stride + k]);
                for (int32_t v = 0; v < VECTORS; v++)
                    sums[r][v] = fma_(x, load(panel + (int64_t)k * PANEL + j + v * LANES), sums[r][v]);
            }
        for (int32_t r = 0; r < rows; r++)
            for (int32_t v = 0; v < VECTORS; v++) store(c + r * PANEL + j + v * LANES, sums[r][v]);
    }
}
#define DOT_FLOAT(N)                                                                                                       \
    static __attribute__((noinline)) void dot_float_##N(const float *a, int64_t stride, const float *panel, int32_t depth, \
                                                        float *c) {                                                        \
        dot_float_tile(a, stride, N, panel, depth, c);                                                                     \
    }
DOT_FLOAT(1)
DOT_FLOAT(2)
DOT_FLOAT(3)
DOT_FLOAT(4)
DOT_FLOAT(5)
DOT_FLOAT(6)

static void dot_float(const float *a, int64_t stride, int32_t rows, const float *panel, int32_t depth, int32_t groups,
                      float *c) {
    (void)groups;
    static void (*const tiles[])(const float *, int64_t, const float *, int32_t, float *) = {
        0, dot_float_1, dot_float_2, dot_float_3, dot_float_4, dot_float_5, dot_float_6};
    for (int32_t r = 0; r < rows; r += DOT_FLOAT_ROWS) {
        int32_t some = rows - r < DOT_FLOAT_ROWS ? rows - r : DOT_FLOAT_ROWS;
        tiles[some](a + r * stride, stride, panel, depth, c + r * PANEL);
    }
}

/* What every set has by these names; `unpack` is its own. */
#define SHARED_KERNELS                                                                                                \
    .dot_float = dot_float, .unpack = unpack, .finish = finish, .quantize = quantize, .extent = extent, .norm = norm, \
    .softmax = softmax, .combine = combine
