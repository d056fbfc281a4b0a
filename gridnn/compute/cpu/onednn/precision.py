"""In which precision products are computed.

         factors                          sums, results, bias, and all arrays of the caller
float32  as they are                      float32
bfloat16 rounded: 8 bits of the 24,       float32
         the range of float32
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from gridnn.compute.cpu.onednn import header as api

if TYPE_CHECKING:
    from gridnn.compute.cpu.onednn.library import Library


class Operands(NamedTuple):
    """How the factors of products reach oneDNN.

    Attributes
    ----------
    name : as a configuration says it
    type : of their elements
    staged : whether they are copied before every product, even where the copy changes nothing
    """

    name: str
    type: int
    staged: bool


FLOAT32, BFLOAT16 = Operands("float32", api.F32, False), Operands("bfloat16", api.BF16, True)


def has_bfloat16(lib: Library) -> bool:
    """Whether oneDNN multiplies bfloat16 numbers by instructions of this processor, AVX512-BF16 or AMX-BF16.

    That it has a primitive is not enough: with any AVX-512 it has one, and where those instructions are missing
    it imitates them by several others.
    """
    if not lib.isa & api.ISA_BF16:
        return False
    x, w, y = ((32, 32), (32, 1), api.BF16), ((32, 32), None, api.BF16), ((32, 32), (32, 1), api.F32)
    layouts = (lib.layout(*x), lib.layout(*w), None, lib.layout(*y))
    return lib.description("inner_product_forward", lib.engine, api.FORWARD_TRAINING, *layouts) is not None
