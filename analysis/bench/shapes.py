"""The convolutions that `layers.py` measures: a first set from four networks, a second one of other kinds.

A line reads: name, batch, input (C, *space), K, kernel, and what differs from stride 1, no pad, one group, no dilation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Case = dict[str, Any]
Ints = int | Sequence[int]


def case(
    name: str, batch: int, x: Sequence[int], k: int, kernel: Ints, stride: Ints = 1, pad: Ints = 0, groups: int = 1,
    dilation: Ints = 1,
) -> Case:  # fmt: skip
    """Return a case as the workers read it: shapes of x, w and the window's numbers, one per space dim."""

    def each(value: Ints) -> list[int]:
        return [value] * (len(x) - 1) if isinstance(value, int) else list(value)

    return {
        "name": name,
        "x": [batch, *x],
        "w": [k, x[0] // groups, *each(kernel)],
        "kernel": each(kernel),
        "stride": each(stride),
        "pad_lo": each(pad),
        "pad_hi": each(pad),
        "dilation": each(dilation),
        "groups": groups,
    }


def flops(case: Case) -> int:
    """Return the operations of one of the three products: two a multiply-add."""
    count = 2 * int(case["x"][0])
    for extent in case["w"]:
        count *= extent
    rows = zip(*(case[key] for key in ("stride", "pad_lo", "pad_hi", "dilation")), strict=True)
    for n, r, (s, lo, hi, d) in zip(case["x"][2:], case["w"][2:], rows, strict=True):
        count *= (n + lo + hi - d * (r - 1) - 1) // s + 1
    return count


FIRST = [
    case("AlexNet conv1 11x11/4 3-96@227", 32, (3, 227, 227), 96, 11, 4),
    case("AlexNet conv2 5x5 96-256@27", 32, (96, 27, 27), 256, 5, pad=2),
    case("AlexNet conv3 3x3 256-384@13", 32, (256, 13, 13), 384, 3, pad=1),
    case("AlexNet conv4 3x3 384-384@13", 32, (384, 13, 13), 384, 3, pad=1),
    case("AlexNet conv5 3x3 384-256@13", 32, (384, 13, 13), 256, 3, pad=1),
    case("VGG 3x3 3-64@224", 8, (3, 224, 224), 64, 3, pad=1),
    case("VGG 3x3 64-64@224", 8, (64, 224, 224), 64, 3, pad=1),
    case("VGG 3x3 64-128@112", 8, (64, 112, 112), 128, 3, pad=1),
    case("VGG 3x3 128-128@112", 8, (128, 112, 112), 128, 3, pad=1),
    case("VGG 3x3 256-256@56", 8, (256, 56, 56), 256, 3, pad=1),
    case("VGG 3x3 512-512@28", 8, (512, 28, 28), 512, 3, pad=1),
    case("VGG 3x3 512-512@14", 8, (512, 14, 14), 512, 3, pad=1),
    case("ResNet-50 7x7/2 3-64@224", 16, (3, 224, 224), 64, 7, 2, 3),
    case("ResNet-50 3x3 64-64@56", 16, (64, 56, 56), 64, 3, pad=1),
    case("ResNet-50 3x3 128-128@28", 16, (128, 28, 28), 128, 3, pad=1),
    case("ResNet-50 3x3 256-256@14", 16, (256, 14, 14), 256, 3, pad=1),
    case("ResNet-50 3x3 512-512@7", 16, (512, 7, 7), 512, 3, pad=1),
    case("ResNet-50 3x3/2 128-128@56", 16, (128, 56, 56), 128, 3, 2, 1),
    case("ResNet-50 1x1 64-256@56", 16, (64, 56, 56), 256, 1),
    case("ResNet-50 1x1 256-64@56", 16, (256, 56, 56), 64, 1),
    case("ResNet-50 1x1 512-128@28", 16, (512, 28, 28), 128, 1),
    case("ResNet-50 1x1 256-1024@14", 16, (256, 14, 14), 1024, 1),
    case("ResNet-50 1x1 2048-512@7", 16, (2048, 7, 7), 512, 1),
    case("ResNet-50 1x1/2 256-512@56", 16, (256, 56, 56), 512, 1, 2),
    case("CIFAR 3x3 3-64@32", 128, (3, 32, 32), 64, 3, pad=1),
    case("CIFAR 3x3 64-64@32", 128, (64, 32, 32), 64, 3, pad=1),
    case("CIFAR 3x3 128-128@16", 128, (128, 16, 16), 128, 3, pad=1),
    case("ResNet-20 3x3 16-16@32", 128, (16, 32, 32), 16, 3, pad=1),
    case("ResNet-20 3x3/2 16-32@32", 128, (16, 32, 32), 32, 3, 2, 1),
    case("ResNet-20 3x3 32-32@16", 128, (32, 16, 16), 32, 3, pad=1),
    case("ResNet-20 3x3 64-64@8", 128, (64, 8, 8), 64, 3, pad=1),
]

SECOND = [
    case("3x3 17-33@29", 32, (17, 29, 29), 33, 3, pad=1),
    case("3x3 48-80@40", 16, (48, 40, 40), 80, 3, pad=1),
    case("3x3 no pad 80-192@73", 4, (80, 73, 73), 192, 3),
    case("3x3/2 96-96@57", 16, (96, 57, 57), 96, 3, 2, 1),
    case("3x3 64-64@128", 4, (64, 128, 128), 64, 3, pad=1),
    case("3x3 200-200@20 B1", 1, (200, 20, 20), 200, 3, pad=1),
    case("3x3 dilated 2 128-128@33", 4, (128, 33, 33), 128, 3, pad=2, dilation=2),
    case("5x5 48-64@35", 16, (48, 35, 35), 64, 5, pad=2),
    case("5x5/2 1-32@64", 64, (1, 64, 64), 32, 5, 2, 2),
    case("7x7 24-24@31", 16, (24, 31, 31), 24, 7, pad=3),
    case("1x7 160-192@17", 16, (160, 17, 17), 192, (1, 7), pad=(0, 3)),
    case("7x1 192-160@17", 16, (192, 17, 17), 160, (7, 1), pad=(3, 0)),
    case("4x4/4 patches 3-96@224", 8, (3, 224, 224), 96, 4, 4),
    case("1x1 24-144@56", 16, (24, 56, 56), 144, 1),
    case("1x1 144-24@56", 16, (144, 56, 56), 24, 1),
    case("1x1 320-1280@7", 16, (320, 7, 7), 1280, 1),
    case("1x1/2 100-200@27", 16, (100, 27, 27), 200, 1, 2),
    case("1x1 64-2@128", 4, (64, 128, 128), 2, 1),
    case("depthwise 3x3 96@56", 16, (96, 56, 56), 96, 3, pad=1, groups=96),
    case("depthwise 3x3/2 144@56", 16, (144, 56, 56), 144, 3, 2, 1, groups=144),
    case("depthwise 5x5 240@28", 16, (240, 28, 28), 240, 5, pad=2, groups=240),
    case("3x3 32 groups 128-128@28", 16, (128, 28, 28), 128, 3, pad=1, groups=32),
    case("3x3 2 groups 384-384@13", 32, (384, 13, 13), 384, 3, pad=1, groups=2),
    case("1-D 9 64-128@1024", 32, (64, 1024), 128, 9, pad=4),
    case("1-D 80/4 1-32@8000", 16, (1, 8000), 32, 80, 4),
    case("1-D 3 256-256@200", 16, (256, 200), 256, 3, pad=1),
    case("3-D 3x3x3 16-32@24", 4, (16, 24, 24, 24), 32, 3, pad=1),
    case("3-D 3x3x3 3-16@16x56x56", 2, (3, 16, 56, 56), 16, 3, pad=1),
    case("3-D 3x3x3/2 32-64@24", 4, (32, 24, 24, 24), 64, 3, 2, 1),
    case("3-D 1x1x1 64-64@16", 4, (64, 16, 16, 16), 64, 1),
]

SETS = {"first": FIRST, "second": SECOND}
