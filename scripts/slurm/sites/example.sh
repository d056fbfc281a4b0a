# shellcheck shell=bash disable=SC2034
# A site: copy this file to sites/NAME.sh, fill it in, and set GRIDNN_SITE=NAME.  It is read twice: by `submit` on the
# login node, where sbatch looks at SBATCH_*, and by the batch script on the first node of the job.

# For sbatch: what is charged, where it runs, and whatever else this cluster asks for in every job.
export SBATCH_ACCOUNT=project123
export SBATCH_PARTITION=compute
# export SBATCH_CONSTRAINT=cpu
# export SBATCH_QOS=normal

# The software: modules first, if the MPI comes from them (then set up with: make setup MPI=site).
# module load python mpich

# The Python that has gridnn and mpi4py, on a file system that all nodes see.
GRIDNN_PYTHON=$GRIDNN_HOME/.venv/bin/python

# What `srun --mpi=` must say for the MPI behind mpi4py; `srun --mpi=list` shows what this Slurm has.
#   MPICH, Intel MPI, and the wheel of `make setup`: pmi2       Open MPI: pmix       Cray MPICH: cray_shasta
# A wrong one starts as many separate runs as there are ranks; gridnn notices and refuses.
GRIDNN_MPI=pmi2

# Where records and checkpoints of runs go: a parallel file system that all nodes see.
GRIDNN_RUNS=${SCRATCH:-$HOME}/gridnn-runs

# More for srun.  A rank stays on its own cores: without that the kernels of two ranks meet on one core now and then,
# and everybody waits for those two.
GRIDNN_SRUN=(--cpu-bind=cores)

# The link between nodes, if MPI does not find it by itself.
# export UCX_NET_DEVICES=mlx5_0:1
