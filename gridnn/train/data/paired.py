"""A data set from stored inputs and targets: which dims mean what, and are the labels sound.

Stored dims of the inputs, unless `data.layout` names them:

    2 dims  N C          features, no space
    3 dims  N H W        one channel
    4 dims  N H W C      if the last extent is 1, 3 or 4 and the second is not
            N C H W      else
    more    N C space
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from gridnn.compute.random import Box
from gridnn.errors import InputError
from gridnn.train.data.dataset import (
    Array,
    DataOptions,
    Dataset,
    Indices,
    Reader,
    check_labels,
    extents,
    natural_scale,
    slices,
)
from gridnn.train.data.rows import Rows, all_rows

# Rows of per-pixel labels looked at together when their classes are counted.
_SCAN = 64


@dataclass(frozen=True)
class Part:
    """Stored inputs and targets of one split, and where each came from (for messages)."""

    inputs: Rows
    targets: Rows | None
    inputs_from: str
    targets_from: str
    rows: Indices | None = None  # the rows of this split, None for all


def paired(name: str, split: str, part: Part, train: Part, options: DataOptions) -> Dataset:
    """The data set of one split; `train` tells the number of classes where options do not."""
    stored = part.inputs
    axes, input_shape = _dims(stored.shape, options.layout, part.inputs_from)
    if np.dtype(stored.dtype).kind not in "uifb":
        raise InputError(f"{part.inputs_from}: inputs of dtype {stored.dtype} are not real numbers")
    rows = np.arange(stored.shape[0]) if part.rows is None else part.rows
    if len(rows) == 0:
        raise InputError(f"{part.inputs_from}: no samples for {split}; at least 1 is needed")
    read = _reader(stored, axes, rows)

    scale = natural_scale(stored.dtype)
    own = Dataset(
        name, split, len(rows), input_shape, np.dtype(stored.dtype), None, "image", input_shape, read, read,
        scale, scale,
    )  # fmt: skip

    kind = _kind(part, input_shape, options)
    if part.targets is None or kind == "own":
        return own
    if part.targets.shape[0] != stored.shape[0]:
        raise InputError(
            f"{part.inputs_from} has {stored.shape[0]} samples but {part.targets_from} has "
            f"{part.targets.shape[0]} targets; they must be as many"
        )
    if kind == "image":
        target_axes, target_shape = _target_dims(part.targets, input_shape, options, part.targets_from)
        return replace(
            own,
            target_shape=target_shape,
            read_target=_reader(part.targets, target_axes, rows),
            target_scale=natural_scale(part.targets.dtype),
        )
    classes = options.classes or _class_count(train)
    labelled = replace(own, classes=classes, target=kind)
    if kind == "pixels":
        read_pixels = _pixel_reader(part.targets, rows, classes, part.targets_from)
        return replace(labelled, target_shape=input_shape[1:], read_target=read_pixels)
    return replace(labelled, target_shape=(), read_target=_class_reader(part, rows, classes))


def labels_of(part: Part) -> Array | None:
    """The labels of a part whose targets are one integer a sample, else None."""
    if part.targets is None or not _is_class(part.targets):
        return None
    return all_rows(part.targets).reshape(part.targets.shape[0])


def _is_class(targets: Rows) -> bool:
    return targets.shape[1:] in ((), (1,)) and np.dtype(targets.dtype).kind in "ui"


def _kind(part: Part, input_shape: tuple[int, ...], options: DataOptions) -> str:
    """What the targets are: by the option, or by their shape and dtype."""
    targets, wanted = part.targets, options.target
    if targets is None:
        if wanted in ("class", "pixels"):
            raise InputError(f"{part.inputs_from}: data.target {wanted!r} needs labels and none were found")
        return "own"
    space = input_shape[1:]
    fits = {
        "class": _is_class(targets),
        "pixels": targets.shape[1:] == space and np.dtype(targets.dtype).kind in "ui" and bool(space),
        "image": False,
    }
    if space and len(targets.shape) - len(space) in (1, 2):  # without and with channels
        fits["image"] = _target_dims(targets, input_shape, options, part.targets_from)[1][1:] == space
    if wanted == "image" and fits["class"] and not fits["image"]:
        return "own"
    if wanted is not None:
        if fits[wanted]:
            return wanted
    else:
        for kind, fit in fits.items():
            if fit:
                return kind
    raise InputError(
        f"{part.targets_from}: targets of shape {targets.shape} and dtype {targets.dtype} do not fit "
        f"{wanted or 'any target'} for inputs (C, *space) = {input_shape}; needed are integers (N,) for "
        "classes, integers (N, *space) for pixels, or numbers with channels and the same space for images"
    )


def _target_dims(
    targets: Rows, input_shape: tuple[int, ...], options: DataOptions, where: str
) -> tuple[list[int | None], tuple[int, ...]]:
    """`_dims` of image targets: stored as the inputs are, or without a channel dim."""
    layout, rank = options.layout, len(targets.shape)
    if rank == len(input_shape) and (layout is None or "C" in layout):
        # as many dims as the space needs: no channels
        layout = (layout or "N" + "abcdefgh"[: rank - 1]).replace("C", "")
    return _dims(targets.shape, layout, where)


def _dims(shape: tuple[int, ...], layout: str | None, where: str) -> tuple[list[int | None], tuple[int, ...]]:
    """Stored dim of each of (C, *space), None for a channel that is not stored; and the extents."""
    rank = len(shape)
    if layout is None:
        layout = {2: "NC", 3: "NHW", 4: "NCHW"}.get(
            rank, "NC" + "".join(chr(ord("d") + i) for i in range(rank - 2))
        )
        if rank == 4 and shape[3] in (1, 3, 4) and shape[1] not in (1, 3, 4):
            layout = "NHWC"
    letters = list(layout)
    if rank < 2 or len(letters) != rank or letters[0] != "N" or len(set(letters)) != rank:
        raise InputError(
            f"{where}: shape {shape} does not fit the layout {layout!r}; data.layout needs one letter a dim, "
            "N first, C for channels, others for space, such as NCHW or NHWC"
        )
    axes: list[int | None] = [letters.index("C") if "C" in letters else None]
    axes += [d for d, letter in enumerate(letters) if letter not in "NC"]
    return axes, tuple(1 if d is None else shape[d] for d in axes)


def _reader(stored: Rows, axes: list[int | None], rows: Indices) -> Reader:
    """A reader of boxes over (C, *space) from rows whose dims are stored in another order."""

    def read(indices: Indices, box: Box) -> Array:
        index = slices(box)
        in_store = [slice(None)] * (len(stored.shape) - 1)
        for d, part in zip(axes, index, strict=True):
            if d is not None:
                in_store[d - 1] = part
        values = stored.take(rows[indices], tuple(in_store))
        values = values.transpose(0, *(d for d in axes if d is not None))
        # A channel that is not stored has extent 1; an empty box of it stays empty.
        return values if axes[0] is not None else values[:, None][:, index[0]]

    return read


def _class_reader(part: Part, rows: Indices, classes: int) -> Reader:
    """A reader of class labels, all of them checked now."""
    assert part.targets is not None
    labels = all_rows(part.targets).reshape(part.targets.shape[0])
    check_labels(labels, classes, part.targets_from)
    owned = labels[rows].astype(np.int64)
    return lambda indices, _: owned[indices]


def _pixel_reader(stored: Rows, rows: Indices, classes: int, where: str) -> Reader:
    """A reader of per-pixel labels that checks what it reads: looking at all would read the whole file."""

    def read(indices: Indices, box: Box) -> Array:
        labels = stored.take(rows[indices], slices(box)).astype(np.int64)
        check_labels(labels, classes, f"{where} (rows {rows[indices].tolist()}, box {list(box)})")
        return labels.reshape(len(indices), *extents(box))

    return read


def _class_count(train: Part) -> int:
    """The largest training label + 1."""
    targets = train.targets
    assert targets is not None, "classes are counted only where the training part has targets"
    largest = -1
    dims = (slice(None),) * (len(targets.shape) - 1)
    step = _SCAN if dims else targets.shape[0]
    for start in range(0, targets.shape[0], max(1, step)):
        stretch = targets.take(np.arange(start, min(targets.shape[0], start + step)), dims)
        largest = max(largest, int(stretch.max()) if stretch.size else -1)
    return max(1, largest + 1)
