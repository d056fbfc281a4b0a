"""One chart of every kind, with all that charts may hold: gaps, limits, marks, texts, names that are markup."""

from __future__ import annotations

from gridnn.analysis.chart import Bars, Lanes, Lines, Map, Series, Span

FACTORS = tuple(2.0**power for power in range(-4, 5))

BARS = Bars(
    "Fig. 6d", "Pr x Pc", "seconds of an epoch", ("1 x 512", "16 x 32", "512 x 1"),
    (Series("compute", (22.4, 22.4, None)), Series("model <&> halo", (0.0, 4.53, None)),
     Series("batch communication", (44.4, 4.42, None))),
    ("", "2.1x (5.0x)", ""), "One grid for every layer.",
)  # fmt: skip
GROUPS = Bars(
    "Parts", "processes", "seconds a step", ("8", "4,096"),
    tuple(Series(part, (0.3 * k, 0.02 * k), stack) for k, stack in ((1, "data"), (2, "owt"))
          for part in ("compute", "visible communication")),
)  # fmt: skip
LINES = Lines(
    "Strong scaling", "processes", "seconds a step", (8.0, 32.0, 128.0, 512.0),
    (Series("data", (0.4, 0.12, None, float("inf"))), Series("layer-wise", (0.4, 0.11, 0.04, 0.02)),
     Series("ideal", (0.4, 0.1, 0.025, 0.00625), dashed=True)),
    uprights=((128.0, "P = B"),),
)  # fmt: skip
MAP = Map(
    "Who wins", "factor on beta", "factor on alpha", FACTORS, FACTORS[:3],
    tuple(tuple("data" if x < y else "fc-only" for x in FACTORS) for y in FACTORS[:3]),
    tuple(tuple("1.2x" for _ in FACTORS) for _ in FACTORS[:3]),
)  # fmt: skip
LANES = Lanes(
    "A step", ("rank 0", "rank 1"),
    (Span("rank 0", 0.0, 3e-3, "conv1", "forward"), Span("rank 1", 0.0, 2e-3, "conv1", "forward"),
     Span("rank 1", 2e-3, 3e-3, "", "wait"), Span("rank 0", 3e-3, 4e-3, "fc6", "sum")),
)  # fmt: skip
CHARTS = (BARS, GROUPS, LINES, MAP, LANES)
