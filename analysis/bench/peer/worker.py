"""The PyTorch side: one process, or one rank of a data-parallel group, that computes when asked.

    python -m peer.worker --layout channels_last

The number of threads is that of ``OMP_NUM_THREADS``.  With ``WORLD_SIZE`` in the environment (and what else
`torch.distributed` wants to find there) a network is wrapped for data-parallel training through gloo.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from typing import Any

import numpy as np
import torch  # type: ignore[import-not-found]
from torch import distributed

from peer import measure
from peer.network import Network, convolution
from peer.serve import Answer, serve

FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


class Peer:
    """What the worker can be asked; holds one case at a time."""

    def __init__(self, layout: str) -> None:
        self.channels_last = layout == "channels_last"
        self.ranks = int(os.environ.get("WORLD_SIZE", "1"))
        self.rank = int(os.environ.get("RANK", "0"))
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        if self.ranks > 1:
            distributed.init_process_group("gloo")
        self.parts: dict[str, Any] = {}
        self.step: Any = None

    def versions(self) -> Answer:
        """Name what computes here."""
        lines = torch.__config__.show().splitlines()
        with_what = [line.strip(" -") for line in lines if "MKL-DNN" in line or "CPU capability" in line]
        return {
            "versions": f"PyTorch {torch.__version__}, Python {platform.python_version()}",
            "with": with_what,
        }

    def conv(self, case: dict[str, Any], split: bool) -> Answer:
        """Prepare a convolution: data and weights in this worker's layout, one pass of each part."""
        x, w = (
            self.laid_out(torch.from_numpy(measure.numbers(case[k], i))) for i, k in enumerate(("x", "w"))
        )
        x.requires_grad_(), w.requires_grad_()
        y = convolution(case, x, w)
        dy = self.laid_out(torch.from_numpy(measure.numbers(y.shape, 2)))

        def gradients(*by: Any) -> Any:
            return torch.autograd.grad(y, by, dy, retain_graph=True)

        dx, dw = gradients(x, w)
        self.parts = {"forward": lambda: convolution(case, x, w), "backward": lambda: gradients(x, w)}
        if split:
            self.parts |= {"data": lambda: gradients(x), "weights": lambda: gradients(w)}
        return {
            "samples": {
                k: measure.samples(a.detach().numpy()) for k, a in {"y": y, "dx": dx, "dw": dw}.items()
            }
        }

    def network(
        self, batch: int, described: dict[str, Any], lr: float, momentum: float, decay: float
    ) -> Answer:
        """Prepare training steps of an exported network, from the weights of the archive it names."""
        torch.manual_seed(0)
        with np.load(described["weights"]) as weights:
            module: Any = Network(described["layers"], weights)
        if self.channels_last:
            module = module.to(memory_format=torch.channels_last)
        named = list(module.named_parameters())
        groups = [
            {"params": [p for name, p in named if name not in module.spared], "weight_decay": decay},
            {"params": [p for name, p in named if name in module.spared], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.SGD([g for g in groups if g["params"]], lr=lr, momentum=momentum)
        if self.ranks > 1:
            module = torch.nn.parallel.DistributedDataParallel(module)
        mine = slice(self.rank * batch // self.ranks, (self.rank + 1) * batch // self.ranks)
        x = measure.numbers((batch, *described["input"]), 0)[mine].copy()
        x = self.laid_out(torch.from_numpy(x))
        target = torch.from_numpy(
            measure.classes((batch, *described["target"]), described["classes"], 1)[mine]
        )

        def step() -> Any:
            optimizer.zero_grad()
            loss = module(x, target)
            loss.backward()
            optimizer.step()
            return loss

        self.step = step
        return {}

    def steps(self, count: int) -> Answer:
        """Make steps and return their losses, over the whole batch."""
        losses = []
        for _ in range(count):
            loss = self.step().detach()
            if self.ranks > 1:
                distributed.all_reduce(loss)
            losses.append(float(loss) / self.ranks)
        return {"losses": losses}

    def time(self, least_s: float = 0.0, count: int = 1) -> Answer:
        """Return the median seconds of each part of a convolution, or those of `count` steps."""
        if self.step is None:
            return {"seconds": {name: measure.median_s(work, least_s) for name, work in self.parts.items()}}
        together = distributed.barrier if self.ranks > 1 else (lambda: None)
        return {"steps": measure.step_s(self.step, count, together)}

    def memory(self) -> Answer:
        """Return the peak memory of this process."""
        return {"bytes": measure.peak_bytes()}

    def product(self) -> Answer:
        """Return the speed of a large matrix product."""
        a, b = (torch.from_numpy(measure.numbers((measure.PRODUCT,) * 2, i)) for i in range(2))
        out = torch.empty_like(a)
        return {"flops_per_s": measure.product_flops_per_s(lambda: torch.mm(a, b, out=out))}

    def laid_out(self, array: Any) -> Any:
        """Return a tensor in this worker's layout; there is one for two and three space dims."""
        known = self.channels_last and array.ndim in FORMATS
        return array.to(memory_format=FORMATS[array.ndim]) if known else array


def main() -> None:
    """Serve until the parent closes the line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layout", choices=("default", "channels_last"), default="default")
    peer = Peer(parser.parse_args().layout)
    verbs = ("versions", "conv", "network", "steps", "time", "memory", "product")
    serve({verb: getattr(peer, verb) for verb in verbs}, sys.stdin, peer.rank == 0)


if __name__ == "__main__":
    main()
