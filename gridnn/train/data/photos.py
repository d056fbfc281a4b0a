"""Photographs of any size, whole or in tiles: each tile is a sample and its own clean target.

+-------+-------+--+      data.tile = [H, W]: the regular grid of whole tiles; the rim that
|   0   |   1   |  |      makes no tile is left out.  data.tiles = n: n tiles a photograph
+-------+-------+  |      at random places instead.  Without data.tile the photographs must
|   2   |   3   |  |      have one size (or data.size) and each is one sample.
+-------+-------+--+
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np

from gridnn.compute.random import Box, integers
from gridnn.errors import InputError
from gridnn.train.data.dataset import Array, DataOptions, Dataset, Indices, extents, held_out
from gridnn.train.data.folder import split_folders
from gridnn.train.data.pictures import SUFFIXES, common_size, decode, measure, pictures_in

LOOKED_FOR = "photographs (picture files in the folder, or in train/ and test/, or one picture file)"


def found_in(path: Path) -> bool:
    """Whether this is a picture, or a folder with pictures directly in it or in its train folder."""
    if path.is_dir():
        return bool(pictures_in(split_folders(path).get("train", path)))
    return path.suffix.lower() in SUFFIXES


def open_photos(path: Path, split: str, options: DataOptions) -> Dataset:
    """One split of the tiles.

    Held out are whole photographs where there are several, and tiles where there is only one.
    """
    if options.target not in (None, "image"):
        raise InputError(
            f"{path}: photographs have no labels for data.target {options.target!r}; use 'image'"
        )
    if options.tiles is not None and options.tile is None:
        raise InputError("data.tiles (a number of tiles a photograph) needs data.tile = [H, W], their size")
    paths, by_tile = _photos(path, split, options)
    if options.tile is None:
        size, channels = common_size(paths, options)
        corners = np.array([(photo, 0, 0) for photo in range(len(paths))])
    else:
        size = options.tile
        channels = options.channels or measure(paths[0])[1]
        corners = np.concatenate([_corners(photo, path, options) for photo, path in enumerate(paths)])
    if by_tile:
        corners = corners[held_out(len(corners), None, options, str(path))[split]]

    # One photograph is kept decoded, because tiles of one are read together.
    @lru_cache(maxsize=1)
    def photograph(photo: int) -> Array:
        return decode(paths[photo], channels, options.size)

    def read(indices: Indices, box: Box) -> Array:
        out = np.empty((len(indices), *extents(box)), np.uint8)
        (c0, c1), (h0, h1), (w0, w1) = box
        for row in np.argsort(corners[indices, 0], kind="stable"):
            photo, top, left = corners[indices[row]].tolist()
            out[row] = photograph(photo)[c0:c1, top + h0 : top + h1, left + w0 : left + w1]
        return out

    shape = (channels, *size)
    return Dataset(
        path.stem,
        split,
        len(corners),
        shape,
        np.dtype(np.uint8),
        None,
        "image",
        shape,
        read,
        read,
        1 / 255,
        1 / 255,
    )


def _photos(path: Path, split: str, options: DataOptions) -> tuple[list[Path], bool]:
    """The photographs of a split, and whether the split is still to be made among their tiles."""
    parts = split_folders(path) if path.is_dir() else {}
    if {"train", "test"} <= parts.keys():
        paths = pictures_in(parts[split])
        if not paths:
            raise InputError(f"{parts[split]} holds no photographs; at least 1 is needed")
        return paths, False
    paths = pictures_in(parts.get("train", path)) if path.is_dir() else [path]
    if len(paths) == 1:
        return paths, True
    rows = held_out(len(paths), None, options, str(path))[split]
    return [paths[row] for row in rows], False


def _corners(photo: int, path: Path, options: DataOptions) -> Indices:
    """(photo, top, left) of each tile of one photograph."""
    assert options.tile is not None
    tile = options.tile
    size = options.size or measure(path)[0]
    if size[0] < tile[0] or size[1] < tile[1]:
        raise InputError(
            f"{path} is {size[0]} x {size[1]} (height x width), smaller than the tile {tile[0]} x {tile[1]}; "
            "remove it or set a smaller data.tile"
        )
    if options.tiles is None:
        tops, lefts = (np.arange(size[d] // tile[d]) * tile[d] for d in (0, 1))
        top, left = (part.ravel() for part in np.meshgrid(tops, lefts, indexing="ij"))
    else:
        # By the file's name, so that a photograph keeps its tiles when others come or go.
        top, left = (
            integers(options.split_seed, f"tiles:{d}:{path.name}", options.tiles, 0, size[d] - tile[d] + 1)
            for d in (0, 1)
        )
    return np.stack([np.full(len(top), photo), top, left], axis=1)
