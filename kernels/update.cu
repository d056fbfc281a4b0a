// Parameter updates in one pass over memory.
//
//   sgd    d = s g + decay w    v = momentum v + d              w -= lr (carried v + spike d)
//   adam   d = s g + decay w    m += (1 - b1)(d - m)            w -= rate m / (sqrt(v) / root + eps)
//                               v = b2 v + (1 - b2) d^2
//   lars   d = s g + decay w    v = momentum v + lr rate d      w -= v
//
// AdamW is adam with decay 0 and `keep` = 1 - lr decay on the weight first; `rate` = lr / (1 - b1^t),
// `root` = sqrt(1 - b2^t).
//
// Memory     flat arrays of one length
// Numbers    on the device, in `told` and in the order in which a kernel reads them, for most of them change from step to
//            step and a captured launch keeps what it is given by value.  So is what squares.cu makes of norms: `clip`,
//            one more factor on gradients, and `measured`, a rate of lars in place of `rate`; null where there is none
// Threads    any one-dimensional grid; a thread takes every step()-th element
// Types      real; the order of operations is the reference's, the contraction of products and sums is the compiler's
// Caller     velocity is null where momentum is 0
// Reference  gridnn.compute.cpu.reference.update
// Source     own
#include "common.cuh"

extern "C" __global__ void sgd(real* w, const real* g, real* velocity, long long count, const double* told,
                               const double* clip) {
    const real lr = (real)told[0], momentum = (real)told[1], carried = (real)told[2], spike = (real)told[3];
    const real decay = (real)told[4], scale = (real)(clip ? told[5] * *clip : told[5]);
    for (index_t i = first(); i < count; i += step()) {
        real d = scale * g[i] + decay * w[i];
        if (velocity) {
            const real v = momentum * velocity[i] + d;
            velocity[i] = v;
            d = carried * v + spike * d;
        }
        w[i] -= lr * d;
    }
}

extern "C" __global__ void adam(real* w, const real* g, real* m, real* v, long long count, const double* told,
                                const double* clip) {
    const real rate = (real)told[0], root = (real)told[1], b1 = (real)told[2], b2 = (real)told[3];
    const real eps = (real)told[4], decay = (real)told[5], keep = (real)told[6];
    const real scale = (real)(clip ? told[7] * *clip : told[7]);
    for (index_t i = first(); i < count; i += step()) {
        const real before = w[i], d = scale * g[i] + decay * before;
        const real first_moment = m[i] + (1 - b1) * (d - m[i]);
        const real second = b2 * v[i] + (1 - b2) * d * d;
        m[i] = first_moment;
        v[i] = second;
        w[i] = keep * before - rate * first_moment / (sqrt(second) / root + eps);
    }
}

extern "C" __global__ void lars(real* w, const real* g, real* velocity, long long count, const double* told,
                                const double* clip, double rate, const double* measured) {
    const real lr = (real)(told[0] * (measured ? *measured : rate)), momentum = (real)told[1], decay = (real)told[2];
    const real scale = (real)(clip ? told[3] * *clip : told[3]);
    for (index_t i = first(); i < count; i += step()) {
        const real v = momentum * velocity[i] + lr * (scale * g[i] + decay * w[i]);
        velocity[i] = v;
        w[i] -= v;
    }
}
