/* Kernels in plain C, for every processor. */
#include "kernels.h"
#include "lanes.h"
#include "rows.h"

static void dot(const uint8_t *a, int64_t stride, int32_t rows, const int8_t *panel, int32_t steps, int32_t groups,
                int32_t *c) {
    for (int32_t r = 0; r < rows; r++) {
        int32_t sums[PANEL] = {0};
        for (int32_t s = 0; s < steps; s++) {
            const uint8_t *x = a + r * stride + 4 * s;
            const int8_t *w = panel + (int64_t)s * 4 * PANEL;
            for (int32_t j = 0; j < 16 * groups; j++)
                sums[j] += x[0] * w[4 * j] + x[1] * w[4 * j + 1] + x[2] * w[4 * j + 2] + x[3] * w[4 * j + 3];
        }
        memcpy(c + r * PANEL, sums, sizeof sums);
    }
}

static void unpack(const uint8_t *packed, int32_t bits, const int8_t *values, int32_t steps, int8_t *panel) {
    const int32_t vectors = bits == 1 ? 8 : 4, mask = (1 << bits) - 1, bytes = bits == 4 ? 128 : 64;
    for (int32_t s = 0; s < (bits == 1 ? steps / 2 : steps); s++)
        for (int32_t v = 0; v < vectors; v++)
            for (int32_t i = 0; i < 64; i++) {
                int32_t at = bits == 4 ? v / 2 * 64 + i : i, shift = bits == 4 ? v % 2 * 4 : v * bits;
                panel[((int64_t)s * vectors + v) * 64 + i] = values[packed[(int64_t)s * bytes + at] >> shift & mask];
            }
}

const Kernels kernels_portable = {.name = "portable", .pad = 8, .dot = dot, .dot_small = dot, SHARED_KERNELS};
