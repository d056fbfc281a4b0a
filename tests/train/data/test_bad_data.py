"""Bad data end in an InputError that says the file, what was found and what is needed."""

from __future__ import annotations

import builtins
import gzip
import pickle

import numpy as np
import pytest
from PIL import Image

from gridnn.errors import InputError
from gridnn.train.data import open_data
from tests.train.data import files


def refused(pattern, path, split="train", options=None):
    with pytest.raises(InputError, match=f"(?s){pattern}"):
        open_data(path, split, options)


def test_nothing_there(tmp_path):
    refused(r"no data set '.*nowhere'.*'digits'", tmp_path / "nowhere")
    refused(
        r"found nothing; looked for.*train-images-idx3.*data_batch.*x_train.npy.*<class>.*photographs",
        tmp_path,
    )
    (tmp_path / "readme.md").write_text("no data")
    refused(r"found readme.md; looked for", tmp_path)
    refused(r"its ending is not known; looked for", tmp_path / "readme.md")
    refused(r"split 'validation' is not known; use train or test", "digits", "validation")


@pytest.mark.parametrize(
    ("options", "pattern"),
    [
        ({"tiel": [4, 4]}, "data.tiel is not an option of data; known are target, classes"),
        ({"target": "number"}, "data.target 'number' is not known; use one of class, pixels, image"),
        ({"test_fraction": 1.0}, "test_fraction 1.0 is not between 0 and 1"),
        ({"channels": 2}, "data.channels 2 is not 1"),
        ({"tile": [4]}, r"data.tile \[4\] must be two positive numbers"),
        ({"classes": 0}, "data.classes 0 must be at least 1"),
        ({"classes": 5}, "label [5-9] at index .* is not in 0 .. 4"),
        ({"target": "pixels"}, r"y_train.*do not fit pixels for inputs \(C, \*space\) = \(1, 8, 8\)"),
    ],
)
def test_options(options, pattern):
    refused(pattern, "digits", options=options)


@pytest.mark.parametrize(
    "name", ["synthetic", "synthetic:", "synthetic:3xA:4", "synthetic:3x0:4", "synthetic:3:4:5"]
)
def test_synthetic_names(name):
    refused("needed is synthetic:<CxHxW>:<classes>", name)


class TestIdx:
    def change(self, folder, name, change, gz=False):
        files.write_idx(folder, gz)
        path = folder / name
        path.write_bytes(change(path.read_bytes()))

    def test_truncated(self, tmp_path):
        self.change(tmp_path, "train-images-idx3-ubyte", lambda content: content[:-10])
        refused(r"train-images-idx3-ubyte is truncated: found 384 bytes, needs 394", tmp_path)
        refused(r"truncated", tmp_path, "test")

    def test_truncated_in_its_header(self, tmp_path):
        self.change(tmp_path, "train-images-idx3-ubyte", lambda content: content[:9])
        refused(r"truncated: found 9 bytes, needs 16", tmp_path)

    def test_truncated_gz(self, tmp_path):
        self.change(tmp_path, "train-images-idx3-ubyte.gz", lambda content: content[:-30], gz=True)
        refused(r"idx3-ubyte.gz is not a whole gzip file", tmp_path)

    def test_truncated_inside_gz(self, tmp_path):
        shorter = lambda content: gzip.compress(gzip.decompress(content)[:-1])  # noqa: E731
        self.change(tmp_path, "train-labels-idx1-ubyte.gz", shorter, gz=True)
        refused(r"labels-idx1-ubyte.gz is truncated: found 16 bytes, needs 17", tmp_path)

    def test_magic(self, tmp_path):
        self.change(tmp_path, "train-images-idx3-ubyte", lambda content: b"\x89PNG" + content[4:])
        refused(r"is not an IDX file: it begins with 89 50 4e 47, needed is 00 00", tmp_path)

    def test_label_of_test_that_training_has_not(self, tmp_path):
        self.change(tmp_path, "t10k-labels-idx1-ubyte", lambda content: content[:-1] + b"\x09")
        refused(r"t10k-labels-idx1-ubyte: label 9 at index 4 is not in 0 .. 3 \(1 such", tmp_path, "test")

    def test_counts(self, tmp_path):
        files.write_idx(tmp_path)
        (tmp_path / "train-labels-idx1-ubyte").write_bytes(files.idx_bytes(np.zeros(8, np.uint8)))
        refused(r"images-idx3-ubyte has 9 samples but .*labels-idx1-ubyte has 8 targets", tmp_path)

    def test_missing_and_ambiguous(self, tmp_path):
        files.write_idx(tmp_path)
        (tmp_path / "t10k-labels-idx1-ubyte").unlink()
        refused(r"'t10k or test' and 'labels' in its name is needed for test, found none", tmp_path, "test")
        (tmp_path / "other-train-images-idx3-ubyte").write_bytes(b"")
        refused(r"found other-train-images-idx3-ubyte, train-images-idx3-ubyte", tmp_path)


class TestCifar:
    def test_truncated(self, tmp_path):
        files.write_cifar(tmp_path, 10, "binary")
        path = tmp_path / "data_batch_2.bin"
        path.write_bytes(path.read_bytes()[:-1])
        refused(r"data_batch_2.bin is truncated: found 9218 bytes, needs a multiple of 3073 \(9219", tmp_path)

    def test_label(self, tmp_path):
        files.write_cifar(tmp_path, 100, "binary")
        path = tmp_path / "train.bin"
        content = bytearray(path.read_bytes())
        content[3074 + 1] = 100
        path.write_bytes(content)
        refused(r"train.bin: label 100 at index 1 is not in 0 .. 99", tmp_path)

    def test_no_test_part(self, tmp_path):
        files.write_cifar(tmp_path, 10, "binary")
        (tmp_path / "test_batch.bin").unlink()
        refused(r"has data_batch_\*.bin of CIFAR-10 binary but not test_batch.bin", tmp_path, "test")

    def test_truncated_pickle(self, tmp_path):
        files.write_cifar(tmp_path, 10, "python")
        path = tmp_path / "data_batch_1"
        path.write_bytes(path.read_bytes()[:-100])
        refused(r"data_batch_1 is not a whole CIFAR pickle", tmp_path)

    def test_other_pickle(self, tmp_path):
        (tmp_path / "data_batch_1").write_bytes(pickle.dumps({"data": np.zeros((3, 9), np.uint8)}))
        refused(r"holds \['data'\].*needed are 'data', uint8 \(n, 3072\), and 'labels'", tmp_path)

    def test_a_pickle_that_runs_code_does_not(self, tmp_path):
        marker = tmp_path / "ran"

        class Evil:
            def __reduce__(self):
                return (open, (str(marker), "w"))

        (tmp_path / "data_batch_1").write_bytes(pickle.dumps({b"data": Evil()}))
        refused(r"which is refused: only arrays are read", tmp_path)
        assert not marker.exists()


class TestArrays:
    def save(self, path, **changes):
        arrays = {"x_train": files.pictures(4, (1, 3, 3)), "y_train": np.arange(4)}
        arrays |= {"x_test": arrays["x_train"], "y_test": arrays["y_train"]}
        arrays = {name: array for name, array in (arrays | changes).items() if array is not None}
        np.savez(path / "a.npz", **arrays)
        return path / "a.npz"

    @pytest.mark.parametrize(
        ("changes", "pattern"),
        [
            ({"y_train": np.array([0, 1, -1, 2])}, r"y_train\]: label -1 at index 2 is not in 0 .. 2"),
            ({"y_train": np.arange(3)}, r"x_train\] has 4 samples but .*y_train\] has 3 targets"),
            ({"y_train": np.ones(4)}, r"shape \(4,\) and dtype float64 do not fit any target"),
            (
                {"y_train": np.ones((4, 2, 2), int)},
                r"shape \(4, 2, 2\) and dtype int64 do not fit any target",
            ),
            ({"x_train": np.ones((4, 2), complex)}, "inputs of dtype complex128 are not real numbers"),
            ({"x_train": np.ones(4)}, r"shape \(4,\) does not fit the layout"),
            ({"x_train": np.float64(3)}, r"\[x_train\] is a single number"),
            ({"x_train": np.ones((0, 2)), "y_train": np.arange(0)}, "no samples for train"),
            ({"x_train": None}, "holds y_train, x_test, y_test; needed are x_train, y_train"),
            ({"x_train": np.array([{}], object)}, "holds Python objects"),
        ],
    )
    def test_members(self, tmp_path, changes, pattern):
        refused(pattern, self.save(tmp_path, **changes))

    def test_images_of_another_size_are_no_targets(self, tmp_path):
        path = self.save(tmp_path, y_train=np.ones((4, 1, 2, 2)))
        refused(r"shape \(4, 1, 2, 2\) and dtype float64 do not fit image", path, options={"target": "image"})

    def test_pixel_labels_are_checked_when_read(self, tmp_path):
        labels = np.zeros((4, 3, 3), int)
        labels[2, 1, 1] = 5
        path = self.save(tmp_path, y_train=labels)
        assert open_data(path, "train").classes == 6
        dataset = open_data(path, "train", {"classes": 5})
        dataset.read_target(np.array([0, 1, 3]), ((0, 3), (0, 3)))
        with pytest.raises(InputError, match=r"y_train\] \(rows \[2\].*label 5 .* is not in 0 .. 4"):
            dataset.read_target(np.array([2]), ((0, 3), (0, 3)))

    def test_layout(self, tmp_path):
        for layout in ("NHW", "HWNC", "NCHH"):
            refused("does not fit the layout", self.save(tmp_path), options={"layout": layout})

    def test_labels_wanted_of_images_alone(self, tmp_path):
        np.save(tmp_path / "x.npy", np.ones((5, 3, 3)))
        refused(
            "data.target 'class' needs labels and none were found",
            tmp_path / "x.npy",
            "train",
            {"target": "class"},
        )

    def test_too_few_to_hold_out(self, tmp_path):
        np.save(tmp_path / "x.npy", np.ones((2, 3, 3)))
        refused(r"too few samples: of 2, data.test_fraction 0.2 leaves none for test", tmp_path / "x.npy")

    def test_truncated(self, tmp_path):
        np.save(tmp_path / "x.npy", np.ones((5, 3, 3)))
        content = (tmp_path / "x.npy").read_bytes()
        (tmp_path / "x.npy").write_bytes(content[:-8])
        refused(r"x.npy is truncated: found 480 bytes, needs 488", tmp_path / "x.npy")
        (tmp_path / "x.npy").write_bytes(content[:20])
        refused(r"x.npy is not a whole .npy array", tmp_path / "x.npy")
        path = self.save(tmp_path)
        path.write_bytes(path.read_bytes()[:-50])
        refused(r"a.npz is not a whole .npz file", path)
        (tmp_path / "a.h5").write_bytes(b"\x89HDF\r\n\x1a\n and no more")
        refused(r"a.h5 is not a whole HDF5 file", tmp_path / "a.h5")

    def test_h5py_missing(self, tmp_path, monkeypatch):
        (tmp_path / "a.h5").write_bytes(b"")
        plain = builtins.__import__

        def without(name, *args, **kwargs):
            if name == "h5py":
                raise ImportError("no h5py")
            return plain(name, *args, **kwargs)

        monkeypatch.setattr(builtins, "__import__", without)
        refused(r'h5py is missing; pip install "gridnn\[data\]"', tmp_path / "a.h5")


class TestPictures:
    def test_sizes_that_differ(self, tmp_path):
        files.write_pictures(tmp_path / "train" / "a", files.pictures(2, (1, 4, 5)))
        (other,) = files.write_pictures(tmp_path / "test" / "a", files.pictures(1, (1, 6, 5)))
        pattern = rf"sizes differ: .*train/a/000.png is 4 x 5 .* and {other} is 6 x 5; set data.size"
        refused(pattern, tmp_path, "test")

    def test_unreadable(self, tmp_path):
        paths = files.write_pictures(tmp_path / "a", files.pictures(5, (3, 40, 50)))
        content = paths[2].read_bytes()
        paths[2].write_bytes(content[: len(content) // 2])
        dataset = open_data(tmp_path, "train", {"test_fraction": 0.2})
        with pytest.raises(InputError, match=r"a/002.png is not a readable picture"):
            for split in ("train", "test"):
                dataset = open_data(tmp_path, split)
                dataset.read(np.arange(dataset.count), ((0, 3), (0, 40), (0, 50)))
        paths[2].write_bytes(b"text")
        refused(r"a/002.png is not a readable picture", tmp_path)

    def test_sixteen_bits(self, tmp_path):
        (tmp_path / "a").mkdir()
        Image.fromarray(np.full((4, 4), 40_000, np.uint16)).save(tmp_path / "a" / "deep.png")
        refused(r"deep.png has more than 8 bits a channel .*save it as .npy", tmp_path)

    def test_strange_class(self, tmp_path):
        files.write_pictures(tmp_path / "train" / "a", files.pictures(2, (1, 4, 5)))
        files.write_pictures(tmp_path / "test" / "b", files.pictures(2, (1, 4, 5)))
        refused(r"test has the class 'b', which .*train has not; known are a", tmp_path, "test")

    def test_pixels_and_labels_wanted(self, tmp_path):
        files.write_pictures(tmp_path / "a", files.pictures(5, (1, 4, 5)))
        refused("has classes by folder; data.target 'pixels' needs", tmp_path, options={"target": "pixels"})
        refused("photographs have no labels", tmp_path / "a", options={"target": "class"})

    def test_tiles(self, tmp_path):
        files.write_pictures(tmp_path, files.pictures(3, (1, 4, 5)))
        refused("is 4 x 5 .*smaller than the tile 5 x 5", tmp_path, options={"tile": [5, 5]})
        refused("needs data.tile", tmp_path, options={"tiles": 5})
        (tmp_path / "train").mkdir()
        (tmp_path / "test").mkdir()
        files.write_pictures(tmp_path / "train", files.pictures(3, (1, 4, 5)))
        refused("test holds no photographs", tmp_path, "test")
