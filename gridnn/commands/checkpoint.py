"""``gridnn checkpoint``: what a checkpoint holds, whether it is whole, and its weights for others."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gridnn.commands.words import Say, add_json, check_target, parser, write_whole
from gridnn.errors import InputError

if TYPE_CHECKING:
    from gridnn.train.checkpoint.read import Checkpoint

VERBS = {
    "show": "arrays, shapes, bytes, step and plan",
    "verify": "read every file and compare its checksum; do the pieces tile each array?",
    "export": "weights and statistics in one file: .safetensors, or .onnx for inference",
}
_EPILOG = "\n".join(
    [
        "verbs:",
        *(f"  {verb:8} {what}" for verb, what in VERBS.items()),
        "",
        "DIR is a run folder (its newest checkpoint), its folder checkpoints, or the folder of one step.",
        "",
        "examples:",
        "  gridnn checkpoint show runs/digits-cnn-20250131-142233",
        "  gridnn checkpoint verify runs/digits-cnn-20250131-142233/checkpoints/step-00000120",
        "  gridnn checkpoint export runs/digits-cnn-20250131-142233 -o model.onnx",
    ]
)


def main(argv: Sequence[str], say: Say) -> None:
    """Look at a checkpoint."""
    words = argparse.ArgumentParser(
        prog="gridnn checkpoint", description="Look at a checkpoint, check it, export it; one process, no MPI.",
        epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    words.add_argument("verb", choices=list(VERBS), metavar="verb", help="one of those below")
    given = list(argv)
    verb = str(words.parse_args(given[:1] or ["--help"]).verb)
    {"show": _show, "verify": _verify, "export": _export}[verb](given[1:], say)


def _parser(verb: str, example: str) -> argparse.ArgumentParser:
    found = parser(f"checkpoint {verb}", f"{VERBS[verb][0].upper()}{VERBS[verb][1:]}.", f"  {example}")
    found.add_argument(
        "dir", metavar="DIR", help="a run folder (newest), its checkpoints, or the folder of one step"
    )
    return found


def _show(argv: Sequence[str], say: Say) -> None:
    words = _parser("show", "gridnn checkpoint show runs/digits-cnn-20250131-142233 --json")
    add_json(words)
    arguments = words.parse_args(argv)
    from gridnn.commands.show import table
    from gridnn.plan.explain.tell import bytes_text
    from gridnn.train.checkpoint.folders import root_of
    from gridnn.train.checkpoint.read import open_checkpoint
    from gridnn.train.checkpoint.whole import nbytes, plan_of

    _, steps = root_of(Path(arguments.dir))
    found = open_checkpoint(steps[0])
    index, state, plan = found.index, found.state, plan_of(found)
    if arguments.json:
        arrays = {
            name: {
                "shape": array.shape,
                "dtype": array.dtype,
                "bytes": nbytes(array),
                "pieces": len(array.pieces),
            }
            for name, array in index.arrays.items()
        }
        about = {
            "folder": str(found.folder), "step": index.step, "epoch": state.epoch, "updates": state.updates,
            "seed": state.seed, "loss": state.loss, "ranks": index.ranks, "bytes": found.nbytes, "plan": plan,
            "versions": state.versions, "arrays": arrays,
        }  # fmt: skip
        say(json.dumps(about, indent=2))
        return
    say(f"checkpoint  {found.folder}")
    say(f"step        {index.step}, epoch {state.epoch}, {state.updates} updates, seed {state.seed}")
    say(f"loss        {'not evaluated' if state.loss is None else f'{state.loss:.6g}'}")
    say(f"plan        {_plan_text(plan)}")
    say(f"files       {len(index.files) + 1} of {index.ranks} ranks, {bytes_text(found.nbytes)}")
    if versions := ", ".join(f"{name} {version}" for name, version in state.versions.items()):
        say(f"versions    {versions}")
    if len(steps) > 1:
        say(f"before it   {', '.join(path.name for path in steps[1:])}")
    say("")
    rows = [
        (
            name,
            "x".join(map(str, array.shape)),
            array.dtype,
            f"{len(array.pieces):,}",
            bytes_text(nbytes(array)),
        )
        for name, array in index.arrays.items()
    ]
    total = ("all", "", "", f"{sum(len(a.pieces) for a in index.arrays.values()):,}",
             bytes_text(sum(map(nbytes, index.arrays.values()))))  # fmt: skip
    for line in table(("array", "shape", "type", "pieces", "bytes"), [*rows, total]):
        say(line)


def _plan_text(plan: object) -> str:
    if not isinstance(plan, dict) or "layers" not in plan:
        return "not said"
    grids = sorted(set(map(str, plan["layers"].values())))
    text = grids[0] if len(grids) == 1 else f"{len(grids)} grids"
    return f"{text} on {plan.get('procs', '?')} processes, {plan.get('network', '')}, batch {plan.get('batch', '?')}"


def _verify(argv: Sequence[str], say: Say) -> None:
    arguments = _parser("verify", "gridnn checkpoint verify runs/digits-cnn-20250131-142233").parse_args(argv)
    from gridnn.train.checkpoint.folders import root_of
    from gridnn.train.checkpoint.read import open_checkpoint
    from gridnn.train.checkpoint.whole import wrong_in

    _, steps = root_of(Path(arguments.dir))
    if wrong := wrong_in(steps[0]):
        lines = "\n  ".join(wrong)
        before = f"; try the one before it, {steps[1]}" if len(steps) > 1 else ""
        raise InputError(f"checkpoint {steps[0]} is damaged{before}:\n  {lines}")
    index = open_checkpoint(steps[0]).index
    pieces = sum(len(array.pieces) for array in index.arrays.values())
    say(
        f"{steps[0]} is whole: {len(index.files) + 1} files with their checksums, {len(index.arrays)} arrays tiled by "
        f"{pieces:,} pieces"
    )


def _export(argv: Sequence[str], say: Say) -> None:
    words = _parser("export", "gridnn checkpoint export runs/digits-cnn-20250131-142233 -o model.safetensors")
    words.add_argument(
        "-o", dest="out", metavar="FILE", required=True, help="model.safetensors or model.onnx"
    )
    arguments = words.parse_args(argv)
    if Path(arguments.out).suffix not in (".safetensors", ".onnx"):
        raise InputError(
            f"cannot tell what {arguments.out} should be; let its name end in .safetensors or .onnx"
        )
    check_target(arguments.out)
    checkpoint = _whole(arguments.dir, say)
    if arguments.out.endswith(".onnx"):
        from gridnn.train.checkpoint.onnx import as_onnx
        from gridnn.train.checkpoint.whole import network_of, trained

        content = as_onnx(network_of(checkpoint), trained(checkpoint))
    else:
        from gridnn.train.checkpoint.whole import as_safetensors

        content = as_safetensors(checkpoint)
    write_whole(arguments.out, content)
    say(
        f"step {checkpoint.state.step} of {checkpoint.folder} written to {arguments.out}: {len(content):,} bytes"
    )


def _whole(path: str, say: Say) -> Checkpoint:
    """Return the newest checkpoint that is whole; say which are not."""
    from gridnn.train.checkpoint.folders import root_of
    from gridnn.train.checkpoint.read import newest, open_checkpoint

    found, warnings = newest(root_of(Path(path))[1])
    assert found is not None, "a path with no checkpoint was refused"
    for warning in warnings:
        say(f"warning: {warning}")
    return open_checkpoint(found)
