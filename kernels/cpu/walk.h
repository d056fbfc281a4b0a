/* Where a convolution reads for each of its targets, dim by dim.
 *
 *     target[first + step j]  =  sum over taps of  source[jump j + offset(tap)] W(tap)        j = 0 .. count - 1
 *
 *     forward         1 walk            first 0       step 1       jump stride   offset = dilation t - pad
 *     backward data   stride^dims       first phase   step stride  jump 1        offset = (phase + pad - dilation t) / stride
 *
 * A walk of backward data has the taps that divide; positions that none reaches are a walk without taps.
 */
#ifndef GRIDNN_WALK_H
#define GRIDNN_WALK_H

#include "common.h"

/* One dim of a walk: `count` targets at first + step j, read from jump j + offset of each of `taps` taps. */
typedef struct {
    int64_t count, first, step, jump, taps;
    const int64_t *tap, *offset;
} dim;

typedef struct {
    dim d, h, w;
    int64_t kernel_h, kernel_w; /* to number a tap: (t kernel_h + r) kernel_w + s */
} walk;

/* The walks of a pass, and how they are gone. */
typedef struct {
    const walk *walks;
    int64_t many, groups, turned, adds; /* turned: from the gradient by the output to that by the input */
} course;

INLINE int64_t taps_of(const walk *k) { return k->d.taps * k->h.taps * k->w.taps; }

/* Number in the kernel of the i-th tap of a walk. */
INLINE int64_t tap_number(const walk *k, int64_t i) {
    const int64_t s = i % k->w.taps, r = i / k->w.taps % k->h.taps, t = i / k->w.taps / k->h.taps;
    return (k->d.tap[t] * k->kernel_h + k->h.tap[r]) * k->kernel_w + k->w.tap[s];
}

#endif
