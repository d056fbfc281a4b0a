"""Ready networks by name.

    build("alexnet", (3, 227, 227), 1000, dropout_rate=0.0)
    usual("resnet50")                                           input and classes of its paper

Every family is one file; options are the keyword parameters of its function, checked here against their
defaults.  `names` lists the networks, `options` what each takes.  A name may have "_" for "-" and the reverse.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import Any

from gridnn.errors import InputError
from gridnn.network.graph import Network
from gridnn.network.zoo.alexnet import alexnet, alexnet_single
from gridnn.network.zoo.digits import digits_cnn
from gridnn.network.zoo.inception import inception_v3
from gridnn.network.zoo.lenet import lenet
from gridnn.network.zoo.mlp import mlp
from gridnn.network.zoo.recurrent import nmt, rnnlm, rnntc
from gridnn.network.zoo.resnet import resnet18, resnet20, resnet50, resnet101
from gridnn.network.zoo.unet import denoiser, unet
from gridnn.network.zoo.vgg import vgg16

_ZOO: dict[str, Callable[..., Network]] = {
    "digits-cnn": digits_cnn,
    "mlp": mlp,
    "lenet": lenet,
    "alexnet": alexnet,
    "alexnet-single": alexnet_single,
    "vgg16": vgg16,
    "resnet20": resnet20,
    "resnet18": resnet18,
    "resnet50": resnet50,
    "resnet101": resnet101,
    "inception_v3": inception_v3,
    "unet": unet,
    "denoiser": denoiser,
    "rnntc": rnntc,
    "rnnlm": rnnlm,
    "nmt": nmt,
}
# Input and classes of the paper of each, or of its usual data: what `usual` builds.
_USUAL: dict[str, tuple[tuple[int, ...], int | None]] = {
    "digits-cnn": ((1, 8, 8), 10),
    "mlp": ((1, 28, 28), 10),
    "lenet": ((1, 28, 28), 10),
    "alexnet": ((3, 227, 227), 1000),
    "alexnet-single": ((3, 227, 227), 1000),
    "resnet20": ((3, 32, 32), 10),
    "inception_v3": ((3, 299, 299), 1000),
    "unet": ((1, 512, 512), 2),
    "denoiser": ((1, 40, 40), None),
    "rnntc": ((1, 40), 2),
    "rnnlm": ((1, 40), 10_000),
    "nmt": ((1, 80), 32_000),
}


def names() -> tuple[str, ...]:
    """Names that `build` knows."""
    return tuple(_ZOO)


def options(name: str) -> dict[str, Any]:
    """Return the options of a network and their defaults.

    Raises
    ------
    InputError
        If the name is not known.
    """
    parameters = inspect.signature(_find(name)).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def build(name: str, input_shape: Sequence[int], classes: int | None = None, **chosen: Any) -> Network:
    """Build a network of the zoo.

    Parameters
    ----------
    input_shape
        Shape of one sample: (C, *space), or (F,) for "mlp".
    classes
        Number of classes: the output features, or channels per pixel; "denoiser" needs none.
    chosen
        Options by name (see `options`).

    Raises
    ------
    InputError
        If the name or an option is not known, a value does not fit, or the input is too small.
    """
    function, known = _find(name), options(name)
    shape = tuple(input_shape)
    if not shape or min(shape) < 1:
        raise InputError(f"network {name}: input shape {shape}; give channels and extents, all at least 1")
    needs_classes = inspect.signature(function).parameters["classes"].default is inspect.Parameter.empty
    if classes is None and needs_classes:
        raise InputError(f"network {name}: the number of classes is not given; give it, at least 1")
    if classes is not None and classes < 1:
        raise InputError(f"network {name}: {classes} classes; it needs at least 1")
    values = {}
    for option, value in chosen.items():
        if option not in known:
            raise InputError(f'network {name}: unknown option "{option}"; {_suggest(option, tuple(known))}')
        values[option] = _fit(f"network {name}: option {option}", value, known[option])
    try:
        return function(shape, classes, **values)
    except InputError as error:
        if str(error).startswith("network"):
            raise
        raise InputError(f"network {name} with input {shape}: {error}") from error


def usual(name: str, **chosen: Any) -> Network:
    """Build a network for the input and the number of classes of its paper.

    Raises
    ------
    InputError
        As `build`.
    """
    return build(name, *usual_input(name), **chosen)


def usual_input(name: str) -> tuple[tuple[int, ...], int | None]:
    """Return the shape of a sample and the number of classes in the paper of a network.

    Raises
    ------
    InputError
        If the name is not known.
    """
    _find(name)
    return _USUAL.get(_key(name), ((3, 224, 224), 1000))


def _key(name: str) -> str:
    """Return the name under which a network is known, or the name given."""
    return next((known for known in _ZOO if known.replace("-", "_") == name.replace("-", "_")), name)


def _find(name: str) -> Callable[..., Network]:
    name = _key(name)
    if name not in _ZOO:
        raise InputError(f'unknown network "{name}"; {_suggest(name, names())}')
    return _ZOO[name]


def _suggest(word: str, known: tuple[str, ...]) -> str:
    near = get_close_matches(word.lower(), known, 1, 0.5)
    return (f'did you mean "{near[0]}"? ' if near else "") + f"known: {', '.join(known)}"


def _fit(what: str, value: Any, default: Any) -> Any:
    """Return `value` in the type of the option's default, or refuse it."""
    if isinstance(default, bool | str):
        fits = type(value) is type(default)
    elif isinstance(default, tuple):
        fits = isinstance(value, list | tuple) and all(type(v) is int and v >= 1 for v in value)
        value = tuple(value) if fits else value
    elif isinstance(default, float):  # all floats of the zoo are probabilities
        fits = type(value) in (int, float) and 0 <= value < 1
    else:
        fits = type(value) is int and value >= 0
    if not fits:
        kinds = {bool: "true or false", str: "a word", tuple: "a list of positive integers"}
        kinds |= {float: "a number in [0, 1)", int: "an integer, not negative"}
        raise InputError(f"{what} is {value!r}; it must be {kinds[type(default)]}, such as {default!r}")
    return value
