"""What an ONNX file holds, as plain values: the rest of the import sees no protobuf.

Numbers of shapes may be the batch, which a file leaves open: `BATCH` stands for it where a chain of operators
computes with shapes (Shape, Gather, Concat, Reshape), `UNKNOWN` for what cannot be told from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any


class Symbol(Enum):
    """A number that is not known until the batch is."""

    BATCH = "batch"
    UNKNOWN = "unknown"


BATCH, UNKNOWN = Symbol.BATCH, Symbol.UNKNOWN
Number = int | float | Symbol


@dataclass(frozen=True)
class Constant:
    """An array of the file: its shape, and its numbers where it is small enough to say a shape.

    `key` is the initializer it comes from, the same for all that share it; `lost` says why there are no numbers.
    """

    shape: tuple[int, ...]
    values: tuple[Number, ...] | None = None
    key: str = ""
    lost: str = "it is too large to be a shape"


@dataclass(frozen=True)
class Operator:
    """A node of the file's graph; `op` has its domain in front where that is not ONNX's own."""

    op: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]


@dataclass(frozen=True)
class File:
    """A file: operators in order, constants by name, inputs with their dims, names of the outputs.

    A dim is an int, or a text where it is left open: its name, or "".
    """

    name: str
    opset: int
    operators: tuple[Operator, ...]
    constants: Mapping[str, Constant]
    inputs: Mapping[str, tuple[int | str, ...] | None]
    outputs: tuple[str, ...]


class Unsupported(Exception):
    """An operator in a form that gridnn's layers do not have; the text completes "Conv ..."."""
