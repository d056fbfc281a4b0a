"""The profile: exact where it was measured, between its neighbours elsewhere, silent on what it does not know."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gridnn.cost.profile import (
    PASSES,
    PRECISIONS,
    BlockShape,
    Profile,
    Sample,
    nonnegative_fit,
    read_profile,
    work_of,
    write_profile,
)
from gridnn.errors import InputError
from gridnn.geometry.window import TransposedWindow, Upsampling, Window
from gridnn.network import spec as s

RELU = s.Activation("relu")


def conv(out: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> s.Conv:
    return s.Conv(out, (Window(kernel, stride, kernel // 2, kernel // 2),) * 2, groups)


def sample(layer: s.LayerSpec, x: tuple[int, ...], y: tuple[int, ...], *seconds: float) -> Sample:
    work = work_of(layer, np.array([x]), np.array([y]))
    return Sample(work.family, x, y, int(work.flops[0]), int(work.elements[0]), *seconds)


def machine_s(flops: float, elements: float) -> float:
    """A machine that is a line: what the fit can tell exactly."""
    return 2e-5 + flops / 1e11 + elements * 3e-10


@pytest.fixture
def measured() -> Profile:
    """Convolutions and ReLUs on a machine that slows down by up to 1.6 as blocks grow out of its cache."""
    samples = []
    for n in (1, 4, 16, 64):
        for c in (8, 64):
            for side in (8, 32):
                shape = (n, c, side, side)
                for layer in (conv(c), RELU):
                    one = sample(layer, shape, shape, 1.0, 1.0, 1.0)
                    seconds = machine_s(one.flops, one.elements) * (1 + 0.6 * (n * c * side > 5e3))
                    weights_s = 0.7 * seconds if one.flops else 0.0
                    samples.append(sample(layer, shape, shape, seconds, 1.3 * seconds, weights_s))
    return Profile("a test", "2026-01-01", tuple(samples))


def test_work_by_hand() -> None:
    def of(layer: s.LayerSpec, x: tuple[int, ...], y: tuple[int, ...]) -> tuple[Any, ...]:
        work = work_of(layer, np.array([x]), np.array([y]))
        return work.family, work.flops[0], work.elements[0]

    assert of(conv(6, 3, 2), (2, 4, 8, 8), (2, 6, 4, 4)) == (
        "conv 3x3 /2x2",
        2 * (2 * 6 * 16) * 4 * 9,
        512 + 192 + 6 * 4 * 9,
    )
    assert of(s.Linear(5), (3, 7), (3, 5)) == ("linear", 2 * 3 * 7 * 5, 21 + 15 + 35)
    # Half of the four groups of two channels each: the rank has two groups, and the family stays what it is.
    grouped = ("conv 3x3, 2 channels a group", 2 * (4 * 16) * 2 * 9, 64 + 64 + 4 * 2 * 9)
    assert of(conv(8, groups=4), (1, 4, 4, 4), (1, 4, 4, 4)) == grouped
    up = s.ConvTranspose(3, (TransposedWindow(2, 2),) * 2)
    assert of(up, (1, 5, 4, 4), (1, 3, 8, 8)) == ("transposed conv 2x2 /2x2", 2 * 80 * 3 * 4, 80 + 192 + 60)
    assert of(s.Upsample((Upsampling(2),) * 2), (1, 2, 4, 4), (1, 2, 8, 8)) == ("upsample 2x2", 0, 160)
    assert of(s.Concat(), (1, 2, 4, 4), (1, 6, 4, 4)) == ("concat", 0, 192)


def test_exact_where_it_was_measured(measured: Profile) -> None:
    for one in measured.samples:
        layer = conv(one.y[1]) if one.flops else RELU
        for pass_ in PASSES:
            assert measured.seconds(layer, pass_, BlockShape(one.x, one.y)) == one.seconds(pass_)


def test_a_line_is_told_exactly_between_and_beyond() -> None:
    shapes = [(n, c, 16, 16) for n in (1, 8, 64) for c in (8, 64)]
    rows = [sample(conv(shape[1]), shape, shape, 1.0, 1.0, 1.0) for shape in shapes]
    rows = [sample(conv(r.y[1]), r.x, r.y, *[machine_s(r.flops, r.elements)] * 3) for r in rows]
    profile = Profile("", "", tuple(rows))
    for shape in ((2, 24, 16, 16), (30, 40, 12, 12), (512, 128, 32, 32), (1, 1, 4, 4)):
        one = sample(conv(shape[1]), shape, shape, 1.0, 1.0, 1.0)
        told = profile.seconds(conv(shape[1]), "weights", BlockShape(shape, shape))
        assert told == pytest.approx(machine_s(one.flops, one.elements), rel=1e-6)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_monotone_between_measured_blocks(measured: Profile, axis: int) -> None:
    told = list[float]()
    for extent in np.unique(np.geomspace(*((1, 64), (8, 64), (8, 32))[axis], 40).astype(int)):
        shape = [16, 64, 32, 32]
        shape[axis] = int(extent)
        if axis == 2:
            shape[3] = int(extent)
        block = BlockShape(tuple(shape), tuple(shape))
        seconds = measured.seconds(conv(shape[1]), "forward", block)
        assert seconds is not None
        told.append(seconds)
    assert told == sorted(told)
    assert told[-1] > 2 * told[0]


def test_rates_stay_among_the_measured_ones(measured: Profile) -> None:
    for n, c, side in ((500, 64, 64), (3, 500, 200), (1, 2, 3)):
        shape = (n, c, side, side)
        one = sample(conv(c), shape, shape, 1.0, 1.0, 1.0)
        told = measured.seconds(conv(c), "forward", BlockShape(shape, shape))
        assert told is not None and 0.6 < told / machine_s(one.flops, one.elements) < 1.8


def test_many_blocks_are_as_each(measured: Profile) -> None:
    x = np.array([[n, c, 20, 20] for n in (0, 1, 7, 40) for c in (3, 8, 90)])
    together = measured.seconds_of_blocks(conv(90), "data", x, x)
    alone = [measured.seconds(conv(90), "data", BlockShape(tuple(row), tuple(row))) for row in x.tolist()]
    assert together is not None and together.tolist() == alone
    assert together[0] == 0.0 < together[3], "an empty block takes no time"


def test_one_group_of_a_convolution_is_one_without_groups() -> None:
    """Two blocks of one layer, k2 and n2 on two groups: the first has one group, as a measured one without groups."""
    grouped, x, y = (
        conv(8, groups=2),
        np.array([[4, 3, 6, 6], [2, 6, 6, 6]]),
        np.array([[4, 4, 6, 6], [2, 8, 6, 6]]),
    )
    works = [work_of(grouped, x[1:], y[1:]), work_of(conv(4), x[:1], y[:1])]
    samples = [
        Sample(work.family, tuple(of_x), tuple(of_y), int(work.flops[0]), int(work.elements[0]), t, t, t)
        for work, of_x, of_y, t in zip(works, x[::-1].tolist(), y[::-1].tolist(), (3.0, 2.0), strict=True)
    ]  # fmt: skip
    assert [sample.family for sample in samples] == ["conv 3x3, 3 channels a group", "conv 3x3"]
    both, first, last = (
        Profile("test", "today", tuple(some)) for some in (samples, samples[:1], samples[1:])
    )
    assert both.seconds_of_blocks(grouped, "forward", x, y) == pytest.approx([2.0, 3.0])
    assert both.seconds_of_blocks(grouped, "forward", x[::-1], y[::-1]) == pytest.approx([3.0, 2.0])
    assert both.seconds_of_blocks(grouped, "forward", x[:1], 0 * y[:1]) == pytest.approx([0.0])
    assert last.seconds_of_blocks(grouped, "forward", x[:1], y[:1]) == pytest.approx([2.0])
    assert last.seconds_of_blocks(grouped, "forward", x, y) is None, "the second has two groups"
    alone = first.seconds_of_blocks(grouped, "forward", x, y)
    assert alone is not None and alone[1] == 3.0, "without the other the grouped family tells both"


def test_what_was_not_measured_is_none(measured: Profile) -> None:
    block = BlockShape((4, 8, 8, 8), (4, 8, 8, 8))
    for layer in (conv(8, 5), conv(8, 3, 2), s.Activation("tanh"), s.BatchNorm(), conv(8, groups=8)):
        assert measured.seconds(layer, "forward", block) is None
    assert measured.seconds(RELU, "weights", block) == 0.0, "a ReLU has no weights"
    assert measured.families == ("conv 3x3", "relu")


def test_one_block_scales_with_its_work() -> None:
    profile = Profile("", "", (sample(conv(8), (1, 8, 8, 8), (1, 8, 8, 8), 1e-3, 1e-3, 1e-3),))
    told = profile.seconds(conv(8), "forward", BlockShape((10, 8, 8, 8), (10, 8, 8, 8)))
    assert told == pytest.approx(1e-2)


def test_fit_finds_known_coefficients() -> None:
    rng = np.random.default_rng(5)
    columns = np.stack([np.ones(40), np.geomspace(1, 1e8, 40)], axis=1)
    noise = np.exp(0.05 * rng.standard_normal(40))
    assert nonnegative_fit(columns, columns @ [3e-6, 2e-10] * noise) == pytest.approx([3e-6, 2e-10], rel=0.05)
    # A column that would need a negative coefficient is left out.
    falling = np.stack([np.ones(5), np.arange(1.0, 6)], axis=1)
    assert nonnegative_fit(falling, np.array([5.0, 4, 3, 2, 1]))[1] == 0


@pytest.mark.parametrize("precision", PRECISIONS)
def test_file_and_back(measured: Profile, tmp_path: Path, precision: str) -> None:
    profile, path = replace(measured, precision=precision), tmp_path / "p.json"
    write_profile(profile, path)
    assert read_profile(path) == profile and json.loads(path.read_text())["precision"] == precision
    assert profile.element_bytes == (2 if precision == "bf16" else 4)


def test_a_file_that_says_no_precision_is_of_float32(measured: Profile, tmp_path: Path) -> None:
    """As gridnn wrote them before it measured in others."""
    path = tmp_path / "p.json"
    write_profile(measured, path)
    table = json.loads(path.read_text())
    del table["precision"]
    path.write_text(json.dumps(table))
    assert read_profile(path) == measured and measured.precision == "float32"


def test_bad_files(measured: Profile, tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    with pytest.raises(InputError, match=r"p\.json.*cannot be read"):
        read_profile(path)
    write_profile(measured, path)
    good = json.loads(path.read_text())
    layer = good["layers"][0]
    for text, words in (
        ("{", "is not JSON"),
        ("[]", "version None"),
        (json.dumps({**good, "version": 2}), "version 2, this gridnn reads 1"),
        (json.dumps({"version": 1, "date": "", "layers": []}), "'source'"),
        (
            json.dumps({**good, "precision": "half"}),
            "precision 'half' is not one of float32, tf32, bf16, bfloat16",
        ),
        (json.dumps({**good, "precision": ["bf16"]}), "precision ['bf16'] is not one of"),
        (json.dumps({**good, "layers": [{**layer, "forward_s": 0}]}), "forward_s above 0"),
        (json.dumps({**good, "layers": [{**layer, "data_s": -1}]}), "none negative"),
        (json.dumps({**good, "layers": [{**layer, "data_s": float("nan")}]}), "seconds"),
        (json.dumps({**good, "layers": [{**layer, "x": [0, 1]}]}), "block"),
        (json.dumps({**good, "layers": [{**layer, "x": 3}]}), "TypeError"),
        (json.dumps({**good, "layers": [{k: v for k, v in layer.items() if k != "y"}]}), "'y'"),
        (json.dumps({**good, "layers": 7}), "TypeError"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=r"profile .*p\.json") as caught:
            read_profile(path)
        assert words in str(caught.value)
