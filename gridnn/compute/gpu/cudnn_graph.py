"""A convolution as cuDNN is told of it: a graph of one pass, and the plan that cuDNN makes for it, once.

    Asked: pass, arrays, window, notes   --described-->   graph   --planned-->   Plan: what is executed

| pass             | reads   | writes | graph                                   |
|------------------|---------|--------|-----------------------------------------|
| forward          | x, w, b | y      | conv_fprop, bias if there is one, relu  |
| backward_data    | y, w    | x      | conv_dgrad                              |
| backward_weights | x, y    | w      | conv_wgrad                              |

Arrays are told by extents and strides, so a block between margins needs no copy of ours:

    memory   |  margin  | C C C | C C C |  margin  | ...      dims     N, K or C, [D,] H, W
                        ^ address                             strides  elements, 1 for channels

Engines with tensor cores make one in their workspace, and those without turn dense arrays of float32 over there (cuDNN
9.28, asked for plans for an H200): a plan may take as many bytes as its arrays have, and some more.

Two or three spatial dims are cuDNN's: of one dim it is told two, the first of one element.  Groups are not told: they
follow from the channels of x and of w.

Pads before and behind are told apart, as blocks at an edge of the image need, but cuDNN 9.28 says of its last resort
for float32 that it takes equal ones only.  Where there is no plan for that reason, zeros are put around a copy of x:

    pads (1, 0) of     | x x x x |     are pads (0, 0) of     | 0 x x x x |     a `framed` pass

Source: NVIDIA, cuDNN frontend (Python): operations of convolution, tensors, graphs; https://docs.nvidia.com/deeplearning/cudnn
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any, Literal, NamedTuple

from gridnn.compute.cpu.window import Window
from gridnn.compute.gpu.device import Array

Ints = tuple[int, ...]
Pass = Literal["forward", "backward_data", "backward_weights"]
WRITES: Mapping[Pass, str] = {"forward": "y", "backward_data": "x", "backward_weights": "w"}
"""Which array a pass computes."""
TYPES: Mapping[str, str] = {"float32": "FLOAT", "bfloat16": "BFLOAT16"}
"""What cuDNN calls a dtype, by NumPy's name.  float64 is left to own kernels: it is for checking, not for speed."""
BYTES: Mapping[str, int] = {"float32": 4, "bfloat16": 2}
WORKSPACE_BYTES = 1 << 28
"""Most that a plan may take beside its arrays and copies of them.  An estimate; not yet measured."""


class Form(NamedTuple):
    """An array (N, C, *S) as cuDNN is told of it: extents, strides in elements, name of the dtype."""

    dims: Ints
    strides: Ints
    dtype: str


class Asked(NamedTuple):
    """A pass: what makes it another one for cuDNN, and nothing else.

    Parameters
    ----------
    x, w, y : Form
        (N, C, *S), (K, C / groups, *R), (N, K, *O); gradients have the forms of what they are gradients of.
    window : Window
        In as many dims as the forms have.
    bias : str
        The dtype of a bias (K,) that is added, "" for none.
    relu : bool
        Whether the sum is rectified.
    notes : tuple of str
        Of cuDNN's numerical notes, those that a plan must not have.
    """

    kind: Pass
    x: Form
    w: Form
    y: Form
    window: Window
    bias: str = ""
    relu: bool = False
    notes: tuple[str, ...] = ()

    @property
    def bare(self) -> Asked:
        """The same without bias and rectifier."""
        return self._replace(bias="", relu=False)

    @property
    def workspace_bytes(self) -> int:
        """The most that a plan may take: with less, of large arrays only those are left that are never fast."""
        return WORKSPACE_BYTES + sum(prod(of.dims) * BYTES[of.dtype] for of in (self.x, self.w, self.y))


class Plan(NamedTuple):
    """What cuDNN executes.

    Parameters
    ----------
    tensors
        Of the graph, by the name of the array that is to stand for each.
    whole : bool
        Whether bias and rectifier are computed, too, where they were asked for.
    frame : tuple of tuple of int
        Zeros around x, before and behind it in each spatial dim; () where x is read or written as it lies.
    """

    graph: Any
    tensors: Mapping[str, Any]
    workspace_bytes: int
    whole: bool = True
    frame: tuple[tuple[int, int], ...] = ()


def form(array: Array) -> Form:
    """Return what cuDNN is told of an array (N, C, *S) whose channels are innermost.

    Over an extent of one nobody steps, so its stride may be anything for NumPy; cuDNN finds the order of memory in
    strides, and is told the one that a dense array would have there.
    """
    dims, steps = list(array.shape), [stride // array.itemsize for stride in array.strides]
    if len(dims) == 3:
        dims.insert(2, 1)
        steps.insert(2, 0)
    below = 1
    for dim in (1, *range(len(dims) - 1, 1, -1), 0):  # as memory goes, from the innermost
        if dims[dim] == 1:
            steps[dim] = below
        below = steps[dim] * dims[dim]
    return Form(tuple(dims), tuple(steps), array.dtype.name)


def framed(asked: Asked) -> tuple[Asked, tuple[tuple[int, int], ...]]:
    """Return the same pass of an x with so many zeros around it that pads are equal, and how many these are.

    The x of that pass is dense; a gradient by it is wanted in the middle only.
    """
    window = asked.window
    sides = [(lo, hi, min(lo, hi)) for lo, hi in zip(window.pad_lo, window.pad_hi, strict=True)]
    frame = tuple((lo - both, hi - both) for lo, hi, both in sides)
    n, c, *space = asked.x.dims
    space = [extent + lo + hi for extent, (lo, hi) in zip(space, frame, strict=True)]
    steps = [1]
    for extent in (c, *space[:0:-1]):
        steps.append(steps[-1] * extent)
    x = Form((n, c, *space), (steps[-1] * space[0], 1, *steps[:0:-1]), asked.x.dtype)
    equal = tuple(both for _, _, both in sides)
    return asked._replace(x=x, window=window._replace(pad_lo=equal, pad_hi=equal)), frame


def raised(window: Window) -> Window:
    """Return a window in two dims at least: over a dim of one element it is one element."""
    if len(window.kernel) > 1:
        return window
    return Window(*((fill, *values) for values, fill in zip(window, (1, 1, 1, 0, 0), strict=True)))


def described(cudnn: Any, handle: Any, asked: Asked) -> tuple[Any, dict[str, Any]]:
    """Return the graph of a pass and its tensors by the names of their arrays; nothing is asked of a device yet.

    Parameters
    ----------
    cudnn
        The module of cuDNN's frontend.
    handle
        Of the device, as `cudnn.create_handle` gave it.
    """
    graph = cudnn.pygraph(
        name=asked.kind, io_data_type=_type(cudnn, asked.x.dtype), intermediate_data_type=cudnn.data_type.FLOAT,
        compute_data_type=cudnn.data_type.FLOAT, handle=handle,
    )  # fmt: skip
    given = {"x": asked.x, "w": asked.w, "y": asked.y}
    written = WRITES[asked.kind]
    target = given.pop(written)
    if asked.bias:
        outputs = target.dims[1]
        dims = (1, outputs, *(1,) * (len(target.dims) - 2))
        given["bias"] = Form(dims, (outputs, 1, *(outputs,) * (len(dims) - 2)), asked.bias)
    tensors = {name: _tensor(cudnn, graph, name, of) for name, of in given.items()}
    found = _convolved(graph, asked, tensors)
    if asked.bias:
        found = graph.bias(name="add_bias", input=found, bias=tensors["bias"])
    if asked.relu:
        found = graph.relu(name="rectify", input=found)
    found.set_output(True)
    # A gradient's extents cannot be inferred, and strides would be those of a dense array.
    found.set_dim(list(target.dims))
    found.set_stride(list(target.strides))
    found.set_data_type(_type(cudnn, target.dtype))
    tensors[written] = found
    return graph, tensors


def planned(cudnn: Any, handle: Any, asked: Asked) -> Plan:
    """Return cuDNN's plan for a pass: the best by its heuristics that has none of the forbidden notes.

    Raises
    ------
    cudnn.cudnnGraphNotSupportedError, RuntimeError, ValueError
        Where cuDNN has none, or refuses what it is told.
    """
    graph, tensors = described(cudnn, handle, asked)
    graph.validate()
    graph.build_operation_graph()
    graph.create_execution_plans([cudnn.heur_mode.A, cudnn.heur_mode.FALLBACK])
    # Only now: what is said before there are plans is said of none.
    graph.deselect_numeric_notes([getattr(cudnn.numerical_note, note) for note in asked.notes])
    graph.deselect_workspace_greater_than(asked.workspace_bytes)
    graph.check_support()
    graph.build_plans()
    return Plan(graph, tensors, int(graph.get_workspace_size()))


def _convolved(graph: Any, asked: Asked, tensors: Mapping[str, Any]) -> Any:
    """Return the tensor of the convolution itself."""
    window = asked.window
    said = {
        "pre_padding": list(window.pad_lo), "post_padding": list(window.pad_hi), "stride": list(window.stride),
        "dilation": list(window.dilation), "name": asked.kind,
    }  # fmt: skip
    if asked.kind == "forward":
        return graph.conv_fprop(image=tensors["x"], weight=tensors["w"], **said)
    if asked.kind == "backward_data":
        return graph.conv_dgrad(loss=tensors["y"], filter=tensors["w"], **said)
    return graph.conv_wgrad(image=tensors["x"], loss=tensors["y"], **said)


def _tensor(cudnn: Any, graph: Any, name: str, of: Form) -> Any:
    return graph.tensor(
        name=name, dim=list(of.dims), stride=list(of.strides), data_type=_type(cudnn, of.dtype)
    )


def _type(cudnn: Any, dtype: str) -> Any:
    return getattr(cudnn.data_type, TYPES[dtype])
