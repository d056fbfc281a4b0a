"""Layer kinds: what each layer computes, as frozen values without numbers.

Shapes here are of one sample: ``(C, *space)`` with 1 to 3 space dims, or ``(F,)`` for features.
Windows are one per space dim.  The output shape of every kind is in `out_shape`, and nowhere else; the kinds of
recurrent networks are in `sequence`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from gridnn.errors import InputError
from gridnn.geometry.window import SpaceMap, TransposedWindow, Upsampling, Window
from gridnn.network.sequence import LSTM as LSTM
from gridnn.network.sequence import SEQUENCES as SEQUENCES
from gridnn.network.sequence import Attention as Attention
from gridnn.network.sequence import Embedding as Embedding
from gridnn.network.sequence import Join as Join
from gridnn.network.sequence import Steps as Steps
from gridnn.network.sequence import sequence_shape

Shape = tuple[int, ...]
ACTIVATIONS = ("relu", "gelu", "tanh", "sigmoid", "silu")
POOLS = ("max", "average")


@dataclass(frozen=True)
class Conv:
    """Convolution in 1 to 3 dims: W (K, C/groups, *kernel), b (K,)."""

    out: int
    windows: tuple[Window, ...]
    groups: int = 1
    bias: bool = True
    start: str = "he_uniform"  # first weights; "zeros" for the end of a residual branch


@dataclass(frozen=True)
class ConvTranspose:
    """Transposed convolution, the adjoint of a convolution in its input: W (C, K, *kernel), b (K,)."""

    out: int
    windows: tuple[TransposedWindow, ...]
    bias: bool = True


@dataclass(frozen=True)
class Linear:
    """Fully connected layer over features: W (K, C), b (K,)."""

    out: int
    bias: bool = True


@dataclass(frozen=True)
class Pool:
    """Max or average pooling; `count_pad` says whether padding counts in the average."""

    how: str
    windows: tuple[Window, ...]
    count_pad: bool = True


@dataclass(frozen=True)
class GlobalPool:
    """Max or average over all of space: (C, *space) to (C,)."""

    how: str = "average"


@dataclass(frozen=True)
class BatchNorm:
    """Batch normalisation over batch and space, with affine weights and running statistics (Ioffe & Szegedy 2015)."""

    eps: float = 1e-5
    momentum: float = 0.1


@dataclass(frozen=True)
class LayerNorm:
    """Normalisation of every sample over all its elements, with elementwise affine weights (Ba et al. 2016)."""

    eps: float = 1e-5


@dataclass(frozen=True)
class Activation:
    """Elementwise function: one of `ACTIVATIONS`."""

    name: str = "relu"


@dataclass(frozen=True)
class Dropout:
    """Zero elements with probability `rate` in training, scaling the others by 1 / (1 - rate)."""

    rate: float = 0.5


@dataclass(frozen=True)
class Add:
    """Sum of inputs of equal shape."""


@dataclass(frozen=True)
class Concat:
    """Inputs side by side along channels."""


@dataclass(frozen=True)
class Flatten:
    """(C, *space) to (C * space,), channels slowest."""


@dataclass(frozen=True)
class Upsample:
    """Upsampling by integer factors, nearest or linear (half-pixel centres)."""

    windows: tuple[Upsampling, ...]


@dataclass(frozen=True)
class SoftmaxCrossEntropy:
    """Loss: mean cross-entropy of softmax over channels against class numbers, per sample or per pixel."""

    smoothing: float = 0.0


@dataclass(frozen=True)
class MeanSquaredError:
    """Loss: mean of (prediction - target)^2 over all elements."""


LayerSpec = (
    Conv
    | ConvTranspose
    | Linear
    | Pool
    | GlobalPool
    | BatchNorm
    | LayerNorm
    | Activation
    | Dropout
    | Add
    | Concat
    | Flatten
    | Upsample
    | Embedding
    | LSTM
    | Attention
    | Join
    | SoftmaxCrossEntropy
    | MeanSquaredError
)
LOSSES = (SoftmaxCrossEntropy, MeanSquaredError)


def kind(spec: LayerSpec) -> str:
    """Return the short name of a layer kind, as tables show it."""
    if isinstance(spec, Activation):
        return spec.name
    if isinstance(spec, Pool | GlobalPool):
        return f"{'global ' if isinstance(spec, GlobalPool) else ''}{spec.how} pool"
    return {
        "ConvTranspose": "transposed conv",
        "BatchNorm": "batch norm",
        "LayerNorm": "layer norm",
        "SoftmaxCrossEntropy": "cross-entropy",
        "MeanSquaredError": "mean squared error",
    }.get(type(spec).__name__, type(spec).__name__.lower())


def out_shape(spec: LayerSpec, inputs: tuple[Shape, ...], name: str) -> Shape:
    """Return the output shape of one sample; losses return ``()``.

    Raises
    ------
    InputError
        If the inputs do not fit the layer; the message names the layer `name`.
    """
    if not inputs:
        raise InputError(f"layer {name}: has no input; name at least one")
    if isinstance(spec, SEQUENCES):
        return sequence_shape(spec, inputs, name)
    _check_numbers(spec, name)
    first, *others = inputs
    if isinstance(spec, Add | Concat):
        if any(
            o[0 if isinstance(spec, Add) else 1 :] != first[0 if isinstance(spec, Add) else 1 :]
            for o in others
        ):
            raise InputError(
                f"layer {name}: cannot {kind(spec)} inputs of shapes {', '.join(map(str, inputs))}"
            )
        return first if isinstance(spec, Add) else (sum(i[0] for i in inputs), *first[1:])
    if others:
        raise InputError(f"layer {name}: {kind(spec)} takes one input, {len(inputs)} are given")
    if isinstance(spec, LOSSES):
        return ()
    if isinstance(spec, Linear):
        if len(first) != 1:
            raise InputError(f"layer {name}: linear needs features (F,), its input is {first}; flatten first")
        return (spec.out,)
    if isinstance(spec, Flatten):
        return (prod(first),)
    if isinstance(spec, GlobalPool):
        _need_space(first, None, name, spec)
        return first[:1]
    if isinstance(spec, Conv | ConvTranspose | Pool | Upsample):
        return _slide(spec, first, name)
    return first


def _slide(spec: Conv | ConvTranspose | Pool | Upsample, shape: Shape, name: str) -> Shape:
    _need_space(shape, len(spec.windows), name, spec)
    windows: tuple[SpaceMap, ...] = spec.windows
    if isinstance(spec, Pool) and any(max(w.pad_lo, w.pad_hi) >= w.reach for w in spec.windows):
        raise InputError(f"layer {name}: padding must be less than the window, or it would pool padding only")
    space = tuple(w.out(e) for w, e in zip(windows, shape[1:], strict=True))
    if min(space) < 1:
        raise InputError(f"layer {name}: input {shape} is smaller than the window; output would be {space}")
    if isinstance(spec, Conv) and (shape[0] % spec.groups or spec.out % spec.groups):
        raise InputError(
            f"layer {name}: {spec.groups} groups must divide the {shape[0]} input and {spec.out} output channels"
        )
    return (spec.out if isinstance(spec, Conv | ConvTranspose) else shape[0], *space)


def _check_numbers(spec: LayerSpec, name: str) -> None:
    least_one: dict[str, int] = {}
    if isinstance(spec, Conv | ConvTranspose | Linear):
        least_one["outputs"] = spec.out
    if isinstance(spec, Conv):
        least_one["groups"] = spec.groups
    if isinstance(spec, Conv | ConvTranspose | Pool):
        for word in ("kernel", "stride", "dilation"):
            least_one[word] = min((getattr(w, word) for w in spec.windows), default=1)
    if isinstance(spec, Upsample):
        least_one["factor"] = min((w.factor for w in spec.windows), default=1)
    for word, number in least_one.items():
        if number < 1:
            raise InputError(f"layer {name}: {word} {number}; it must be at least 1")
    if isinstance(spec, Pool | GlobalPool) and spec.how not in POOLS:
        raise InputError(f'layer {name}: pool "{spec.how}" is not known; use one of {", ".join(POOLS)}')
    if isinstance(spec, Dropout) and not 0 <= spec.rate < 1:
        raise InputError(f"layer {name}: dropout rate {spec.rate}; it must be at least 0 and below 1")
    if isinstance(spec, SoftmaxCrossEntropy) and not 0 <= spec.smoothing < 1:
        raise InputError(f"layer {name}: label smoothing {spec.smoothing}; it must be at least 0 and below 1")


def _need_space(shape: Shape, dims: int | None, name: str, spec: LayerSpec) -> None:
    if len(shape) < 2 or (dims is not None and len(shape) != dims + 1):
        wanted = f"{dims} space dims" if dims else "space dims"
        raise InputError(f"layer {name}: {kind(spec)} needs {wanted}, its input is {shape}")
