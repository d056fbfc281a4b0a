"""Graphs told to NVIDIA's own frontend, where it is installed: all that it checks without a device."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gridnn.compute.cpu.window import Window
from gridnn.compute.gpu.cudnn import forbidden
from gridnn.compute.gpu.cudnn_graph import Asked, Form, Pass, described, form, framed, raised
from tests.compute.gpu.test_conv import CASES, Case, inner

cudnn = pytest.importorskip("cudnn")
HANDLE = 1
"""Of a device that nobody looks at before plans are made; without one the frontend makes its own."""


def needs_library() -> None:
    """Skip without libcudnn: a graph is checked for its version."""
    try:
        cudnn.backend_version()
    except RuntimeError as error:
        pytest.skip(f"the frontend is here, but no libcudnn: {error}")


ONE_SIDED = Case((2, 8, 9, 8), 16, 1, Window((3, 3), (2, 1), (1, 1), (1, 0), (0, 1)), ())


def asked(case: Case, kind: Pass, dtype: str = "float32", gaps: bool = False, **words: Any) -> Asked:
    """Return a pass of a case; x and y are the middle of larger arrays if asked."""

    def middle(shape: tuple[int, ...]) -> Form:
        margin = 2 if gaps else 0
        wide = inner(np.zeros((*shape[:2], *(n + 2 * margin for n in shape[2:])), np.float32))
        inside = tuple(slice(margin, margin + n) for n in shape[2:])
        found = form(wide[(slice(None), slice(None), *inside)])
        return found._replace(dtype=dtype)

    w = form(inner(np.zeros((case.outputs, case.x[1] // case.groups, *case.window.kernel), np.float32)))
    w = w._replace(dtype="float32" if kind == "backward_weights" else dtype)
    y = (case.x[0], case.outputs, *case.window.outs(case.x[2:]))
    return Asked(
        kind, middle(case.x), w, middle(y), raised(case.window), notes=forbidden(dtype, "bf16", True), **words
    )


@pytest.mark.parametrize("gaps", [False, True])
@pytest.mark.parametrize("case", [*CASES, ONE_SIDED], ids=str)
@pytest.mark.parametrize("kind", ["forward", "backward_data", "backward_weights"])
def test_graphs_are_valid(case: Case, kind: Pass, gaps: bool) -> None:
    needs_library()
    for dtype in ("float32", "bfloat16"):
        last = {"bias": "float32", "relu": True} if kind == "forward" else {}
        plain = asked(case, kind, dtype, gaps)
        for wanted in (plain, asked(case, kind, dtype, gaps, **last), framed(plain)[0]):
            graph, tensors = described(cudnn, HANDLE, wanted)
            graph.validate()
            for name in ("x", "w", "y"):
                told: Form = getattr(wanted, name)
                assert tuple(tensors[name].get_dim()) == told.dims
                assert tuple(tensors[name].get_stride()) == told.strides


def test_names_of_the_frontend() -> None:
    notes = {*forbidden("float32", "float32", True), *forbidden("bfloat16", "bf16", True)}
    assert all(hasattr(cudnn.numerical_note, note) for note in notes)
    assert hasattr(cudnn.heur_mode, "A") and hasattr(cudnn.heur_mode, "FALLBACK")
    for name in ("validate", "build_operation_graph", "create_execution_plans", "deselect_numeric_notes",
                 "deselect_workspace_greater_than", "check_support", "build_plans", "get_workspace_size",
                 "execute"):  # fmt: skip
        assert hasattr(cudnn.pygraph, name)
    for name in ("create_handle", "set_stream", "backend_version_string", "cudnnGraphNotSupportedError"):
        assert hasattr(cudnn, name)


def test_a_gradient_needs_its_extents() -> None:
    """As the stand-in of the other tests has it."""
    needs_library()
    graph, tensors = described(cudnn, HANDLE, asked(ONE_SIDED, "backward_data"))
    graph = cudnn.pygraph(
        io_data_type=cudnn.data_type.FLOAT, compute_data_type=cudnn.data_type.FLOAT, handle=HANDLE
    )
    dy, w = (
        graph.tensor(name=n, dim=tensors[n].get_dim(), stride=tensors[n].get_stride()) for n in ("y", "w")
    )
    window = {"pre_padding": [1, 0], "post_padding": [0, 1], "stride": [2, 1], "dilation": [1, 1]}
    graph.conv_dgrad(loss=dy, filter=w, **window).set_output(True)
    with pytest.raises(Exception, match="dimension inferencing is not possible"):
        graph.validate()
