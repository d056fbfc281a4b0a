"""Picture files: finding, measuring and decoding them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from gridnn.errors import InputError
from gridnn.train.data.dataset import Array, DataOptions

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")

_DEEP = ("I", "F")


def pictures_in(folder: Path) -> list[Path]:
    """The picture files directly in a folder, by name."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())


def measure(path: Path) -> tuple[tuple[int, int], int]:
    """(H, W) and channels of a picture, from its header."""
    try:
        with Image.open(path) as picture:
            if picture.mode in _DEEP or picture.mode.startswith("I;"):
                # Pillow would clip these to 255 without a word.
                raise InputError(f"{path} has more than 8 bits a channel ({picture.mode}); save it as .npy")
            grey = picture.mode in ("1", "L", "LA")
            return (picture.height, picture.width), 1 if grey else 3
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise _unreadable(path, error) from error


def decode(path: Path, channels: int, size: tuple[int, int] | None) -> Array:
    """A picture as uint8 (C, H, W), scaled and cropped around its centre to `size` where given."""
    try:
        with Image.open(path) as picture:
            plain = picture.convert("L" if channels == 1 else "RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise _unreadable(path, error) from error
    if size is not None and (plain.height, plain.width) != tuple(size):
        plain = ImageOps.fit(plain, (size[1], size[0]), Image.Resampling.BICUBIC)
    pixels = np.asarray(plain)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def common_size(paths: Sequence[Path], options: DataOptions) -> tuple[tuple[int, int], int]:
    """(H, W) and channels that all pictures have or are brought to; sizes that differ are an error."""
    first, channels = measure(paths[0])
    if options.size is None:
        for path in paths[1:]:
            size, _ = measure(path)
            if size != first:
                raise InputError(
                    f"image sizes differ: {paths[0]} is {first[0]} x {first[1]} (height x width) and {path} "
                    f"is {size[0]} x {size[1]}; set data.size = [H, W] to scale and crop all to one size, or "
                    "data.tile = [H, W] to cut large photographs into tiles"
                )
    return tuple(options.size or first), options.channels or channels  # type: ignore[return-value]


def _unreadable(path: Path, error: Exception) -> InputError:
    if isinstance(error, Image.DecompressionBombError):
        return InputError(
            f"{path} has more pixels than Pillow decodes ({error}); save it as .npy, which is mapped and "
            "read by parts"
        )
    return InputError(f"{path} is not a readable picture ({error}); copy it again or remove it")
