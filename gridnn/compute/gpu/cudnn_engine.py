"""The engine of a device beside which there is cuDNN, and how it is opened.

compute.conv   cuDNN can be used                            it cannot
own            `Engine`: own kernels                        the same
auto           `CudnnEngine`: the faster one, or by rule    the same, and nobody is told
cudnn          `CudnnEngine`: cuDNN wherever it can         `InputError`
"""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import import_module
from typing import Literal

from gridnn import __version__
from gridnn.compute.cpu.window import Window
from gridnn.compute.gpu.choice import Convolutions, Given
from gridnn.compute.gpu.cudnn import Found, Library, find_cudnn
from gridnn.compute.gpu.cudnn_graph import Pass
from gridnn.compute.gpu.device import CupyDevice, Device
from gridnn.compute.gpu.engine import Engine, Precision
from gridnn.compute.gpu.found import Load
from gridnn.compute.gpu.room import Room
from gridnn.errors import InputError

Conv = Literal["auto", "own", "cudnn"]


class CudnnEngine(Engine):
    """An engine of a device whose convolutions may be cuDNN's.

    Parameters
    ----------
    convolutions
        Who computes which.
    """

    def __init__(
        self, device: Device, precision: Precision, room: Room | None, convolutions: Convolutions
    ) -> None:
        super().__init__(device, precision, room)
        self.convolutions = convolutions

    @property
    def name(self) -> str:
        """What computes, in words."""
        how = "where it measures faster" if self.convolutions.measured else "where it can"
        return f"{super().name}, convolutions by cuDNN {self.convolutions.library.found.backend} {how}"

    @property
    def machine(self) -> str:
        """What a measured choice holds for: the kind of device, precision, versions."""
        found, device = self.convolutions.library.found, self.device
        kind = re.sub(r" \(device \d+\)$", "", device.name)
        return (
            f"{kind} {'.'.join(map(str, device.capability))}, {self.precision}, cuDNN {found.backend} through "
            f"{found.frontend}, gridnn {__version__}"
        )


def open_engine(
    device: Device, precision: Precision, room: Room, conv: Conv = "own", *, measured: bool = True,
    deterministic: bool = True, load: Load = import_module, stream: Callable[[], int] | None = None,
) -> Engine:  # fmt: skip
    """Return the engine of a device: with cuDNN where that is asked for, or found.

    Parameters
    ----------
    conv
        "auto" takes cuDNN where it is installed, "own" never.
    measured
        With "auto": whether shapes are measured.
    load, stream
        As `cudnn.Library` has them; without a stream the device must be CuPy's.

    Raises
    ------
    InputError
        If cuDNN is asked for and cannot be used.
    """
    if conv == "own":
        return Engine(device, precision, room)
    usable = stream is not None or isinstance(device, CupyDevice)  # addresses of another are none to cuDNN
    found = find_cudnn(load) if usable else Found(missing=f"{device.name} is no CUDA device")
    library = None
    if not found.missing:
        try:
            library = Library(found, stream, load)
        except Exception as error:  # the frontend's own classes
            found = found._replace(missing=f"cuDNN {found.backend} does not start on {device.name} ({error})")
    if library is not None:
        ways = Convolutions(library, conv == "auto" and measured, deterministic)
        return CudnnEngine(device, precision, room, ways)
    if conv == "cudnn":
        raise InputError(
            f'compute.conv = "cudnn" needs cuDNN, and {found.missing}; or take compute.conv = "auto" or "own"'
        )
    return Engine(device, precision, room)


def compute(
    engine: Engine, kind: Pass, arrays: Given, window: Window, own: Callable[[], None], relu: bool = False
) -> None:  # fmt: skip
    """Compute a pass by cuDNN where that was chosen, else by own kernels.

    Parameters
    ----------
    own
        As `Convolutions.run` takes it.
    relu
        Whether the result of a forward pass is rectified.
    """
    if not isinstance(engine, CudnnEngine):
        return own()
    asked = engine.convolutions.asked(engine, kind, arrays, window, relu)
    return own() if asked is None else engine.convolutions.run(engine, asked, own, arrays)
