"""Laws 1 and 4 where convolutions of blocks are computed by a cuDNN made of paper: halos, margins, unequal pads."""

from __future__ import annotations

from typing import Any

import pytest

from gridnn.comm.transport import Staged
from gridnn.comm.world import World
from gridnn.compute.gpu.cudnn_engine import CudnnEngine, open_engine
from gridnn.compute.gpu.room import Room
from tests.compute.gpu.test_conv_calls import NEEDS_CXX
from tests.layers.test_device import BATCH, FLOAT32
from tests.support.laws import check, uniform_schemes
from tests.support.nets import build
from tests.support.paper_cudnn import PaperCudnn, one_sided


@NEEDS_CXX
@pytest.mark.ranks(1, 3)
@pytest.mark.parametrize("name", ["residual", "unet", "conv-groups"])
def test_layers_on_cudnn(comm: Any, name: str) -> None:
    """Where engines take equal pads only, as blocks at an edge of the image do not have them."""
    paper, network = PaperCudnn(refuses=one_sided), build(name)
    with World(comm) as world:
        engine = open_engine(paper.device, "float32", Room(), "cudnn", load=paper.load, stream=paper.stream)
        assert isinstance(engine, CudnnEngine)
        world.memory = engine.memory
        world.transport = Staged(world.memory, engine)
        for grid in ("h", "k")[: comm.size]:
            schemes = uniform_schemes(network, f"{grid}{comm.size}")
            check(world, network, schemes, BATCH, dtype="float32", tolerance=FLOAT32, engine=engine)
        assert {"forward", "backward_data", "backward_weights"} <= set(paper.executed)
        framed = [any(plan.frame) for plan in engine.convolutions._chosen.values() if plan is not None]
        assert any(map(any, comm.allgather(framed))) == (comm.size > 1), "blocks at an edge, and no others"
