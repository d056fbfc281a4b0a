"""Small data files of every format, as their makers write them."""

from __future__ import annotations

import gzip
import pickle
import struct
from pathlib import Path

import numpy as np
from PIL import Image


def some_boxes(shape, number=6, seed=0):
    """Boxes of an array: whole, empty, one element, and random ones."""
    rng = np.random.default_rng(seed)
    boxes = [tuple((0, n) for n in shape), tuple((0, 0) for _ in shape), tuple((n - 1, n) for n in shape)]
    for _ in range(number):
        boxes.append(tuple(tuple(sorted(rng.integers(0, n + 1, 2).tolist())) for n in shape))
    return boxes


def part(array, box):
    """The box of every row."""
    return array[(slice(None), *(slice(a, b) for a, b in box))]


def check_reads(dataset, inputs, targets):
    """Every box of any rows, in any order and repeated, is the slice of the whole."""
    assert (dataset.count, *dataset.input_shape) == inputs.shape
    assert dataset.input_dtype == inputs.dtype
    assert (dataset.count, *dataset.target_shape) == targets.shape
    for indices in ([0], [], [dataset.count - 1, 0, 0], list(range(dataset.count))):
        rows = np.array(indices, np.int64)
        for box in some_boxes(dataset.input_shape):
            values = dataset.read(rows, box)
            assert type(values) is np.ndarray
            assert values.dtype == inputs.dtype
            assert np.array_equal(values, part(inputs[rows], box)), box
        for box in some_boxes(dataset.target_shape):
            assert np.array_equal(dataset.read_target(rows, box), part(targets[rows], box)), box


def pictures(count, shape, seed=0):
    """Random bytes."""
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), np.uint8)


def idx_bytes(array):
    """An array of uint8 or float32 as an IDX file."""
    code = {"uint8": 0x08, "float32": 0x0D}[array.dtype.name]
    head = struct.pack(f">BBBB{array.ndim}I", 0, 0, code, array.ndim, *array.shape)
    return head + array.astype(array.dtype.newbyteorder(">")).tobytes()


def write_idx(folder: Path, gz=False, train=9, test=5):
    """MNIST's four files; returns their arrays."""
    arrays = {}
    for name, count, seed in (("train", train, 1), ("t10k", test, 2)):
        images, labels = pictures(count, (6, 7), seed), np.arange(count, dtype=np.uint8) % 4
        arrays[name] = (images, labels)
        for what, array in (("images-idx3", images), ("labels-idx1", labels)):
            content = idx_bytes(array)
            path = folder / f"{name}-{what}-ubyte{'.gz' if gz else ''}"
            path.write_bytes(gzip.compress(content) if gz else content)
    return arrays


def write_cifar(folder: Path, classes: int, version: str):
    """CIFAR's files with a few images each; returns (images, labels) by split."""
    sizes = {"train": [4, 3], "test": [5]} if classes == 10 else {"train": [7], "test": [5]}
    arrays = {}
    for split, counts in sizes.items():
        images, labels = pictures(sum(counts), (3, 32, 32)), np.arange(sum(counts)) % classes
        labels[-1] = classes - 1
        arrays[split] = (images, labels)
        start = 0
        for number, count in enumerate(counts, 1):
            rows = slice(start, start + count)
            start += count
            stem = split if classes == 100 else f"data_batch_{number}" if split == "train" else "test_batch"
            if version == "binary":
                head = [labels[rows, None].astype(np.uint8)]
                head = [head[0] // 5, *head] if classes == 100 else head
                records = np.concatenate([*head, images[rows].reshape(count, -1)], axis=1)
                (folder / f"{stem}.bin").write_bytes(records.tobytes())
            else:
                key = b"labels" if classes == 10 else b"fine_labels"
                content = {b"data": images[rows].reshape(count, -1), key: labels[rows].tolist()}
                content |= {b"coarse_labels": [0] * count, b"batch_label": b"a batch"}
                (folder / stem).write_bytes(pickle.dumps(content, protocol=2))
    return arrays


def write_pictures(folder: Path, images):
    """One .png an image (C, H, W); returns the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, image in enumerate(images):
        path = folder / f"{number:03d}.png"
        Image.fromarray(image[0] if len(image) == 1 else np.ascontiguousarray(image.transpose(1, 2, 0))).save(
            path
        )
        paths.append(path)
    return paths
