"""Every format: what is read is what was written, box by box."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from gridnn.errors import InputError
from gridnn.train.data import DataOptions, open_data
from gridnn.train.data.dataset import flattened
from gridnn.train.data.rows import ArrayRows, H5Rows, JoinedRows
from tests.train.data import files


def test_digits():
    train, test = open_data("digits", "train"), open_data("digits", "test")
    assert (train.count, test.count) == (3823, 1797)
    for dataset in (train, test):
        assert (dataset.input_shape, dataset.classes, dataset.target) == ((1, 8, 8), 10, "class")
        everything = dataset.read(np.arange(dataset.count), ((0, 1), (0, 8), (0, 8)))
        assert everything.max() * dataset.scale == 1.0
    counts = np.bincount(train.read_target(np.arange(3823), ()))
    assert counts.tolist() == [376, 389, 380, 389, 387, 376, 377, 387, 380, 382]
    # the first test image of the repository, a zero
    first = test.read(np.array([0]), ((0, 1), (0, 2), (0, 8)))[0, 0]
    assert first.tolist() == [[0, 0, 5, 13, 9, 1, 0, 0], [0, 0, 13, 15, 10, 15, 5, 0]]


@pytest.mark.parametrize("gz", [False, True])
def test_idx(tmp_path, gz):
    arrays = files.write_idx(tmp_path, gz)
    for split, name in (("train", "train"), ("test", "t10k")):
        images, labels = arrays[name]
        dataset = open_data(tmp_path, split)
        assert (dataset.classes, dataset.scale) == (4, 1 / 255)
        files.check_reads(dataset, images[:, None], labels)


def test_idx_with_generic_names_floats_and_both_copies(tmp_path):
    """The plain file is taken where its .gz lies beside it; any rank and type of element."""
    images = np.linspace(0, 1, 4 * 3 * 2 * 5).reshape(4, 3, 2, 5).astype(np.float32)
    for split in ("train", "test"):
        (tmp_path / f"some-{split}-images.idx4").write_bytes(files.idx_bytes(images))
        (tmp_path / f"some-{split}-images.idx4.gz").write_bytes(b"never read")
        (tmp_path / f"some-{split}-labels.idx1").write_bytes(files.idx_bytes(np.arange(4, dtype=np.uint8)))
    files.check_reads(open_data(tmp_path, "test"), images.astype(">f4"), np.arange(4))


@pytest.mark.parametrize("version", ["binary", "python"])
@pytest.mark.parametrize("classes", [10, 100])
@pytest.mark.parametrize("inside", [False, True])
def test_cifar(tmp_path, classes, version, inside):
    names = {"binary": {10: "cifar-10-batches-bin", 100: "cifar-100-binary"},
             "python": {10: "cifar-10-batches-py", 100: "cifar-100-python"}}  # fmt: skip
    folder = tmp_path / names[version][classes] if inside else tmp_path
    folder.mkdir(exist_ok=True)
    arrays = files.write_cifar(folder, classes, version)
    for split, (images, labels) in arrays.items():
        dataset = open_data(tmp_path, split)
        assert dataset.classes == classes
        files.check_reads(dataset, images, labels)


def members(train=8, test=5):
    named = {}
    for split, count in (("train", train), ("test", test)):
        named[f"x_{split}"] = files.pictures(count, (3, 4, 5))
        named[f"y_{split}"] = np.arange(count) % 3
    return named


@pytest.mark.parametrize("form", ["npy", "npz", "npz compressed", "npz in a folder", "h5", "h5 groups"])
def test_arrays(tmp_path, form):
    arrays = members()
    path = tmp_path
    if form == "npy":
        for name, array in arrays.items():
            # Fortran order too: numpy saves a transposed array so
            np.save(path / f"{name}.npy", np.asfortranarray(array) if name == "x_test" else array)
    elif form.startswith("npz"):
        path = tmp_path / "data.npz"
        save = np.savez_compressed if form == "npz compressed" else np.savez
        save(path, **arrays)
        path = tmp_path if form == "npz in a folder" else path
    else:
        path = tmp_path / "data.h5"
        with h5py.File(path, "w") as file:
            for name, array in arrays.items():
                what, split = name.split("_")
                file[f"{split}/{what}" if form == "h5 groups" else name] = array
    for split in ("train", "test"):
        dataset = open_data(path, split)
        assert dataset.classes == 3
        files.check_reads(dataset, arrays[f"x_{split}"], arrays[f"y_{split}"])


def test_uncompressed_members_are_mapped_not_loaded(tmp_path):
    """The values come from the file itself, in place."""
    path = tmp_path / "data.npz"
    arrays = members()
    np.savez(path, **arrays)
    dataset = open_data(path, "train")
    content = bytearray(path.read_bytes())
    start = content.index(arrays["x_train"].tobytes())
    with path.open("r+b") as file:
        file.seek(start)
        file.write(bytes(60))
    assert not dataset.read(np.array([0]), ((0, 3), (0, 4), (0, 5))).any()


@pytest.mark.parametrize(
    ("shape", "layout", "input_shape"),
    [
        ((9, 11), None, (11,)),
        ((9, 5, 6), None, (1, 5, 6)),
        ((9, 5, 6), "NCL", (5, 6)),
        ((9, 5, 6, 3), None, (3, 5, 6)),
        ((9, 3, 6, 3), None, (3, 6, 3)),
        ((9, 3, 6, 3), "NHWC", (3, 3, 6)),
        ((9, 2, 4, 5, 6), None, (2, 4, 5, 6)),
        ((9, 4, 5, 6, 2), "NDHWC", (2, 4, 5, 6)),
        ((9, 4, 5, 6), "NDHW", (1, 4, 5, 6)),
    ],
)
def test_layouts_and_a_held_out_part(tmp_path, shape, layout, input_shape):
    images = files.pictures(9, shape[1:])
    np.savez(tmp_path / "a.npz", images=images, labels=np.arange(9) % 2)
    options = DataOptions(layout=layout, test_fraction=0.4)
    whole = images
    if layout or (len(shape) == 4 and shape[-1] == 3 and shape[1] != 3):
        letters = layout or "NHWC"
        order = [letters.index(letter) for letter in letters if letter not in "NC"]
        channel = [letters.index("C")] if "C" in letters else []
        whole = images.transpose(0, *channel, *order)
    whole = whole.reshape(9, *input_shape)
    seen = []
    for split, count in (("train", 5), ("test", 4)):
        dataset = open_data(tmp_path / "a.npz", split, options)
        assert dataset.count == count
        values = dataset.read(np.arange(count), tuple((0, n) for n in input_shape))
        rows = [int(np.flatnonzero([np.array_equal(value, image) for image in whole])[0]) for value in values]
        files.check_reads(dataset, whole[rows], np.array(rows) % 2)
        seen += rows
    assert sorted(seen) == list(range(9))


@pytest.mark.parametrize("suffix", ["npz", "h5"])
def test_targets_with_space(tmp_path, suffix):
    x = files.pictures(6, (3, 5, 7))
    pixels = np.random.default_rng(0).integers(0, 4, (6, 5, 7))
    image = np.random.default_rng(1).random((6, 2, 5, 7))
    for name, y in (("pixels", pixels), ("image", image)):
        path = tmp_path / f"{name}.{suffix}"
        arrays = {"x_train": x, "y_train": y, "x_test": x[:3], "y_test": y[:3]}
        if suffix == "npz":
            np.savez(path, **arrays)
        else:
            with h5py.File(path, "w") as file:
                file.update(arrays)
        for options in ({}, {"target": name}):
            dataset = open_data(path, "test", options)
            assert dataset.target == name
            assert dataset.classes == (int(pixels.max()) + 1 if name == "pixels" else None)
            files.check_reads(dataset, x[:3], y[:3])


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("space", [(7,), (5, 7), (4, 5, 7)])
def test_image_targets_with_and_without_channels(tmp_path, space, channels_last):
    x = files.pictures(4, (2, *space))
    letters = "DHW"[-len(space) :]
    layout = f"N{letters}C" if channels_last else f"NC{letters}"
    for channels in ((), (2,)):
        y = np.random.default_rng(0).random((4, *channels, *space))
        stored = (
            (np.moveaxis(x, 1, -1), np.moveaxis(y, 1, -1) if channels else y) if channels_last else (x, y)
        )
        np.savez(tmp_path / "a.npz", x_train=stored[0], y_train=stored[1], x_test=stored[0], y_test=stored[1])
        dataset = open_data(tmp_path / "a.npz", "train", {"layout": layout})
        assert dataset.target == "image"
        files.check_reads(dataset, x, y.reshape(4, *(channels or (1,)), *space))


def test_inputs_alone_are_their_own_target(tmp_path):
    x = files.pictures(10, (1, 4, 5))
    np.save(tmp_path / "x.npy", x)
    dataset = open_data(tmp_path / "x.npy", "test")
    assert (dataset.target, dataset.target_shape, dataset.count) == ("image", (1, 4, 5), 2)
    box = ((0, 1), (1, 3), (2, 5))
    assert np.array_equal(dataset.read(np.arange(2), box), dataset.read_target(np.arange(2), box))
    digits = open_data("digits", "train", {"target": "image"})
    assert (digits.target, digits.target_shape, digits.target_scale) == ("image", (1, 8, 8), 1 / 16)


def test_flattened(tmp_path):
    x = files.pictures(4, (3, 2, 5))
    np.savez(tmp_path / "a.npz", x_train=x, y_train=np.arange(4), x_test=x, y_test=np.arange(4))
    files.check_reads(flattened(open_data(tmp_path / "a.npz", "train")), x.reshape(4, 30), np.arange(4))


@pytest.mark.parametrize("channels", [1, 3])
def test_folder_by_class_with_a_test_folder(tmp_path, channels):
    images = files.pictures(7, (channels, 5, 6))
    for name, rows in (("train/cat", [0, 1]), ("train/dog", [2, 3]), ("val/cat", [4]), ("val/dog", [5, 6])):
        files.write_pictures(tmp_path / name, images[rows])
    train, test = (open_data(tmp_path, split) for split in ("train", "test"))
    assert train.classes == test.classes == 2
    files.check_reads(train, images[:4], np.array([0, 0, 1, 1]))
    files.check_reads(test, images[4:], np.array([0, 1, 1]))
    other = open_data(tmp_path, "test", {"channels": 4 - channels, "size": [4, 3]})
    assert other.read(np.array([0]), ((0, 4 - channels), (0, 4), (0, 3))).shape == (1, 4 - channels, 4, 3)


def test_folder_by_class_without_a_test_folder(tmp_path):
    images = files.pictures(30, (1, 3, 4))
    files.write_pictures(tmp_path / "a", images[:20])
    files.write_pictures(tmp_path / "b", images[20:])
    seen = []
    for split, counts in (("train", [15, 7]), ("test", [5, 3])):
        dataset = open_data(tmp_path, split, {"test_fraction": 0.25})
        again = open_data(tmp_path, split, {"test_fraction": 0.25})
        values = dataset.read(np.arange(dataset.count), ((0, 1), (0, 3), (0, 4)))
        assert np.array_equal(values, again.read(np.arange(dataset.count), ((0, 1), (0, 3), (0, 4))))
        assert np.bincount(dataset.read_target(np.arange(dataset.count), ())).tolist() == counts
        seen += [
            int(np.flatnonzero([np.array_equal(value, image) for image in images])[0]) for value in values
        ]
    assert sorted(seen) == list(range(30))


def test_photographs_in_tiles(tmp_path):
    photos = [files.pictures(1, (3, 13, 17), seed)[0] for seed in range(2)]
    photos.append(files.pictures(1, (3, 5, 20), 9)[0])
    for split, chosen in (("train", photos), ("test", photos[:1])):
        files.write_pictures(tmp_path / split, chosen)
    tiles = [
        photo[:, top : top + 5, left : left + 8]
        for photo in photos
        for top in range(0, photo.shape[1] - 4, 5)
        for left in range(0, photo.shape[2] - 7, 8)
    ]
    assert len(tiles) == 4 + 4 + 2
    for split, count in (("train", 10), ("test", 4)):
        dataset = open_data(tmp_path, split, {"tile": [5, 8]})
        assert dataset.target == "image"
        files.check_reads(dataset, np.stack(tiles[:count]), np.stack(tiles[:count]))
    random = open_data(tmp_path, "train", {"tile": [5, 8], "tiles": 7})
    assert random.count == 21
    whole = random.read(np.arange(21), ((0, 3), (0, 5), (0, 8)))
    files.check_reads(random, whole, whole)
    windows = np.lib.stride_tricks.sliding_window_view(photos[1], (3, 5, 8))[0]
    assert all(np.any(np.all(windows == tile, axis=(2, 3, 4))) for tile in whole[7:14])


def test_photographs_whole_and_one_alone(tmp_path):
    photos = files.pictures(10, (1, 6, 9))
    paths = files.write_pictures(tmp_path, photos)
    datasets = [open_data(tmp_path, split) for split in ("train", "test")]
    assert [dataset.count for dataset in datasets] == [8, 2]
    assert datasets[0].input_shape == (1, 6, 9)
    # of one photograph the tiles are shared out
    halves = [open_data(paths[3], split, {"tile": [2, 3]}) for split in ("train", "test")]
    assert [half.count for half in halves] == [7, 2]
    sums = [half.read(np.arange(half.count), ((0, 1), (0, 2), (0, 3))).sum(dtype=int) for half in halves]
    assert sum(sums) == photos[3].sum(dtype=int)


@pytest.mark.parametrize("shape", ["5", "2x7", "3x5x4", "2x3x4x5"])
@pytest.mark.parametrize("target", ["class", "pixels", "image"])
def test_synthetic(shape, target):
    if target == "pixels" and "x" not in shape:
        with pytest.raises(InputError, match="has no space"):
            open_data("synthetic:5:3", "train", {"target": target})
        return
    options = {"target": target, "count": 6, "test_count": 4, "target_channels": 5}
    for split in ("train", "test"):
        dataset = open_data(f"synthetic:{shape}:3", split, options)
        everyone = np.arange(dataset.count)
        inputs = dataset.read(everyone, tuple((0, n) for n in dataset.input_shape))
        targets = dataset.read_target(everyone, tuple((0, n) for n in dataset.target_shape))
        files.check_reads(dataset, inputs, targets)
        if target != "image":
            assert targets.min() >= 0
            assert targets.max() < 3
        assert len(np.unique(inputs)) == inputs.size
    assert open_data("synthetic:5", "train", {"classes": 7}).classes == 7


def test_rows_of_h5_read_neighbours_together(tmp_path):
    """Few hyperslabs: 3 for 0 1 2 | 7 8 | 3."""
    array = files.pictures(10, (3, 4))
    read = []

    class Counted:
        shape, dtype = array.shape, array.dtype

        def __getitem__(self, index):
            read.append(index[0])
            return array[index]

    rows = np.array([0, 1, 2, 7, 8, 3])
    values = H5Rows(Counted()).take(rows, (slice(1, 3), slice(0, 2)))
    assert np.array_equal(values, array[rows, 1:3, 0:2])
    assert len(read) == 3


def test_joined_rows():
    arrays = [files.pictures(n, (2, 3), n) for n in (4, 0, 5)]
    joined = JoinedRows([ArrayRows(array) for array in arrays])
    whole = np.concatenate(arrays)
    assert joined.shape == whole.shape
    rows = np.array([8, 0, 3, 4, 4])
    assert np.array_equal(joined.take(rows, (slice(1, 2), slice(0, 3))), whole[rows, 1:2])
