"""Arrays in .npy, .npz and HDF5 files, mapped wherever the file allows it.

    folder      x_train.npy  y_train.npy  x_test.npy  y_test.npy
    .npz, .h5   members of the same names, or inputs and targets without a split, of which
                `test_fraction` is held out; `train_images`, `train/images`, ... are the same names
    .npy        inputs only: their own targets

An uncompressed member of an .npz file is a .npy file at an offset, and is mapped there.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gridnn.errors import InputError
from gridnn.train.data.dataset import DataOptions, Dataset, held_out
from gridnn.train.data.paired import Part, labels_of, paired
from gridnn.train.data.rows import ArrayRows, H5Rows, Rows, mapped

LOOKED_FOR = "arrays (x_train.npy, y_train.npy, ... or one .npy, .npz, .h5 or .hdf5 file)"

_H5_SUFFIXES = (".h5", ".hdf5")
_INPUTS = ("x", "images", "image", "data", "inputs")
_TARGETS = ("y", "labels", "label", "targets", "target", "masks", "mask")


def found_in(path: Path) -> bool:
    """Whether this is an array file, or a folder with one or with x_train.npy."""
    if path.is_dir():
        return bool(_in_folder(path))
    return path.suffix in (".npy", ".npz", *_H5_SUFFIXES)


def open_arrays(path: Path, split: str, options: DataOptions) -> Dataset:
    """The data set of the arrays of one split."""
    if path.is_dir():
        files = _in_folder(path)
        if files[0].suffix != ".npy":
            path = files[0]
    if path.is_dir():
        members = {file.stem: _npy(file) for file in files}
    elif path.suffix == ".npy":
        members = {"x": _npy(path)}
    elif path.suffix == ".npz":
        members = _npz(path)
    else:
        members = _h5(path)
    parts = parts_of(members, str(path), options)
    return paired(path.stem, split, parts[split], parts["train"], options)


def parts_of(members: Mapping[str, Rows], where: str, options: DataOptions) -> dict[str, Part]:
    """Train and test parts among named arrays."""
    names = {name.lower().strip("/").replace("/", "_"): name for name in members}

    def part(suffix: str) -> Part | None:
        keys = [_member(names, kind, suffix) for kind in (_INPUTS, _TARGETS)]
        if keys[0] is None:
            return None
        for key in keys:
            if key is not None and not members[key].shape:
                raise InputError(f"{where}[{key}] is a single number; needed is an array of samples")
        rows = [None if key is None else members[key] for key in keys]
        assert rows[0] is not None
        return Part(rows[0], rows[1], f"{where}[{keys[0]}]", f"{where}[{keys[1]}]")

    train, test, both = part("train"), part("test"), part("")
    if train is not None and test is not None:
        return {"train": train, "test": test}
    if both is None:
        raise InputError(
            f"{where} holds {', '.join(members) or 'nothing'}; needed are x_train, y_train, x_test, y_test, "
            "or x and y (images and labels), of which a part is held out for the test"
        )
    labels = labels_of(both)
    if labels is not None and len(labels) != both.inputs.shape[0]:
        labels = None  # `paired` says so in full
    rows = held_out(both.inputs.shape[0], labels, options, where)
    return {
        split: Part(both.inputs, both.targets, both.inputs_from, both.targets_from, rows[split])
        for split in ("train", "test")
    }


def _member(names: Mapping[str, str], kinds: tuple[str, ...], suffix: str) -> str | None:
    for kind in kinds:
        for name in (f"{kind}_{suffix}", f"{suffix}_{kind}") if suffix else (kind,):
            if name in names:
                return names[name]
    return None


def _in_folder(folder: Path) -> list[Path]:
    """The .npy files of a folder that has x_train.npy, or its only array file."""
    arrays = sorted(file for file in folder.iterdir() if file.suffix == ".npy")
    if any(_member({file.stem.lower(): file.stem}, _INPUTS, "train") for file in arrays):
        return arrays
    single = sorted(file for file in folder.iterdir() if file.suffix in (".npz", *_H5_SUFFIXES))
    return single if len(single) == 1 else []


def _npy(path: Path) -> Rows:
    with path.open("rb") as file:
        dtype, shape, fortran = _npy_header(file, str(path))
        start = file.tell()
    stored = mapped(path, dtype, shape[::-1] if fortran else shape, start)
    return ArrayRows(stored.T if fortran else stored)


def _npy_header(file: Any, where: str) -> tuple[np.dtype[Any], tuple[int, ...], bool]:
    try:
        version = np.lib.format.read_magic(file)
        read = (
            np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        )
        shape, fortran, dtype = read(file)
    except (ValueError, OSError, EOFError) as error:
        raise InputError(f"{where} is not a whole .npy array ({error}); save it with numpy.save") from error
    if dtype.hasobject:
        raise InputError(f"{where} holds Python objects; needed are numbers of one dtype")
    return dtype, shape, fortran


def _npz(path: Path) -> dict[str, Rows]:
    members: dict[str, Rows] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                members[info.filename.removesuffix(".npy")] = _npz_member(path, archive, info)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise InputError(f"{path} is not a whole .npz file ({error}); save it with numpy.savez") from error
    return members


def _npz_member(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Rows:
    where = f"{path}[{info.filename}]"
    with archive.open(info) as file:
        dtype, shape, fortran = _npy_header(file, where)
        header_bytes = file.tell()
        if info.compress_type != zipfile.ZIP_STORED:
            stored = np.frombuffer(file.read(), dtype).reshape(shape, order="F" if fortran else "C")
            return ArrayRows(stored)
    # The local header has its own lengths of name and extra field, at bytes 26 and 28.
    with path.open("rb") as raw:
        raw.seek(info.header_offset + 26)
        lengths = np.frombuffer(raw.read(4), "<u2")
    start = info.header_offset + 30 + int(lengths.sum()) + header_bytes
    stored = mapped(path, dtype, shape[::-1] if fortran else shape, start)
    return ArrayRows(stored.T if fortran else stored)


def _h5(path: Path) -> dict[str, Rows]:
    try:
        import h5py
    except ImportError as error:
        raise InputError(f'{path} is an HDF5 file and h5py is missing; pip install "gridnn[data]"') from error
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise InputError(f"{path} is not a whole HDF5 file ({error}); copy or write it again") from error
    members: dict[str, Rows] = {}
    file.visititems(
        lambda name, item: members.update({name: H5Rows(item)}) if isinstance(item, h5py.Dataset) else None
    )
    return members
