"""PyTorch's data parallelism on hosts: one rank of it, a thread, steps on its share of a random batch.

    RANK=0 WORLD_SIZE=4 MASTER_ADDR=10.77.0.1 MASTER_PORT=29500 GLOO_SOCKET_IFNAME=eth0 PYTHON ddp.py case.json

`case.json` holds the layers as ``export.py`` writes them, the shapes of their weights, the batch and the steps; see
``torch_case`` in ``runs.py``.  The last line that rank 0 says is the seconds of every step, as JSON.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch  # type: ignore[import-not-found]
from peer.network import Network  # type: ignore[import-not-found]
from torch import distributed  # type: ignore[import-not-found]


def main() -> None:
    """Train for some steps."""
    case = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    distributed.init_process_group("gloo")
    rank, ranks = distributed.get_rank(), distributed.get_world_size()
    rng = np.random.default_rng(0)  # the same weights on all ranks
    weights = {}
    for name, shape in case["shapes"].items():
        spread = (2.0 / max(1, int(np.prod(shape[1:])))) ** 0.5 if len(shape) > 1 else 0.0
        weights[name] = (spread * rng.standard_normal(shape)).astype(np.float32)
    module = Network(case["layers"], weights)
    samples = case["batch"] // ranks
    mine = np.random.default_rng(1 + rank)
    x = torch.from_numpy(mine.standard_normal((samples, *case["input"])).astype(np.float32))
    target = torch.from_numpy(mine.integers(0, case["classes"], (samples, *case["target"])))
    if case["layout"] == "channels_last":
        module, x = module.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    model = torch.nn.parallel.DistributedDataParallel(module)
    optimizer = torch.optim.SGD(model.parameters(), lr=case["lr"], momentum=0.9)
    seconds, losses = [], []
    for _ in range(case["steps"]):
        started_s = time.perf_counter()
        optimizer.zero_grad()
        loss = model(x, target)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
        seconds.append(time.perf_counter() - started_s)
    distributed.barrier()
    if rank == 0:
        print(json.dumps({"seconds": seconds, "losses": losses, "torch": torch.__version__}), flush=True)
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
