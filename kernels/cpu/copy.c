/* Copies between any two layouts of an array, such as N C H W memory and channels-last memory.
 *
 * formula    y = x
 * memory     any strides, up to five dims; dims that follow one another in both are folded
 *            The dim that is contiguous in y is the inner one. Where x is contiguous along another dim the two make
 *            tiles, so that both sides use whole cache lines:
 *
 *                y   a0 b0 | a1 b1 | a2 b2        x   a0 a1 a2 | b0 b1 b2
 *
 * threads    tiles, or stretches of lines, are divided
 * guarantee  every element of y is written once; x and y must not overlap
 * reference  NumPy's copyto
 */
#include "common.h"

enum { TILE = 256, LINES = 64 }; /* of a tile: along x, along y */

typedef struct {
    int64_t extent, sx, sy;
} axis;

INLINE void line(const real *x, int64_t sx, real *y, int64_t sy, int64_t n) {
    if (sx == 1 && sy == 1)
        memcpy(y, x, (size_t)n * sizeof(real));
    else
        for (int64_t i = 0; i < n; i++) y[i * sy] = x[i * sx];
}

/* A tile: where x is contiguous along the outer dim and y along the inner one, eight lines of x at a time, so that
 * few pages are read side by side and y is written by half lines of the cache. */
static void tile(const real *x, real *y, axis outer, axis inner) {
    if (outer.sx != 1 || inner.sy != 1) {
        for (int64_t i = 0; i < outer.extent; i++)
            line(x + i * outer.sx, inner.sx, y + i * outer.sy, inner.sy, inner.extent);
        return;
    }
    int64_t j = 0;
    for (; j + 8 <= inner.extent; j += 8)
        for (int64_t i = 0; i < outer.extent; i++)
            for (int k = 0; k < 8; k++) y[i * outer.sy + j + k] = x[i + (j + k) * inner.sx];
    /* What is left, such as the three colours of a picture: four positions at a time. */
    int64_t i = 0;
    for (; i + 4 <= outer.extent; i += 4)
        for (int64_t e = j; e < inner.extent; e++) {
            const real *from = x + i + e * inner.sx;
            real *to = y + i * outer.sy + e;
            to[0] = from[0], to[outer.sy] = from[1], to[2 * outer.sy] = from[2], to[3 * outer.sy] = from[3];
        }
    for (; i < outer.extent; i++) line(x + i + j * inner.sx, inner.sx, y + i * outer.sy + j, 1, inner.extent - j);
}

EXPORT void FN(copy)(const array *given_x, const array *given_y) {
    const real *x = given_x->data;
    real *y = given_y->data;
    axis axes[5];
    int count = 0;
    int64_t total = 1, size = sizeof(real);
    for (int dim = 0; dim < given_x->dims; dim++) {
        const int64_t extent = given_x->extents[dim];
        total *= extent;
        if (extent != 1) axes[count++] = (axis){extent, given_x->strides[dim] / size, given_y->strides[dim] / size};
    }
    for (int i = 1; i < count; i++) /* by the strides of y, the largest first */
        for (int j = i; j > 0 && axes[j - 1].sy < axes[j].sy; j--) {
            const axis other = axes[j];
            axes[j] = axes[j - 1], axes[j - 1] = other;
        }
    int last = 0; /* dims that follow one another in both are one */
    for (int i = 1; i < count; i++) {
        const axis in = axes[i], out = axes[last];
        if (out.sx == in.extent * in.sx && out.sy == in.extent * in.sy)
            axes[last] = (axis){out.extent * in.extent, in.sx, in.sy};
        else
            axes[++last] = in;
    }
    count = count ? last + 1 : 0;
    if (count == 0) axes[count++] = (axis){1, 1, 1};
    const axis inner = axes[count - 1];
    int turned = -1; /* the dim to tile with: contiguous in x, not in y */
    if (inner.sx != 1)
        for (int i = 0; i < count - 1; i++)
            if (axes[i].sx == 1) turned = i;
    axis outer = turned >= 0 ? axes[turned] : (axis){1, 0, 0};
    for (int i = turned; i >= 0 && i < count - 2; i++) axes[i] = axes[i + 1];
    const int rest = count - (turned >= 0 ? 2 : 1);
    int64_t others = 1;
    for (int i = 0; i < rest; i++) others *= axes[i].extent;
    /* Long lines without a tile are cut too, or one dense block would be the work of one thread. */
    const int64_t long_line = turned >= 0 ? LINES : 16384;
    const int64_t across = (outer.extent + TILE - 1) / TILE, along = (inner.extent + long_line - 1) / long_line;
#pragma omp parallel for schedule(static) if (WORTH(total))
    for (int64_t job = 0; job < others * across * along; job++) {
        const int64_t j = job % along * long_line, i = job / along % across * TILE;
        const real *from = x + i * outer.sx + j * inner.sx;
        real *to = y + i * outer.sy + j * inner.sy;
        for (int64_t left = job / along / across, dim = rest - 1; dim >= 0; dim--) {
            const int64_t at = left % axes[dim].extent;
            left /= axes[dim].extent;
            from += at * axes[dim].sx, to += at * axes[dim].sy;
        }
        tile(from, to, (axis){least(TILE, outer.extent - i), outer.sx, outer.sy},
             (axis){least(long_line, inner.extent - j), inner.sx, inner.sy});
    }
}
