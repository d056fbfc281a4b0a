"""The thinking wing and `import gridnn` work on a machine without MPI."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

from tests.support.launch import ROOT, environment

WITHOUT_MPI = """
import importlib, pkgutil, sys

class NoMpi:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "mpi4py":
            raise ImportError("no mpi4py here")

sys.meta_path.insert(0, NoMpi())
package = importlib.import_module(sys.argv[1])
if sys.argv[1] != "gridnn":
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
heavy = {"mpi4py", "cupy", "matplotlib", "h5py"} & {name.split(".")[0] for name in sys.modules}
assert not heavy, heavy
"""


@pytest.mark.parametrize(
    "name", ["gridnn", "gridnn.geometry", "gridnn.network", "gridnn.cost", "gridnn.plan"]
)
def test_imports_without_mpi(name: str) -> None:
    assert importlib.util.find_spec(name) is not None
    command = [sys.executable, "-W", "error", "-c", WITHOUT_MPI, name]
    done = subprocess.run(command, cwd=ROOT, env=environment(1), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
