# shellcheck shell=bash disable=SC2034
# One machine, or a cluster whose nodes all see this checkout: Python and MPI (MPICH) from `make setup`.
# Each line can be changed from outside; what a cluster needs beyond that belongs into a file of its own.
GRIDNN_PYTHON=${GRIDNN_PYTHON:-$GRIDNN_HOME/.venv/bin/python}
GRIDNN_MPI=${GRIDNN_MPI:-pmi2}
GRIDNN_RUNS=${GRIDNN_RUNS:-$PWD/runs}
GRIDNN_SRUN=()
