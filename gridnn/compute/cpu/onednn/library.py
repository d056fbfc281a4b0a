"""A narrow binding of oneDNN's C API, version 3: find the library, describe arrays, compile, run.

What depends on shapes is done once and costs milliseconds, for oneDNN writes machine code; what
depends on addresses is done every call and must cost microseconds:

    once     shapes, strides --descriptors--> primitive descriptor --compile--> code, table of arguments
    a call   addresses --set_data_handle--> table of arguments --execute-->

A `Library` keeps what was compiled in `plans`, by a key of its caller, until the process ends. It
also owns the buffers that all primitives share: the scratchpad, and `staging` for arrays laid out
anew just before use (see stage). Sharing makes a `Library` an object for one Python thread. The number
of OpenMP threads is another matter: it is fixed into a primitive when it is compiled, so it must be
set before and left alone.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Hashable, Sequence
from ctypes import POINTER, byref, c_char_p, c_size_t, c_void_p
from pathlib import Path
from typing import Any

import numpy as np

from gridnn.compute.cpu.onednn import header as api
from gridnn.compute.cpu.onednn.header import NAME, Dims, OneDnnError
from gridnn.compute.cpu.onednn.precision import FLOAT32, Operands
from gridnn.errors import InputError


class Buffer:
    """Bytes from a 64-byte boundary on; `reserve` makes room, and may move them and lose what they held."""

    __slots__ = ("_bytes", "address", "size")

    def __init__(self, size: int) -> None:
        self.size = -1
        self.reserve(size)

    def reserve(self, size: int) -> None:
        """Grow to `size` bytes; never shrinks."""
        if size > self.size:
            self._bytes = np.empty(size + 64, np.uint8)
            start = self._bytes.ctypes.data
            self.size, self.address = size, start + -start % 64


class Library:
    """A loaded libdnnl with a CPU engine and a stream.

    Attributes
    ----------
    path : what was loaded
    operands : how the factors of its products reach it
    engine, stream, wait : handles, and whether the stream must be waited for
    version : (major, minor, patch)
    isa : bits of the instruction sets it uses on this processor; 0 where they are not x86
    plans : what callers compiled, by their keys; None for what oneDNN does not do well
    created : number of primitives compiled so far
    scratchpad, staging : buffers all primitives share; of `staging` one each for x, w and y or their gradients

    Raises
    ------
    OSError, AttributeError, OneDnnError
        If the file does not load or is of another major version, lacks a function, or finds no CPU.
    """

    def __init__(self, path: str, operands: Operands = FLOAT32) -> None:
        self._c = ctypes.CDLL(path)
        self._c.dnnl_version.restype = POINTER(api.Version)
        found = self._c.dnnl_version().contents
        self.path, self.version = path, (int(found.major), int(found.minor), int(found.patch))
        if found.major != 3:
            raise OSError(f"it is oneDNN {found.major}.{found.minor}, whose functions are others")
        for name, arguments in api.SIGNATURES.items():
            self._function(name).argtypes = arguments
        for name, result in (("primitive_desc_query_md", c_void_p), ("memory_desc_get_size", c_size_t)):
            self._function(name).restype = result
        self._c.dnnl_primitive_desc_query_md.argtypes = [c_void_p, ctypes.c_int, ctypes.c_int]
        self._c.dnnl_memory_desc_get_size.argtypes = [c_void_p]
        self._c.dnnl_memory_desc_equal.argtypes = [c_void_p, c_void_p]
        self.operands, self.isa = operands, int(self._c.dnnl_get_effective_cpu_isa())
        self.wait = found.cpu not in api.SYNCHRONOUS
        self.engine = self.made("engine_create", api.CPU, 0)
        self.stream = self.made("stream_create", self.engine, api.IN_ORDER)
        self._attributes = [self._attribute(relu) for relu in (False, True)]
        self._descriptors: dict[Hashable, int] = {}
        self.plans: dict[Hashable, Any] = {}
        self.created = 0
        self.scratchpad, self.staging = Buffer(0), (Buffer(0), Buffer(0), Buffer(0))

    def _function(self, name: str) -> Any:
        return getattr(self._c, "dnnl_" + name)

    def call(self, name: str, *arguments: Any) -> None:
        """Call ``dnnl_<name>`` and check the status it returns."""
        if status := self._function(name)(*arguments):
            raise OneDnnError("dnnl_" + name, status)

    def made(self, name: str, *arguments: Any) -> int:
        """The handle that ``dnnl_<name>`` creates in its first argument."""
        handle = c_void_p()
        self.call(name, byref(handle), *arguments)
        return handle.value or 0

    def _attribute(self, relu: bool) -> int:
        attribute = self.made("primitive_attr_create")
        self.call("primitive_attr_set_scratchpad_mode", attribute, api.SCRATCHPAD_BY_USER)
        if relu:
            chain = self.made("post_ops_create")
            self.call("post_ops_append_eltwise", chain, api.HARDSWISH, api.STEEP, 0.0)
            self.call("primitive_attr_set_post_ops", attribute, chain)
        return attribute

    def layout(self, shape: Sequence[int], strides: Sequence[int] | None, element: int = api.F32) -> int:
        """Memory descriptor of an array; `strides` in elements, None leaves the layout to oneDNN."""
        key = (tuple(shape), strides and tuple(strides), element)
        if key not in self._descriptors:
            sizes = (len(shape), Dims(*shape), element)
            if strides is None:
                made = self.made("memory_desc_create_with_tag", *sizes, api.ANY_LAYOUT)
            else:
                made = self.made("memory_desc_create_with_strides", *sizes, Dims(*strides))
            self._descriptors[key] = made
        return self._descriptors[key]

    def element(self, argument: int) -> int:
        """Type of the elements of an argument of a product: as the operands say, or float32 for what it gives."""
        return self.operands.type if argument in api.OPERANDS else api.F32

    def same(self, one: int, other: int) -> bool:
        """Whether two memory descriptors say the same."""
        return bool(self._c.dnnl_memory_desc_equal(one, other))

    def size(self, layout: int) -> int:
        """Bytes of an array of this layout, its padding included."""
        return int(self._c.dnnl_memory_desc_get_size(layout))

    def description(self, operation: str, *arguments: Any, relu: bool = False) -> int | None:
        """Primitive descriptor of an operation with these arguments, sequences of integers among them.

        None where oneDNN has nothing for it, or only its reference loops, which any other engine beats.
        """
        given = [Dims(*a) if isinstance(a, tuple) else a for a in arguments]
        try:
            made = self.made(f"{operation}_primitive_desc_create", *given, self._attributes[relu])
        except OneDnnError as error:
            if error.status == api.UNIMPLEMENTED:
                return None
            raise
        # A reorder is taken as it is: nobody else knows the layouts of oneDNN's own choice.
        slow = operation != "reorder" and self.implementation(made).startswith("ref")
        return None if slow else made

    def implementation(self, description: int) -> str:
        """OneDNN's name of the code behind a primitive descriptor, such as ``jit:avx2``."""
        text = c_char_p()
        self.call("primitive_desc_query", description, api.QUERY_NAME, 0, byref(text))
        return (text.value or b"").decode()

    def advance(self, description: int, name: str) -> bool:
        """Move a primitive descriptor on to oneDNN's code of this name; False, and it is spent, if it has none."""
        try:
            while self.implementation(description) != name:
                self.call("primitive_desc_next_impl", description)
        except OneDnnError as error:
            if error.status == api.LAST_REACHED:
                return False
            raise
        return True

    def chosen(self, description: int, argument: int) -> int:
        """Memory descriptor that a primitive descriptor wants for an argument."""
        return self._c.dnnl_primitive_desc_query_md(description, api.QUERY_ARGUMENT, argument) or 0

    def compile(self, description: int, arguments: Sequence[int]) -> Callable[..., None]:
        """Compile a primitive; what returns runs it on the addresses of these arguments, in this order."""
        self.created += 1
        primitive = self.made("primitive_create", description)
        needed = self.size(self.chosen(description, api.SCRATCHPAD))
        self.scratchpad.reserve(needed)
        numbers = (*arguments, api.SCRATCHPAD) if needed else tuple(arguments)
        layouts = [self.chosen(description, number) for number in numbers]
        memories = [self.made("memory_create", layout, self.engine, None) for layout in layouts]
        count, table = len(numbers), [api.Argument(n, m) for n, m in zip(numbers, memories, strict=True)]
        entries = (api.Argument * count)(*table)
        stream, scratchpad, last = self.stream, self.scratchpad, (0,) * count
        set_address, execute = self._c.dnnl_memory_set_data_handle, self._c.dnnl_primitive_execute

        def run(*addresses: int) -> None:
            nonlocal last
            if needed:
                addresses = (*addresses, scratchpad.address)
            if addresses != last:  # in training they repeat every step
                last = (0,) * count
                for memory, address in zip(memories, addresses, strict=True):
                    if status := set_address(memory, address):
                        raise OneDnnError("dnnl_memory_set_data_handle", status)
                last = addresses
            if status := execute(primitive, stream, count, entries):
                raise OneDnnError("dnnl_primitive_execute", status)
            if self.wait:
                self.call("stream_wait", stream)

        return run


def find(path: str | None = None, operands: Operands = FLOAT32) -> Library | None:
    """OneDNN at a path (the library or the prefix it is installed under), else where it may be expected.

    Without a path: the prefix of the interpreter, where a wheel puts it, then the loader's own search.

    Returns
    -------
    The library, or None if no path was given and nothing usable was found.

    Raises
    ------
    InputError
        If a path was given that cannot be used.
    """
    unusable = (OSError, AttributeError, OneDnnError)
    if path is None:
        for place in (str(Path(sys.prefix, "lib", NAME)), NAME):
            try:
                return Library(place, operands)
            except unusable:
                continue
        return None
    needed = f"Needed is {NAME} of oneDNN 3, or the prefix whose lib/ or lib64/ holds it."
    hint = "Give another path, or none: gridnn then searches by itself and can do without oneDNN."
    places = [Path(path)] if not Path(path).is_dir() else [Path(path, d, NAME) for d in ("lib", "lib64", "")]
    present = [place for place in places if place.is_file()]
    if not present:
        raise InputError(f"No oneDNN at {path!r}. {needed} {hint}")
    try:
        return Library(str(present[0].resolve()), operands)
    except unusable as reason:
        raise InputError(
            f"{str(present[0])!r} cannot be used as oneDNN: {reason}. {needed} {hint}"
        ) from reason
