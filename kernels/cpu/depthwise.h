/* Lanes of narrow groups: what the two depthwise sources share.
 *
 * A vector holds VL channels of whole groups, M each; lane j of every group is handed to all of its lanes:
 *
 *     M = 4, j = 1     x  a b c d e f g h    ->    b b b b f f f f
 */
#ifndef GRIDNN_DEPTHWISE_H
#define GRIDNN_DEPTHWISE_H

#include "rows.h"

INLINE vec spread(vec x, const int m, const int j) {
    ivec from;
#pragma GCC unroll 16
    for (int l = 0; l < (int)VL; l++) from[l] = l / m * m + j;
    return __builtin_shuffle(x, from);
}

INLINE int within(int64_t at, int64_t extent) { return (uint64_t)at < (uint64_t)extent; }

#endif
