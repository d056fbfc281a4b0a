"""A primitive between the caller's arrays and the layouts and types that it wants.

What it wants otherwise goes through a buffer of the library, at every call: in training, arrays change between calls.

                       caller        buffer            primitive   buffer         caller
    forward            x, w   --->   x', w'  --------> product --------------->   y
    backward_data      dy, w  --->   dy', w' --------> product --------------->   dx
    backward_weights   x, dy  --->   x', dy' --------> product ---> dw' ------>   dw

    moved are          always            w, dw where oneDNN chose another layout for them
                       with bfloat16     x, dy and w: their copies are bfloat16; y, dx, dw are float32

A move is a reorder of oneDNN: one pass over memory that changes layout and type at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gridnn.compute.cpu.onednn import header as api
from gridnn.compute.cpu.onednn.library import Buffer, Library

Run = Callable[..., None]


def compile_staged(lib: Library, description: int, arguments: Sequence[int], given: Sequence[int]) -> Run:
    """Compile a primitive for arrays of the caller's layouts.

    Parameters
    ----------
    description
        Primitive descriptor.
    arguments
        Numbers of x, w and y or their gradients, and of the bias if there is one.
    given
        Memory descriptors of the caller's arrays, in the same order.

    Returns
    -------
    A function of the addresses of the caller's arrays, in the same order.
    """
    main = lib.compile(description, arguments)
    before: list[tuple[int, Run, Buffer]] = []
    after: list[tuple[int, Run, Buffer]] = []
    for place, (argument, layout) in enumerate(zip(arguments, given, strict=True)):
        wanted = lib.chosen(description, argument)
        copied = lib.operands.staged and argument in api.OPERANDS
        if lib.same(layout, wanted) and not copied:
            continue
        buffer = lib.staging[place]
        buffer.reserve(lib.size(wanted))
        if argument in api.RESULTS:
            after.append((place, reorder(lib, wanted, layout), buffer))
        else:
            before.append((place, reorder(lib, layout, wanted), buffer))
    if not before and not after:
        return main

    def run(*addresses: int) -> None:
        used = list(addresses)
        for place, move, buffer in before:
            move(addresses[place], buffer.address)
            used[place] = buffer.address
        for place, _, buffer in after:
            used[place] = buffer.address
        main(*used)
        for place, move, buffer in after:
            move(buffer.address, addresses[place])

    return run


def reorder(lib: Library, source: int, target: int) -> Run:
    """Compiled copy from one layout to another; a function of the addresses of source and target."""
    made = lib.description("reorder", source, lib.engine, target, lib.engine)
    if made is None:  # it has one for every pair of layouts and types that its products take
        raise api.OneDnnError("dnnl_reorder_primitive_desc_create", api.UNIMPLEMENTED)
    return lib.compile(made, (api.SRC, api.DST))
