"""Bytes a step moves under the baselines of Jia et al. 2018 (OptCNN, arXiv 1802.04924, Fig. 8).

All GPUs together, B samples a GPU (32 there), P GPUs, four bytes a word.  A layer whose samples are cut sends its
gradients to a server and takes the weights back; a layer whose channels are cut fetches its whole input:

| strategy | cut by sample | cut by channel | bytes                                              |
|----------|---------------|----------------|----------------------------------------------------|
| data     | all           |                | P * 8 abs(W)                                       |
| owt      | conv          | fc             | P * 8 abs(W_conv) + P * 8 (B P) sum of d_{i-1}, fc |
| model    |               | all            | P * 8 (B P) sum of d_{i-1}, all                    |

The images themselves are counted on one GPU only, where they are all that moves, and their gradient never.  The
paper prints no formula; these are read from its bars, and not all bars agree (AlexNet, 2, 4, 8, 16 GPUs):

| strategy | formula over bar       | what the bars say                                                    |
|----------|------------------------|----------------------------------------------------------------------|
| data     | 1.0001, 1, 1, 1        | the formula, weights without biases                                  |
| owt      | 1.16, 1.26, 1.37, 1.47 | the inputs of fc6 only (1.003 to 1.0001), though VGG-16's are of all |
| model    | 1.04, 2.09, 4.17, 8.35 | proportional to P: no fetch of a whole input is.  Unexplained        |

Of VGG-16 the bars hold 0.3 % fewer weights than the network, of Inception-v3 as many.
"""

from __future__ import annotations

from typing import NamedTuple

from gridnn.cost.paper.gholami import WORD_BYTES
from gridnn.cost.paper.table import paper_layers
from gridnn.errors import InputError
from gridnn.network.graph import INPUT, Builder, Network

STRATEGIES = ("data", "model", "owt")


class Moved(NamedTuple):
    """Bytes that one layer moves in a step, over all GPUs: of its weights, of its input and that one's gradient."""

    layer: str
    weights_bytes: int
    inputs_bytes: int


def optcnn_traffic(network: Network, gpus: int, strategy: str, batch_per_gpu: int = 32) -> tuple[Moved, ...]:
    """Return what each layer moves in a step under a baseline (Jia et al. 2018, section 6).

    Parameters
    ----------
    strategy
        ``data``, ``model``, or ``owt`` (Krizhevsky 2014: convolutions by sample, fc by channel).

    Raises
    ------
    InputError
        If the strategy is not known, or a number is below 1.
    """
    if strategy not in STRATEGIES:
        raise InputError(f'strategy "{strategy}" is not known; use one of {", ".join(STRATEGIES)}')
    if gpus < 1 or batch_per_gpu < 1:
        raise InputError(f"{batch_per_gpu} samples a GPU on {gpus} GPUs; give at least 1 of each")
    batch, first = batch_per_gpu * gpus, {n.name for n in network.nodes if INPUT in n.inputs}
    moved: list[Moved] = []
    for layer in paper_layers(network):
        if gpus == 1:
            words = batch * layer.d_in if layer.name in first else 0
            moved.append(Moved(layer.name, 0, words * WORD_BYTES))
        elif strategy == "data" or (strategy == "owt" and layer.kind == "conv"):
            moved.append(Moved(layer.name, gpus * 2 * layer.weights * WORD_BYTES, 0))
        else:  # forward, and the gradient back; images have none
            ways = 1 if layer.name in first else 2
            moved.append(Moved(layer.name, 0, gpus * ways * batch * layer.d_in * WORD_BYTES))
    return tuple(moved)


def optcnn_bytes(network: Network, gpus: int, strategy: str, batch_per_gpu: int = 32) -> int:
    """Return the bytes of a step under a baseline, all layers and GPUs together; see `optcnn_traffic`."""
    moved = optcnn_traffic(network, gpus, strategy, batch_per_gpu)
    return sum(m.weights_bytes + m.inputs_bytes for m in moved)


def optcnn_alexnet() -> Network:
    """AlexNet as OptCNN had it: 64-192-384-256-256, padded pools, so that 7 x 7 x 256 = 12544 features reach fc6.

    The paper does not list its layers; its data-parallel traffic asks for 74.72M weights, which these have.
    """
    net = Builder("optcnn-alexnet", (3, 224, 224))
    x = net.relu(net.conv(net.input, 64, 11, 4, 2, name="conv1"))
    x = net.relu(net.conv(net.max_pool(x, 3, 2, 1), 192, 5, pad=2, name="conv2"))
    x = net.relu(net.conv(net.max_pool(x, 3, 2, 1), 384, 3, pad=1, name="conv3"))
    x = net.relu(net.conv(x, 256, 3, pad=1, name="conv4"))
    x = net.relu(net.conv(x, 256, 3, pad=1, name="conv5"))
    x = net.flatten(net.max_pool(x, 3, 2, 1))
    for name in ("fc6", "fc7"):
        x = net.relu(net.linear(x, 4096, name=name))
    return net.done(net.cross_entropy(net.linear(x, 1000, name="fc8")))
