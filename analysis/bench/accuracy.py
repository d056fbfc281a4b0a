"""What late gradients cost in accuracy: the same runs with schedule "sequential" and "delayed", seeds in turn.

    python analysis/bench/accuracy.py --data digits FOLDER [--seeds 3] [--stages 2 4] [--late spike plain] [--out FILE]

Every run is `gridnn train` as a user would start it, a thread a rank; what is compared is the test accuracy after the
last step.  FOLDER holds pictures in a folder a class.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path

from report import Report, cpu

ROOT = Path(__file__).resolve().parents[2]
EPOCHS = 20


def settings(data: str, epochs: int) -> list[str]:
    """Return what a run on some data is told: the default job on digits, a ResNet-20 on pictures."""
    if data == "digits":
        return [f"train.epochs={epochs}"]
    return [
        "model.name=resnet20", f"data.path={data}", "data.name=pictures", "data.test_fraction=0.3", "data.std=0.25",
        "data.mean=0.45", "data.flip=true", "data.pad=2", "train.batch=64", "train.lr=0.02", "train.weight_decay=5e-4",
        "train.warmup_steps=60", "train.schedule=cosine", f"train.epochs={epochs}",
    ]  # fmt: skip


def accuracy(told: list[str], stages: int, schedule: str, form: str, late: str, seed: int) -> float:
    """Return the test accuracy of one run."""
    with tempfile.TemporaryDirectory() as folder:
        extra = [f"train.seed={seed}", f"run.dir={folder}/run", "run.trace_steps=0", "checkpoint.keep=0"]
        if schedule != "sequential":
            extra += [f"plan.schedule={schedule}", f"plan.form={form}", f"train.late={late}"]
        spec = " | ".join(["1"] * stages) if schedule != "sequential" else "1"
        ranks = stages if schedule != "sequential" else 1
        command = [
            str(ROOT / "scripts" / "mpirun"),
            str(ranks),
            sys.executable,
            "-m",
            "gridnn.train",
            "--plan",
            spec,
        ]
        for word in (*told, "train.eval_every_epochs=1000000", *extra):
            command += ["--set", word]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        return float(json.loads((Path(folder) / "run" / "summary.json").read_text())["test_accuracy"])


def main() -> None:
    """Run all, one table a data set."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--data", nargs="+", default=["digits"])
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--stages", type=int, nargs="+", default=[2, 4])
    options.add_argument("--forms", nargs="+", default=["replay", "stash"])
    options.add_argument(
        "--late", nargs="+", default=["spike"], help="what momentum does of late gradients (spike)"
    )
    options.add_argument("--epochs", type=int, default=EPOCHS)
    options.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="of all runs")
    options.add_argument("--out", type=Path, metavar="FILE.md")
    given = options.parse_args()
    report = Report("Accuracy with late gradients", given.out)
    report.say(f"Machine: {cpu()}; {given.epochs} epochs.\n")
    for data in given.data:
        told = settings(data, given.epochs) + given.set
        report.say(f"## {data if data == 'digits' else 'pictures, ResNet-20'}\n")
        report.head(
            ("schedule", "stages", *(f"seed {seed}" for seed in range(given.seeds)), "mean", "to sequential")
        )
        base = 0.0
        cases = [(1, "sequential", "replay", "plain")]
        cases += [
            (k, "delayed", form, late) for k, form, late in product(given.stages, given.forms, given.late)
        ]
        for stages, schedule, form, late in cases:
            found = [100 * accuracy(told, stages, schedule, form, late, seed) for seed in range(given.seeds)]
            mean = statistics.mean(found)
            base = mean if schedule == "sequential" else base
            words = schedule if schedule == "sequential" else f"{schedule} ({form}, {late})"
            report.row(
                [words, str(stages), *(f"{a:.2f} %" for a in found), f"{mean:.2f} %", f"{mean - base:+.2f}"]
            )
        report.say("")


if __name__ == "__main__":
    main()
