"""``python -m gridnn.train``: alone, under mpiexec or under srun."""

from __future__ import annotations

import sys

from gridnn.train.launch import main

if __name__ == "__main__":
    sys.exit(main())
