"""What every test may use: the marker `ranks`, the fixtures `comm`, `shared_path`, `sample_seed`."""

from __future__ import annotations

pytest_plugins = ["tests.support.plugin"]
