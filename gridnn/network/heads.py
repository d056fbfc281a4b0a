"""Heads: a loss of its own for every stage but the last, which has the network's.

    stage 0                     stage 1                            stage 2
    conv1 relu1 pool1 --------> conv2 relu2 pool2 flatten -------> fc1 relu3 fc2 loss
                 |                                   |
                 head0.pool                          head1.linear
                 head0.linear                        head1.loss
                 head0.loss

No gradient goes from stage to stage, so that no stage waits for the ones behind it: a stage learns what its own head
asks for.  That is decoupled greedy learning (Belilovsky et al. 2020, section 3); the heads there have hidden layers,
these are the smallest that give a loss of the network's kind:

| the network's loss judges | a stage ends with | its head                                            |
|---------------------------|-------------------|-----------------------------------------------------|
| features (C,)             | (F, *space)       | pool: average over space; linear to C; loss         |
|                           | (F,)              | linear to C; loss                                   |
| positions (C, *space)     | (F, *space)       | conv: a linear layer at every position, to C; loss  |
|                           | anything else     | none: targets are of other positions                |
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from gridnn.errors import InputError
from gridnn.geometry.grid import Scheme
from gridnn.geometry.window import Window
from gridnn.network import spec as s
from gridnn.network.graph import INPUT, Network, Node
from gridnn.network.stages import Stages, cut_network

LEARN = (s.Conv, s.ConvTranspose, s.Linear, s.BatchNorm, s.LayerNorm, s.Embedding, s.LSTM)
"""Kinds that have weights."""
_NAME = re.compile(r"head\d+\.(pool|linear|conv|loss)")


def is_head(name: str) -> bool:
    """Return whether a layer of a network with heads is one of theirs."""
    return _NAME.fullmatch(name) is not None


def with_heads(network: Network, stages: Stages) -> tuple[Network, Stages]:
    """Return a network with a head behind the last layer of each stage but the last, and its stages.

    All other layers are what they were.  Of a stage's outputs only its last one is judged: what others lead to is in
    stages behind, from which no gradient comes (`unheard`).

    Raises
    ------
    InputError
        If the targets have positions that a stage's last output has not, or a layer is named as a head is.
    """
    if taken := [node.name for node in network.nodes if is_head(node.name)]:
        raise InputError(
            f"heads: network {network.name} has a layer {taken[0]}, a name that heads have; rename it, or take a "
            "schedule other than local"
        )
    by_name, nodes = {node.name: node for node in network.nodes}, list[Node]()
    for stage in range(stages.count):
        names = stages.layers(stage)
        nodes += [by_name[name] for name in names]
        if stage < stages.count - 1:
            nodes += _head(network, stages, stage, names[-1])
    made = Network(network.name, network.input_shape, tuple(nodes))
    return made, cut_network(made, stages.first)


def head_schemes(network: Network, stages: Stages, schemes: Mapping[str, Scheme]) -> dict[str, Scheme]:
    """Return a scheme for every layer of a network with heads: where none is given, that of the layer it judges.

    Parameters
    ----------
    network, stages
        As `with_heads` returns them.
    schemes
        Of all other layers, and of those layers of heads that shall have others.

    Raises
    ------
    InputError
        If there is one for a head that is not there.
    """
    heads = [node.name for node in network.nodes if is_head(node.name)]
    if unknown := [name for name in schemes if is_head(name) and name not in heads]:
        raise InputError(
            f"plan: it has a grid for {unknown[0]}, but the heads of network {network.name} in {stages.count} stages "
            f"are {', '.join(heads) or 'none'}; leave it out, or name one of them"
        )
    found, judged = dict(schemes), ""
    for node in network.nodes:
        judged = judged if is_head(node.name) else node.name
        found.setdefault(node.name, found[judged])
    return found


def unheard(network: Network, stages: Stages) -> tuple[str, ...]:
    """Return the layers whose weights no loss of their stage depends on: they get no gradient.

    Parameters
    ----------
    network, stages
        As `with_heads` returns them.
    """
    of, heard = stages.of, set[str]()
    for node in reversed(network.nodes):
        if isinstance(node.spec, s.LOSSES) or node.name in heard:
            heard.update(x for x in node.inputs if x != INPUT and of[x] == of[node.name])
    return tuple(n.name for n in network.nodes if isinstance(n.spec, LEARN) and n.name not in heard)


def _head(network: Network, stages: Stages, stage: int, last: str) -> list[Node]:
    """Return the layers behind the last one of a stage."""
    found, wanted = network.shapes[last], network.shapes[network.output]
    specs: dict[str, s.LayerSpec]
    if len(wanted) == 1:
        specs = {"pool": s.GlobalPool()} if len(found) > 1 else {}
        specs["linear"] = s.Linear(wanted[0])
    elif found[1:] == wanted[1:]:
        specs = {"conv": s.Conv(wanted[0], (Window(1),) * len(wanted[1:]))}
    else:
        raise _other_positions(network, stages, stage, last)
    nodes, at = list[Node](), last
    for word, spec in (specs | {"loss": network.loss.spec}).items():
        nodes.append(Node(f"head{stage}.{word}", spec, (at,)))
        at = nodes[-1].name
    return nodes


def _other_positions(network: Network, stages: Stages, stage: int, last: str) -> InputError:
    """Return what is said of a stage whose last output has not the positions of the targets."""
    shapes, space = network.shapes, network.shapes[network.output][1:]
    ends = [name for name in stages.names[:-1] if shapes[name][1:] == space and name != network.output]
    listed = f"{', '.join(ends[:6])}{', ...' if ends[6:] else ''}"
    advice = f"let stages end with layers that have them ({listed}), by the first layers of those behind, or "
    return InputError(
        f"heads: stage {stage} (from {stages.first[stage]}) ends with {last} of shape {_text(shapes[last])}, but "
        f"targets of network {network.name} have positions {_text(space)}, which a loss of its own needs; "
        f"{advice if ends else ''}take a schedule other than local"
    )


def _text(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
