"""Build hook: compile the C of kernels/ into the package; without a compiler the package is still whole.

gridnn then computes with oneDNN or NumPy and says so once; the planner simulates in plain Python.
"""

from __future__ import annotations

import importlib.util
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CustomBuildHook(BuildHookInterface):
    """Compile before the files are collected (wheel and editable installs)."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile every library and name them as files of the wheel."""
        if self.target_name != "wheel":
            return
        folder = Path(self.root) / "kernels"
        if version != "editable":  # there they lie beside the package
            for path in sorted(folder.glob("*.cu*")):  # compiled for a device when one is used
                build_data["force_include"][str(path)] = f"gridnn/kernels/{path.name}"
        spec = importlib.util.spec_from_file_location("build_kernels", folder / "build.py")
        assert spec is not None and spec.loader is not None
        kernels = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(kernels)
        try:
            made = kernels.build() + kernels.build_plan()
        except kernels.BuildError as error:
            self.app.display_warning(f"gridnn: C was not compiled, NumPy and Python will be used: {error}")
            return
        build_data["artifacts"] += [f"/{path.relative_to(self.root)}" for path in made]
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{platform}"  # no Python API inside: one wheel for all versions
