"""The damage drill: every file truncated, flipped, removed in turn is noticed, and the checkpoint before it is used."""

from __future__ import annotations

import json
import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from gridnn.errors import InputError
from gridnn.train.checkpoint.folders import root_of, steps_in
from gridnn.train.checkpoint.index import dump_index, load_index
from gridnn.train.checkpoint.read import damage, newest, open_checkpoint
from tests.train.checkpoints import two_steps, write_one

FILES = ["index.json", "state.json", *(f"shard-{rank:05d}.safetensors" for rank in range(4))]


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return two_steps(tmp_path_factory.mktemp("pristine"))


@pytest.fixture
def root(pristine: Path, tmp_path: Path) -> Path:
    shutil.copytree(pristine, tmp_path / "checkpoints")
    return tmp_path / "checkpoints"


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def grow(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b" ")


def zero(path: Path) -> None:
    """What a disk gives back for a block that never reached it."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
    path.write_bytes(content)


def folder_of_the_name(path: Path) -> None:
    path.unlink()
    path.mkdir()


def link_to_nowhere(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.parent / "nowhere")


HARMS = [truncate, halve, empty, grow, zero, Path.unlink, folder_of_the_name, link_to_nowhere]


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("harm", HARMS)
def test_damage_is_noticed_and_the_one_before_is_used(
    root: Path, file: str, harm: Callable[[Path], None]
) -> None:
    harm(root / "step-00000020" / file)
    wrong = damage(root / "step-00000020")
    assert wrong and file in wrong[0]
    found, warnings = newest(steps_in(root))
    assert found == root / "step-00000010" and len(warnings) == 1
    assert file in warnings[0] and "the one before it is used" in warnings[0]
    if harm not in (zero,) or not file.startswith(
        "shard"
    ):  # of shards the sizes are looked at, until they are verified
        with pytest.raises(InputError, match=file):
            open_checkpoint(root / "step-00000020")


def places(content: bytes, shard: bool) -> Iterator[tuple[int, int]]:
    """Bytes and bits to be flipped: in every region, at its first and last byte, and at random."""
    rng = random.Random(len(content))
    edges = [0, len(content)]
    if shard:  # size of the header, header, data
        edges[1:1] = [8, 8 + int.from_bytes(content[:8], "little")]
    for start, stop in pairwise(edges):
        assert start < stop
        for at in (start, stop - 1, *(rng.randrange(start, stop) for _ in range(25))):
            yield at, rng.randrange(8)


@pytest.mark.parametrize("file", FILES)
def test_a_flipped_bit_is_noticed_wherever_it_is(root: Path, file: str) -> None:
    path = root / "step-00000020" / file
    content = path.read_bytes()
    for at, bit in places(content, file.startswith("shard")):
        flipped = bytearray(content)
        flipped[at] ^= 1 << bit
        path.write_bytes(flipped)
        assert damage(path.parent), f"bit {bit} of byte {at}"
    path.write_bytes(content)
    assert damage(path.parent) == []


@pytest.mark.parametrize("file", [".", *FILES])
def test_what_may_not_be_read_is_passed_over(pristine: Path, file: str) -> None:
    with open_to_others(pristine) as root:
        locked = root / "step-00000020" / file
        mode = locked.stat().st_mode
        locked.chmod(0)
        with as_nobody():
            found, warnings = newest(steps_in(root))
        assert found == root / "step-00000010" and "cannot be read (Permission denied)" in warnings[0]
        locked.chmod(mode)
        with as_nobody():
            assert newest(steps_in(root)) == (root / "step-00000020", [])


def test_a_folder_that_may_not_be_listed_is_refused(pristine: Path) -> None:
    with open_to_others(pristine) as root:
        root.chmod(0)
        with as_nobody(), pytest.raises(InputError, match=r"cannot be read \(Permission denied\)"):
            steps_in(root)
        with as_nobody(), pytest.raises(InputError, match=r"cannot be read \(Permission denied\)"):
            root_of(root.parent)
        root.chmod(0o755)


@contextmanager
def open_to_others(pristine: Path) -> Iterator[Path]:
    """Copy checkpoints to where any user may read them: pytest's own folders are closed."""
    with tempfile.TemporaryDirectory() as run:
        os.chmod(run, 0o755)
        shutil.copytree(pristine, Path(run) / "checkpoints")
        for path in (Path(run) / "checkpoints").rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)
        (Path(run) / "checkpoints").chmod(0o755)
        yield Path(run) / "checkpoints"


@contextmanager
def as_nobody() -> Iterator[None]:
    """Be a user whom permissions bind; root is not."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("harm", [*HARMS, lambda path: path.write_text("step-00000099\n")])
def test_latest_is_for_people(root: Path, harm: Callable[[Path], None]) -> None:
    """Whatever became of it, the newest is found, and the next save writes it anew."""
    harm(root / "latest")
    assert newest(steps_in(root)) == (root / "step-00000020", []) and root_of(root)[1][0].name[-2:] == "20"
    assert write_one(root, 30, None, keep=3) == [30, 20, 10]


@pytest.mark.parametrize("harm", [truncate, folder_of_the_name])
def test_a_step_that_is_no_folder(root: Path, harm: Callable[[Path], None]) -> None:
    """What stands where a checkpoint should be is damage, not nothing; the next save makes room."""
    shutil.rmtree(root / "step-00000020")
    (root / "step-00000020").write_text("no folder")
    harm(root / "step-00000020")
    found, warnings = newest(steps_in(root))
    assert found == root / "step-00000010" and "index.json" in warnings[0]
    with pytest.raises(InputError, match=r"step-00000020 cannot be used: index\.json"):
        open_checkpoint(root_of(root)[1][0])
    assert write_one(root, 20, None, keep=3) == [20, 10]
    (root / "step-00000030").write_text("of a course that was given up")
    assert write_one(root, 25, None, keep=3) == [25, 20, 10]


def test_a_file_in_place_of_the_checkpoints_is_refused(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("")
    for look in (steps_in, root_of):
        with pytest.raises(InputError, match=r"cannot be read \(Not a directory\)"):
            look(tmp_path / "checkpoints")
    with pytest.raises(InputError, match=r"cannot be read \(Not a directory\)"):
        root_of(tmp_path)


def test_nothing_whole_names_each(root: Path) -> None:
    (root / "step-00000020" / "index.json").unlink()
    truncate(root / "step-00000010" / "state.json")
    with pytest.raises(
        InputError, match=r"(?s)step-00000020 is not whole: index.json is missing.*10 .* state.json has"
    ):
        newest(steps_in(root))


def test_another_version_is_told(root: Path) -> None:
    path = root / "step-00000020" / "index.json"
    import gridnn.train.checkpoint.index as index

    later = dump_index(load_index(path.read_text())).replace('"version": 1', '"version": 9')
    body = later.partition("\n")[2]
    path.write_text(f'{{"checksum": "{index._checksum(body)}", "index":\n{body}')
    assert damage(path.parent) == [
        "index.json is gridnn-checkpoint of version 9; this gridnn reads gridnn-checkpoint of 1"
    ]


def test_an_index_that_names_other_files_is_refused(root: Path) -> None:
    index = open_checkpoint(root / "step-00000020").index
    facts = index.files["state.json"]
    harmful = dump_index(index._replace(files={**index.files, "../outside": facts}))
    with pytest.raises(InputError, match="no files of a checkpoint"):
        load_index(harmful)


def test_an_index_whose_boxes_are_of_other_dims_is_refused(root: Path) -> None:
    index = open_checkpoint(root / "step-00000020").index
    for change in ({"shape": (1, 2)}, {"dtype": "float16"}):
        arrays = {**index.arrays, "weights/fc1.bias": index.arrays["weights/fc1.bias"]._replace(**change)}
        with pytest.raises(InputError, match="no index of a checkpoint"):
            load_index(dump_index(index._replace(arrays=arrays)))


def test_the_index_survives_its_text(root: Path) -> None:
    text = (root / "step-00000020" / "index.json").read_text()
    assert dump_index(load_index(text)) == text
    assert json.loads(text)["index"]["step"] == 20  # any reader of JSON can read it
    assert sorted(load_index(text).files) == sorted(FILES[1:])
