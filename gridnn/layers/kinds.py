"""Which class works for which layer kind."""

from __future__ import annotations

from numpy.typing import DTypeLike

from gridnn.comm.world import World
from gridnn.compute.interface import Engine
from gridnn.layers import conv, linear, loss, norm, pointwise, pool
from gridnn.layers.base import Layer, Parameter
from gridnn.network import spec as s
from gridnn.network.placed import PlacedLayer

KINDS: dict[type, type[Layer]] = {
    s.Conv: conv.Convolution,
    s.ConvTranspose: conv.TransposedConvolution,
    s.Linear: linear.FullyConnected,
    s.Pool: pool.Pooling,
    s.BatchNorm: norm.BatchNormalisation,
    s.LayerNorm: norm.LayerNormalisation,
    s.Activation: pointwise.ActivationLayer,
    s.Dropout: pointwise.DropoutLayer,
    s.Add: pointwise.Addition,
    s.Concat: pointwise.Concatenation,
    s.Flatten: pointwise.Flattening,
    s.Upsample: pointwise.Upsampling,
    s.SoftmaxCrossEntropy: loss.CrossEntropy,
    s.MeanSquaredError: loss.SquaredError,
}


def make_layer(
    world: World, placed: PlacedLayer, dtype: DTypeLike, parameters: dict[str, Parameter], engine: Engine
) -> Layer:
    """Return the live layer of a placed one."""
    spec = placed.node.spec
    if isinstance(spec, s.GlobalPool):
        return (pool.GlobalAverage if spec.how == "average" else pool.GlobalMax)(
            world, placed, dtype, parameters, engine
        )
    return KINDS[type(spec)](world, placed, dtype, parameters, engine)
