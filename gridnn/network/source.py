"""Where a network comes from, in a form that a command line and a plan file can hold.

| word                         | network                              | input and classes                             |
|------------------------------|--------------------------------------|-----------------------------------------------|
| ``resnet50``, ``digits_cnn`` | of the zoo; "_" and "-" are the same | those of its paper, unless given              |
| ``model.onnx``               | what the file describes              | the file's; an input it leaves open is given  |
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gridnn.errors import InputError
from gridnn.network import zoo
from gridnn.network.graph import Network

KEYS = ("name", "file", "input", "classes", "options")


@dataclass(frozen=True)
class Source:
    """Where a network comes from.

    Attributes
    ----------
    word
        Name in the zoo, or path of an ONNX file.
    input_shape, classes
        Shape of one sample and number of classes; None: the usual ones of the zoo, or those of the file.
    options
        Of the zoo's network; of a file with several outputs, "output" names the one to take.
    """

    word: str
    input_shape: tuple[int, ...] | None = None
    classes: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_file(self) -> bool:
        """True for an ONNX file."""
        return Path(self.word).suffix.lower() == ".onnx"

    def table(self) -> dict[str, Any]:
        """Return the source as a table of plain values; `read_source` reads it back."""
        table: dict[str, Any] = {"file" if self.is_file else "name": self.word}
        if self.input_shape is not None:
            table["input"] = list(self.input_shape)
        if self.classes is not None:
            table["classes"] = self.classes
        if self.options:
            table["options"] = dict(self.options)
        return table


def open_network(source: Source) -> Network:
    """Build or read the network of a source.

    Raises
    ------
    InputError
        If the zoo does not know it, its input or options do not fit, or the file cannot be read.
    """
    if not source.is_file:
        shape, classes = zoo.usual_input(source.word)
        shape = source.input_shape or shape
        return zoo.build(source.word, shape, source.classes or classes, **source.options)
    if source.classes is not None or set(source.options) - {"output"}:
        raise InputError(
            f'{source.word}: an ONNX file has its classes and takes no option but "output"; leave the others out'
        )
    # Imported here because few plans are of a file, and the reader needs a package of its own.
    from gridnn.network.onnx.read import read_onnx

    return read_onnx(source.word, output=source.options.get("output"), input_shape=source.input_shape)


def parse_source(
    word: str, input_shape: str | None = None, classes: int | None = None, options: Sequence[str] = ()
) -> Source:
    """Read a source from the words of a command line.

    Parameters
    ----------
    input_shape
        Extents of one sample such as "3,224,224".
    options
        Texts such as "width=32"; values are TOML, and what is no TOML is text.

    Raises
    ------
    InputError
        If a shape or an option cannot be read.
    """
    shape = None
    if input_shape is not None:
        extents = [part.strip() for part in input_shape.replace("x", ",").split(",")]
        if not all(part.isdecimal() and int(part) for part in extents):
            raise InputError(f'input "{input_shape}": write channels and extents such as 3,224,224')
        shape = tuple(map(int, extents))
    if classes is not None and classes < 1:
        raise InputError(f"{classes} classes; a network needs at least 1")
    return Source(word, shape, classes, dict(map(_option, options)))


def read_source(table: object) -> Source:
    """Read a source from its table.

    Raises
    ------
    InputError
        If it is not one.
    """
    if not isinstance(table, dict) or not set(table) <= set(KEYS) or ("name" in table) == ("file" in table):
        raise InputError(
            f'{json.dumps(table)} is no network; it needs "name" of the zoo or "file", and may have "input", '
            '"classes" and "options"'
        )
    word, shape = table.get("name", table.get("file")), table.get("input")
    classes, options = table.get("classes"), table.get("options", {})
    if not isinstance(word, str) or not isinstance(options, dict):
        raise InputError(f"network {json.dumps(word)}: the name must be a text, options a table")
    if shape is not None and not (
        isinstance(shape, list) and shape and all(type(e) is int and e > 0 for e in shape)
    ):
        raise InputError(f"network {word}: input {json.dumps(shape)} must be a list such as [3, 224, 224]")
    if classes is not None and (type(classes) is not int or classes < 1):
        raise InputError(
            f"network {word}: {json.dumps(classes)} classes; it needs a whole number, at least 1"
        )
    source = Source(word, None if shape is None else tuple(shape), classes, options)
    if source.is_file != ("file" in table):
        raise InputError(f'network {word}: a path that ends in .onnx goes under "file", a name under "name"')
    return source


def _option(text: str) -> tuple[str, Any]:
    name, equals, value = (part.strip() for part in text.partition("="))
    if not equals or not name or not value:
        raise InputError(f'option "{text}": write name=value, such as width=32')
    try:
        parsed = tomllib.loads(f"value = {value}")
    except tomllib.TOMLDecodeError:
        return name, value
    return name, parsed["value"] if len(parsed) == 1 else value
