/* Kernels for AMX: tiles of 16 rows by 64 bytes, for products of many rows; the rest as in AVX512-VNNI. */
#include "avx512.h"

typedef struct {
    uint8_t palette, start, reserved[14];
    uint16_t bytes[16];
    uint8_t rows[16];
} Configuration;

#if defined(ENGINE_EMULATE) /* for tests on processors without it */
static __thread uint8_t tiles[8][16][64];
#define configure(configuration) ((void)(configuration))
#define zero(t)                  memset(tiles[t], 0, sizeof tiles[t])
#define load_tile(t, from, stride) \
    for (int32_t i = 0; i < 16; i++) memcpy(tiles[t][i], (const char *)(from) + i * (int64_t)(stride), 64)
#define store_tile(t, to, stride) \
    for (int32_t i = 0; i < 16; i++) memcpy((char *)(to) + i * (int64_t)(stride), tiles[t][i], 64)
static void multiply_emulated(int32_t c, int32_t a, int32_t b) {
    for (int32_t m = 0; m < 16; m++)
        for (int32_t n = 0; n < 16; n++) {
            int32_t sum;
            memcpy(&sum, &tiles[c][m][4 * n], 4);
            for (int32_t k = 0; k < 64; k++) sum += tiles[a][m][k] * (int8_t)tiles[b][k / 4][4 * n + k % 4];
            memcpy(&tiles[c][m][4 * n], &sum, 4);
        }
}
#define multiply(c, a, b) multiply_emulated(c, a, b)
#else
#define configure(configuration) _tile_loadconfig(configuration)
#define zero(t)                  _tile_zero(t)
/* GCC does not know that loading a tile reads memory either. */
#define load_tile(t, from, stride)         \
    do {                                   \
        __asm__ volatile("" ::: "memory"); \
        _tile_loadd(t, from, stride);      \
    } while (0)
#define store_tile(t, to, stride) _tile_stored(t, to, stride)
#define multiply(c, a, b)         _tile_dpbusd(c, a, b)
#endif

/* All of 16 rows of 64 bytes. Static, because GCC takes `configure` to read eight bytes, and drops stores to the others. */
static const Configuration eight_tiles = {
    .palette = 1, .bytes = {64, 64, 64, 64, 64, 64, 64, 64}, .rows = {16, 16, 16, 16, 16, 16, 16, 16}};

static void enter(void) { configure(&eight_tiles); }

static void clear_sums(void) {
    zero(0);
    zero(1);
    zero(2);
    zero(3);
}

/* 32 rows by 32 columns: four tiles of sums, two of codes and two of weights. */
static void many(const uint8_t *a, int64_t stride, const int8_t *panel, int32_t steps, int32_t *c) {
    clear_sums();
    for (int32_t s = 0; s < steps; s += 16) {
        load_tile(4, a + 4 * s, stride);
        load_tile(5, a + 16 * stride + 4 * s, stride);
        load_tile(6, panel + (int64_t)s * 256, 256);
        load_tile(7, panel + (int64_t)s * 256 + 64, 256);
        multiply(0, 4, 6);
        multiply(1, 4, 7);
        multiply(2, 5, 6);
        multiply(3, 5, 7);
    }
    store_tile(0, c, PANEL * 4);
    store_tile(1, c + 16, PANEL * 4);
    store_tile(2, c + 16 * PANEL, PANEL * 4);
    store_tile(3, c + 16 * PANEL + 16, PANEL * 4);
}

/* 16 rows by 64 columns. */
static void few(const uint8_t *a, int64_t stride, const int8_t *panel, int32_t steps, int32_t *c) {
    clear_sums();
    for (int32_t s = 0; s < steps; s += 16) {
        const int8_t *w = panel + (int64_t)s * 256;
        load_tile(4, a + 4 * s, stride);
        load_tile(5, w, 256);
        load_tile(6, w + 64, 256);
        multiply(0, 4, 5);
        load_tile(7, w + 128, 256);
        multiply(1, 4, 6);
        load_tile(5, w + 192, 256);
        multiply(2, 4, 7);
        multiply(3, 4, 5);
    }
    store_tile(0, c, PANEL * 4);
    store_tile(1, c + 16, PANEL * 4);
    store_tile(2, c + 32, PANEL * 4);
    store_tile(3, c + 48, PANEL * 4);
}

/* Whole tiles where there are 16 rows, vectors for what is left: the last rows of a batch are no tile. */
static void dot_tiles(const uint8_t *a, int64_t stride, int32_t rows, const int8_t *panel, int32_t steps, int32_t groups,
                      int32_t *c) {
    int32_t r = 0;
    if (steps % 16 == 0) {
        for (; r + 32 <= rows; r += 32)
            for (int32_t j = 0; j < (groups > 2 ? 2 : 1); j++)
                many(a + r * stride, stride, panel + j * 128, steps, c + r * PANEL + j * 32);
        for (; r + 16 <= rows; r += 16) few(a + r * stride, stride, panel, steps, c + r * PANEL);
    }
    if (r < rows) dot(a + r * stride, stride, rows - r, panel, steps, groups, c + r * PANEL);
}

const Kernels kernels_amx = {
    .name = "amx", .pad = 64, .enter = enter, .dot = dot_tiles, .dot_small = dot_tiles, SHARED_KERNELS};
