"""A small set of real pictures: tiles of eight photographs, each a class of its own, for accuracy.py.

    pip install scikit-image           # ships the photographs; gridnn itself does not need it
    python analysis/bench/tiles.py FOLDER

About 3000 tiles of 24 x 24, by class in a folder; drawn by a fixed seed, so they are the same everywhere.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

PHOTOGRAPHS = (
    "gravel.png", "brick.png", "grass.png", "retina.jpg", "ihc.png", "hubble_deep_field.jpg", "coffee.png", "camera.png"
)  # fmt: skip
SIDE, MOST, LONGEST = 24, 400, 900
PLAIN = 6.0
"""Standard deviation, in grey levels, below which a tile shows nothing: black sky, a rim."""


def main() -> None:
    """Cut and save."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("folder", type=Path)
    given = options.parse_args()
    import skimage

    source, rng = Path(skimage.__file__).parent / "data", np.random.default_rng(0)
    for name in PHOTOGRAPHS:
        picture = Image.open(source / name).convert("RGB")
        longest = max(picture.size)
        if longest > 1000:
            picture = picture.resize(
                (picture.width * LONGEST // longest, picture.height * LONGEST // longest)
            )
        pixels = np.asarray(picture)
        corners = [range(0, extent - SIDE + 1, SIDE) for extent in pixels.shape[:2]]
        tiles = [pixels[i : i + SIDE, j : j + SIDE] for i in corners[0] for j in corners[1]]
        tiles = [tile for tile in tiles if tile.std() > PLAIN]
        folder = given.folder / name.split(".")[0]
        folder.mkdir(parents=True, exist_ok=True)
        for number, at in enumerate(rng.permutation(len(tiles))[:MOST]):
            Image.fromarray(tiles[at]).save(folder / f"{number:04d}.png")
        print(f"{name}: {min(len(tiles), MOST)} of {len(tiles)} tiles")


if __name__ == "__main__":
    main()
