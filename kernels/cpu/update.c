/* Parameter updates: one pass over the memory of every array of a rule.
 *
 * formula    sgd, adam, adamw, lars as the table of update.py has them, in its order of operations
 * memory     flat arrays of n numbers
 * threads    the arrays are divided in whole vectors
 * guarantee  elementwise to the bit: an element's result does not depend on where an array is cut, nor on threads. The
 *            numbers behind the last whole vector go through the same loop as all others, by way of a small copy, so
 *            that the compiler cannot round them differently (one multiply-add there, two operations here).
 * reference  update.py: sgd, adam, adamw, lars
 * source     D. Kingma, J. Ba, Adam, ICLR 2015; I. Loshchilov, F. Hutter, Decoupled weight decay, ICLR 2019;
 *            Y. You, I. Gitman, B. Ginsburg, Large batch training of convolutional networks, 2017
 */
#include "rows.h"

enum { SGD, MOMENTUM, SPIKE, ADAM, LARS };

typedef struct {
    real lr, momentum, decay, scale; /* the direction is scale g + decay w */
    real carried, spike;             /* parts of velocity and direction in a movement of sgd */
    real keep;                       /* factor on w before anything else */
    real beta2, rest1, rest2;        /* rest = 1 - beta */
    real root, eps, step;            /* w -= m / (sqrt(v) root + eps) step */
} rates;

INLINE vec root_of(vec x) {
    vec y;
    for (int k = 0; k < VL; k++) y[k] = REAL_BITS == 32 ? sqrtf((float)x[k]) : (real)sqrt((double)x[k]);
    return y;
}

INLINE vec direction(const rates *r, vec w, vec g) { return g * r->scale + w * r->decay; }

/* Whole vectors of one rule; m and v are the arrays that the rule has. */
INLINE void loop(const int rule, const rates *r, real *w, const real *g, real *m, real *v, int64_t n) {
    for (int64_t i = 0; i < n; i += VL) {
        vec x = load(w + i);
        const vec d = direction(r, x, load(g + i));
        if (rule == SGD) {
            x -= d * r->lr;
        } else if (rule == ADAM) {
            const vec old = load(m + i), first = old + (d - old) * r->rest1;
            const vec second = load(v + i) * r->beta2 + (d * d) * r->rest2;
            store(m + i, first);
            store(v + i, second);
            x = x * r->keep - first / (root_of(second) * r->root + r->eps) * r->step;
        } else {
            const vec speed = load(v + i) * r->momentum + (rule == LARS ? (vec)(d * r->lr) : d);
            store(v + i, speed);
            x -= rule == LARS ? speed : rule == SPIKE ? (vec)((speed * r->carried + d * r->spike) * r->lr) : (vec)(speed * r->lr);
        }
        store(w + i, x);
    }
}

static __attribute__((noinline)) void vectors(int rule, const rates *r, real *w, const real *g, real *m, real *v, int64_t n) {
    switch (rule) {
    case SGD: loop(SGD, r, w, g, m, v, n); break;
    case MOMENTUM: loop(MOMENTUM, r, w, g, m, v, n); break;
    case SPIKE: loop(SPIKE, r, w, g, m, v, n); break;
    case ADAM: loop(ADAM, r, w, g, m, v, n); break;
    default: loop(LARS, r, w, g, m, v, n);
    }
}

static void update(int rule, const rates *r, real *w, const real *g, real *m, real *v, int64_t n) {
#pragma omp parallel if (WORTH(n))
    {
        int64_t from, to;
        own_share(n, 16 * VL, &from, &to);
        const int64_t whole = (to - from) / VL * VL, end = from + whole, rest = to - end;
        vectors(rule, r, w + from, g + from, m ? m + from : NULL, v ? v + from : NULL, whole);
        if (rest > 0) {
            real part[4][VB / sizeof(real)] = {{0}};
            real *arrays[4] = {w + end, (real *)g + end, m ? m + end : NULL, v ? v + end : NULL};
            for (int a = 0; a < 4; a++)
                if (arrays[a]) memcpy(part[a], arrays[a], (size_t)rest * sizeof(real));
            vectors(rule, r, part[0], part[1], part[2], part[3], VL);
            for (int a = 0; a < 4; a++)
                if (arrays[a] && a != 1) memcpy(arrays[a], part[a], (size_t)rest * sizeof(real));
        }
    }
}

/* velocity is NULL without momentum. */
EXPORT void FN(update_sgd)(const array *w, const array *g, const array *velocity, double lr, double momentum, double carried,
                           double spike, double decay, double scale) {
    const rates r = {.lr = (real)lr, .momentum = (real)momentum, .decay = (real)decay, .scale = (real)scale,
                     .carried = (real)carried, .spike = (real)spike};
    update(velocity == NULL ? SGD : carried == 1 && spike == 0 ? MOMENTUM : SPIKE, &r, w->data, g->data, NULL, data_of(velocity), w->extents[0]);
}

/* keep: factor on w before the step; root and step: the bias corrections of the second and of the first moment. */
EXPORT void FN(update_adam)(const array *w, const array *g, const array *m, const array *v, double beta1, double beta2, double eps,
                            double decay, double scale, double keep, double root, double step) {
    const rates r = {.decay = (real)decay, .scale = (real)scale, .keep = (real)keep, .beta2 = (real)beta2,
                     .rest1 = (real)(1 - beta1), .rest2 = (real)(1 - beta2), .root = (real)root, .eps = (real)eps,
                     .step = (real)step};
    update(ADAM, &r, w->data, g->data, m->data, v->data, w->extents[0]);
}

/* lr: the learning rate times the layer's own. */
EXPORT void FN(update_lars)(const array *w, const array *g, const array *velocity, double lr, double momentum, double decay,
                            double scale) {
    const rates r = {.lr = (real)lr, .momentum = (real)momentum, .decay = (real)decay, .scale = (real)scale};
    update(LARS, &r, w->data, g->data, NULL, velocity->data, w->extents[0]);
}
