"""Layer kinds of recurrent networks: descriptions for the planner, which nothing in gridnn executes.

Shapes are of one sample: a sequence is ``(features, steps)``, words are ``(1, steps)``.  Unrolled over its
steps a recurrent layer is one node, or several pieces that share their weights (FlexFlow, Jia et al. 2019,
unrolls 40 steps in pieces of 8):

    words --- Embedding --- LSTM [0, 20) --- LSTM ---+
                   |          |  state        |      +-- Join -- ...
                   +------- LSTM [20, 40) --- LSTM --+

What works on every step by itself is no kind of its own: a linear layer over steps is a convolution of window 1.
"""

from __future__ import annotations

from dataclasses import dataclass

from gridnn.errors import InputError

Shape = tuple[int, ...]
Steps = tuple[int, int]


@dataclass(frozen=True)
class Embedding:
    """A row of W (vocabulary, out) for every word of ``[start, stop)``: (1, steps) to (out, stop - start).

    It is a linear layer whose input has one 1 in a vocabulary of zeros; gradients of W are summed whole.
    """

    vocabulary: int
    out: int
    steps: Steps | None = None  # the part of its input that it reads; None: all


@dataclass(frozen=True)
class LSTM:
    """Long short-term memory (Hochreiter & Schmidhuber 1997) over steps: (C, T) to (hidden, T).

    Four gates of W (4, hidden, C), R (4, hidden, hidden), b (4, hidden).  Inputs: the sequence; then, unless the
    state begins as zeros, the LSTM from whose last step it goes on, named twice: for its hidden state and its cell.
    """

    hidden: int
    steps: Steps | None = None  # the part of its input that it reads; None: all
    last: bool = False  # give the last step only, (hidden,)


@dataclass(frozen=True)
class Attention:
    """For every step of a query a mean of the keys, weighted by softmax of their products (Luong et al. 2015).

    Inputs: queries (F, T), keys (F, S); output (F, T).  It has no weights.
    """


@dataclass(frozen=True)
class Join:
    """Sequences one after the other: (F, T1), (F, T2) to (F, T1 + T2)."""


SequenceSpec = Embedding | LSTM | Attention | Join
SEQUENCES = (Embedding, LSTM, Attention, Join)


def span(spec: Embedding | LSTM, extent: int) -> Steps:
    """Return the steps of an input of `extent` that a layer reads."""
    return spec.steps or (0, extent)


def sequence_shape(spec: SequenceSpec, inputs: tuple[Shape, ...], name: str) -> Shape:
    """Return the output shape of one sample.

    Raises
    ------
    InputError
        If the inputs do not fit the layer; the message names the layer `name`.
    """
    first = inputs[0]
    if any(len(i) != 2 for i in (inputs[:1] if isinstance(spec, LSTM) else inputs)):
        raise InputError(
            f"layer {name}: needs sequences (features, steps), its inputs are {', '.join(map(str, inputs))}"
        )
    if isinstance(spec, Join):
        if any(i[0] != first[0] for i in inputs):
            raise InputError(f"layer {name}: cannot join sequences of shapes {', '.join(map(str, inputs))}")
        return (first[0], sum(i[1] for i in inputs))
    if isinstance(spec, Attention):
        if len(inputs) != 2 or inputs[1][0] != first[0]:
            raise InputError(
                f"layer {name}: attention takes queries and keys of as many features, "
                f"its inputs are {', '.join(map(str, inputs))}"
            )
        return first
    start, stop = span(spec, first[1])
    if not 0 <= start < stop <= first[1]:
        raise InputError(f"layer {name}: reads steps {start} to {stop} of an input that has {first[1]}")
    if isinstance(spec, Embedding):
        _check_embedding(spec, inputs, name)
        return (spec.out, stop - start)
    if spec.hidden < 1:
        raise InputError(f"layer {name}: hidden {spec.hidden}; it must be at least 1")
    states = inputs[1:]
    if len(states) not in (0, 2) or any(state[0] != spec.hidden for state in states):
        raise InputError(
            f"layer {name}: the state of an LSTM of {spec.hidden} comes from one LSTM of as many, named for the "
            f"hidden state and again for the cell; given are {', '.join(map(str, states))}"
        )
    return (spec.hidden,) if spec.last else (spec.hidden, stop - start)


def _check_embedding(spec: Embedding, inputs: tuple[Shape, ...], name: str) -> None:
    if len(inputs) != 1 or inputs[0][0] != 1:
        raise InputError(f"layer {name}: embedding takes words (1, steps), its input is {inputs[0]}")
    if spec.vocabulary < 1 or spec.out < 1:
        raise InputError(
            f"layer {name}: vocabulary {spec.vocabulary}, out {spec.out}; both must be at least 1"
        )
