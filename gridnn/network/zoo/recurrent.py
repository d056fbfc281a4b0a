"""The recurrent benchmarks of FlexFlow (Jia et al. 2019, Table 3), as descriptions for the planner.

| network | layers                                                              | usual data                      |
|---------|---------------------------------------------------------------------|---------------------------------|
| rnntc   | embedding, 4 LSTM of 1024, softmax over the classes of a text       | movie reviews, 18,765 words     |
| rnnlm   | embedding, 2 LSTM of 2048, softmax over the vocabulary, every step  | Penn Treebank, 10,000 words     |
| nmt     | encoder and decoder: embedding, 2 LSTM of 1024 each; attention on   | WMT English-German, 32,000 each |
|         | top of the decoder, softmax over the vocabulary, every step         |                                 |

Steps are those of the input, 40 in the paper; nmt takes the words of both languages one after the other:

    words 0..39  -- embedding -- LSTM -- LSTM ------------ keys --+
                                  | state  | state                attention -- concat -- 1x1 tanh -- 1x1 -- loss
    words 40..79 -- embedding -- LSTM -- LSTM -- queries ---------+--------------+

`pieces` cuts every LSTM into that many nodes along the steps, which share their weights, as FlexFlow does (5 of
8 steps); layers can then work on different steps at once.  Whole, they cost the same in a sum over layers.
Training with the words that come next, words shorter than the steps, and the search for sentences are no part
of a description.
"""

from __future__ import annotations

from collections.abc import Sequence

from gridnn.errors import InputError
from gridnn.geometry.interval import Interval
from gridnn.network import spec as s
from gridnn.network.graph import Builder, Network
from gridnn.network.spec import Shape
from gridnn.network.zoo.parts import classifier


def rnntc(
    input_shape: Shape, classes: int, *, hidden: int = 1024, vocabulary: int = 18_765, pieces: int = 1
) -> Network:
    """Text classification: four LSTM layers, the last step of the last one judged."""
    net = _words("rnntc", input_shape)
    x = [_embedding(net, vocabulary, hidden, "embedding")]
    for layer in range(1, 5):
        x = _lstm(net, x, hidden, pieces, f"lstm{layer}", last=layer == 4)
    return classifier(net, net.linear(x[-1], classes, name="softmax"), 0.0)


def rnnlm(input_shape: Shape, classes: int, *, hidden: int = 2048, pieces: int = 1) -> Network:
    """Language model: two LSTM layers; `classes` is the vocabulary, of its input and of what it predicts."""
    net = _words("rnnlm", input_shape)
    x = [_embedding(net, classes, hidden, "embedding")]
    for layer in range(1, 3):
        x = _lstm(net, x, hidden, pieces, f"lstm{layer}")
    return classifier(net, net.conv(_join(net, x, "steps"), classes, 1, name="softmax"), 0.0)


def nmt(input_shape: Shape, classes: int, *, hidden: int = 1024, pieces: int = 1) -> Network:
    """Machine translation; the input is as many words to translate as of the translation, in one vocabulary size.

    Attention is the global one of Luong et al. 2015 with products as scores: tanh(W [mean of keys; query]).
    """
    net = _words("nmt", input_shape)
    if input_shape[1] % 2:
        raise InputError(f"network nmt: {input_shape[1]} words; give an even number, half in each language")
    half = input_shape[1] // 2
    x = [_embedding(net, classes, hidden, "source", (0, half))]
    first = x = _lstm(net, x, hidden, pieces, "encoder1")
    x = _lstm(net, x, hidden, pieces, "encoder2")
    keys = _join(net, x, "keys")
    y = [_embedding(net, classes, hidden, "target", (half, 2 * half))]
    y = _lstm(net, y, hidden, pieces, "decoder1", after=first[-1])
    y = _lstm(net, y, hidden, pieces, "decoder2", after=x[-1])
    queries = _join(net, y, "queries")
    mean = net.add_layer(s.Attention(), [queries, keys], "attention")
    both = net.conv(net.concat(mean, queries), hidden, 1, bias=False, name="combine")
    return classifier(net, net.conv(net.activation(both, "tanh"), classes, 1, name="softmax"), 0.0)


def _words(name: str, shape: Shape) -> Builder:
    if len(shape) != 2 or shape[0] != 1:
        raise InputError(
            f"network {name}: needs words, an input of (1, steps), it is {shape}; "
            "it is a description for planning only, train another network"
        )
    return Builder(name, shape)


def _embedding(net: Builder, vocabulary: int, out: int, name: str, steps: s.Steps | None = None) -> str:
    return net.add_layer(s.Embedding(vocabulary, out, steps), [net.input], name)


def _lstm(
    net: Builder, x: Sequence[str], hidden: int, pieces: int, name: str, *, last: bool = False, after: str = ""
) -> list[str]:  # fmt: skip
    """Append an LSTM layer in pieces; `x` is a sequence in as many pieces, or in one.

    Of the last layer of a classifier only the last piece gives its last step; what comes before gives its own.
    """
    total = sum(net.shapes[i][1] for i in x)
    if not 1 <= pieces <= total:
        raise InputError(f"network {net.name}: {pieces} pieces of {total} steps; use 1 to {total}")
    made: list[str] = []
    for at in range(pieces):
        block = Interval(0, total).block(pieces, at)
        steps = (block.start, block.stop) if len(x) == 1 and pieces > 1 else None
        spec = s.LSTM(hidden, steps, last)
        state = made[-1] if made else after
        inputs = [x[at] if len(x) > 1 else x[0], *([state, state] if state else [])]
        own = name if pieces == 1 else f"{name}.{at + 1}"
        made.append(net.add_layer(spec, inputs, own, shared=made[0] if made else ""))
    return made


def _join(net: Builder, pieces: Sequence[str], name: str) -> str:
    return pieces[0] if len(pieces) == 1 else net.add_layer(s.Join(), pieces, name)
