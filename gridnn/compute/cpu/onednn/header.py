"""Names and numbers of oneDNN's C API, version 3: those of dnnl.h, dnnl_types.h and dnnl_common_types.h in use here."""

from __future__ import annotations

from ctypes import POINTER, Structure, c_char_p, c_float, c_int, c_int64, c_size_t, c_uint, c_void_p
from typing import Any

NAME = "libdnnl.so.3"

SRC, DST, WEIGHTS, BIAS, DIFF_SRC, DIFF_DST, DIFF_WEIGHTS, SCRATCHPAD = 1, 17, 33, 41, 129, 145, 161, 80
"""Numbers of the arguments of a primitive."""

OPERANDS, RESULTS = (SRC, WEIGHTS, DIFF_DST), (DST, DIFF_SRC, DIFF_WEIGHTS)
"""The factors of a product, and what it may give."""

F32, BF16 = 3, 2
"""Types of elements."""

FORWARD_TRAINING, CONVOLUTION_DIRECT, HARDSWISH = 64, 1, 0x34
STEEP = 3e38
"""Rectified is s max(0, min(1, STEEP s)), a hard swish, which what is not a number comes through; its own ReLU makes
zero of that."""
ANY_LAYOUT, CPU, IN_ORDER, SCRATCHPAD_BY_USER = 1, 1, 1, 1
QUERY_NAME, QUERY_ARGUMENT = 8, 255

ISA_BF16 = 0x80
"""Of the instruction sets of a processor, the bit of AVX512-BF16; every set with AMX-BF16 has it too."""

UNIMPLEMENTED, LAST_REACHED = 3, 4
STATUS = {1: "out of memory", 2: "invalid arguments", UNIMPLEMENTED: "unimplemented", 5: "runtime error"}

SYNCHRONOUS = (1, 2, 4)
"""Sequential, OpenMP and TBB builds return from `execute` when the work is done; others must be waited for."""

Dims = c_int64 * 12
_out, _h, _dims = POINTER(c_void_p), c_void_p, POINTER(c_int64)
SIGNATURES: dict[str, list[Any]] = {
    "engine_create": [_out, c_int, c_size_t],
    "stream_create": [_out, _h, c_uint],
    "stream_wait": [_h],
    "memory_desc_create_with_strides": [_out, c_int, _dims, c_int, _dims],
    "memory_desc_create_with_tag": [_out, c_int, _dims, c_int, c_int],
    "memory_create": [_out, _h, _h, _h],
    "memory_set_data_handle": [_h, _h],
    "primitive_attr_create": [_out],
    "primitive_attr_set_scratchpad_mode": [_h, c_int],
    "primitive_attr_set_post_ops": [_h, _h],
    "post_ops_create": [_out],
    "post_ops_append_eltwise": [_h, c_int, c_float, c_float],
    "primitive_desc_query": [_h, c_int, c_int, _h],
    "primitive_desc_next_impl": [_h],
    "primitive_create": [_out, _h],
    "primitive_execute": [_h, _h, c_int, _h],
    "convolution_forward_primitive_desc_create": [_out, _h, c_int, c_int, *[_h] * 4, *[_dims] * 4, _h],
    "convolution_backward_data_primitive_desc_create": [_out, _h, c_int, *[_h] * 3, *[_dims] * 4, _h, _h],
    "convolution_backward_weights_primitive_desc_create": [_out, _h, c_int, *[_h] * 4, *[_dims] * 4, _h, _h],
    "inner_product_forward_primitive_desc_create": [_out, _h, c_int, *[_h] * 5],
    "inner_product_backward_data_primitive_desc_create": [_out, *[_h] * 6],
    "inner_product_backward_weights_primitive_desc_create": [_out, *[_h] * 7],
    "reorder_primitive_desc_create": [_out, *[_h] * 5],
}
"""Every function used that returns a status, without its prefix ``dnnl_``, and its arguments."""


class Version(Structure):
    """What ``dnnl_version`` points to."""

    _fields_ = (
        ("major", c_int), ("minor", c_int), ("patch", c_int), ("hash", c_char_p), ("cpu", c_uint), ("gpu", c_uint)
    )  # fmt: skip


class Argument(Structure):
    """An argument of ``dnnl_primitive_execute``."""

    _fields_ = (("number", c_int), ("memory", c_void_p))


class OneDnnError(RuntimeError):
    """A call of oneDNN that failed: `call` is its name, `status` the number it returned."""

    def __init__(self, call: str, status: int) -> None:
        super().__init__(f"{call} returned {status} ({STATUS.get(status, 'see dnnl_status_t')})")
        self.call, self.status = call, status
