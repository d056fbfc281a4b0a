"""Augmentation: the box of the augmented image is the augmentation of the box."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from gridnn.errors import InputError
from gridnn.train.data import Augment, open_data
from gridnn.train.data.augment import Geometry, drawn_geometry, finished, read_moved
from tests.train.data import files


def plain(image, pad, offset, flip):
    """Pad, crop, flip, as anybody would: `image` (C, *space)."""
    space = image.shape[1:]
    padded = np.pad(image, [(0, 0), *[(pad, pad)] * len(space)])
    corner = [pad + f for f in offset]
    crop = padded[(slice(None), *(slice(f, f + n) for f, n in zip(corner, space, strict=True)))]
    return crop[..., ::-1] if flip else crop


@pytest.mark.parametrize("space", [(5,), (4, 5), (2, 3, 4)])
@pytest.mark.parametrize("pad", [1, 2])
def test_box_of_the_augmented_for_all_crops_and_flips(space, pad):
    image = files.pictures(1, (2, *space))
    draws = list(product(product(range(-pad, pad + 1), repeat=len(space)), (False, True)))
    geometry = Geometry(np.array([draw[0] for draw in draws]), np.array([draw[1] for draw in draws]))
    wanted = np.stack([plain(image[0], pad, *draw) for draw in draws])
    read_extents = []

    def read(indices, box):
        assert all(0 <= a <= b <= n for (a, b), n in zip(box, image.shape[1:], strict=True)), "reads outside"
        read_extents.append([b - a for a, b in box])
        return files.part(image[np.zeros(len(indices), int)], box)

    def read_pixels(indices, box):
        return read(indices, ((1, 2), *box))[:, 0]

    everyone = np.arange(len(draws))
    for box in files.some_boxes(image.shape[1:], 8):
        read_extents.clear()
        moved = read_moved(read, geometry, image.shape[1:], everyone, box)
        assert np.array_equal(moved, files.part(wanted, box)), box
        # two readings (and an empty one) of the box and its rim, not one a sample
        assert len(read_extents) <= 3
        rim = [0] + [2 * pad] * len(space)
        for got in read_extents:
            assert all(n <= b - a + r for n, (a, b), r in zip(got, box, rim, strict=True))
    for box in files.some_boxes(space, 8):
        moved = read_moved(read_pixels, geometry, space, everyone, box)
        assert np.array_equal(moved, files.part(wanted[:, 1], box)), box


def test_crops_larger_than_the_image_are_zeros():
    image = np.ones((1, 1, 2, 2), np.uint8)
    geometry = Geometry(np.array([[3, 0]]), np.array([True]))
    box = ((0, 1), (0, 2), (0, 2))
    moved = read_moved(lambda _, box: files.part(image, box), geometry, (1, 2, 2), np.array([0]), box)
    assert moved.shape == (1, 1, 2, 2)
    assert not moved.any()


def test_draws_belong_to_seed_epoch_and_sample():
    data = open_data("synthetic:1x9x9:3", "train", {"count": 2000})
    augment = Augment(pad=2, flip=True)

    def draw(seed, epoch) -> Geometry:
        geometry = drawn_geometry(augment, data, seed, epoch)
        assert geometry is not None
        return geometry

    first = draw(5, 0)
    assert first.offsets.shape == (2000, 2)
    for column in first.offsets.T:
        assert np.all(np.bincount(column + 2, minlength=5) > 300)
    assert 900 < first.flips.sum() < 1100
    assert abs(np.corrcoef(first.offsets.T)[0, 1]) < 0.1
    again = draw(5, 0)
    assert np.array_equal(first.offsets, again.offsets)
    assert np.array_equal(first.flips, again.flips)
    for seed, epoch in ((5, 1), (6, 0)):
        other = draw(seed, epoch)
        assert not np.array_equal(first.offsets, other.offsets)
        assert not np.array_equal(first.flips, other.flips)
    assert drawn_geometry(augment.without_chance(), data, 5, 0) is None


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_finished_is_scaled_noisy_and_normalised(dtype):
    data = open_data("synthetic:3x5x7:3", "train", {"count": 6})
    data = replace(data, scale=0.5)
    indices = np.array([4, 1, 1])
    whole = ((0, 3), (0, 5), (0, 7))
    raw = data.read(indices, whole)
    augment = Augment(mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7), noise=0.25)
    clean = finished(raw, replace(augment, noise=0.0), data, 1, 2, indices, whole, dtype)
    assert clean.dtype == dtype
    wanted = (raw * 0.5 - np.array([0.1, 0.2, 0.3]).reshape(3, 1, 1)) / np.array([0.5, 0.6, 0.7]).reshape(
        3, 1, 1
    )
    assert np.allclose(clean, wanted, atol=1e-6)
    noisy = finished(raw, augment, data, 1, 2, indices, whole, dtype)
    noise = (noisy - clean) * np.array([0.5, 0.6, 0.7]).reshape(3, 1, 1)
    assert 0.2 < noise.std() < 0.3
    assert np.array_equal(noisy[1], noisy[2])
    assert not np.allclose(noise[0], noise[1])
    for box in files.some_boxes((3, 5, 7)):
        assert np.array_equal(
            finished(files.part(raw, box), augment, data, 1, 2, indices, box, dtype), files.part(noisy, box)
        )
    for other in ((2, 2), (1, 3)):
        assert not np.array_equal(finished(raw, augment, data, *other, indices, whole, dtype), noisy)
    test = replace(data, split="test")
    assert not np.array_equal(finished(raw, augment, test, 1, 2, indices, whole, dtype), noisy)
    given = finished(raw, Augment(scale=2.0), data, 1, 2, indices, whole, dtype)
    assert np.allclose(given, raw * 2.0)


def test_bad_augmentation():
    data = open_data("synthetic:3x5x7:3", "train")
    for wrong in ({"pad": -1}, {"noise": -0.1}):
        with pytest.raises(InputError, match="must not be negative"):
            Augment(**wrong)
    with pytest.raises(InputError, match=r"data.std \[0.0\] must be positive"):
        Augment(std=(0.0,))
    with pytest.raises(InputError, match=r"data.mean has 2 values; synthetic:3x5x7:3 needs 1 or 3"):
        Augment(mean=(0.0, 0.0)).checked(data)
    with pytest.raises(InputError, match="has no space to crop or flip"):
        Augment(flip=True).checked(open_data("synthetic:5:3", "train"))
