# The commands of this checkout. Everything they need goes into .venv; nothing else is touched.
#   make setup            MPI and oneDNN from wheels (no system MPI needed); compiles the CPU kernels if there is a gcc
#   make setup MPI=site   use the MPI of this site instead (its mpiexec on PATH)
#   make demo [RANKS=4]   train the default network on RANKS processes
#   make kernels          compile the kernels again (set-up does it; needs gcc)
#   make test             all tests; ranks are started as needed
#   make sanitize         kernels of GPUs on the CPU, under the address and undefined-behaviour sanitizers (4 minutes)

PYTHON ?= python3
MPI ?= wheel
RANKS ?= 4

BIN := .venv/bin
EXTRA := $(if $(filter site,$(MPI)),site-mpi,mpi)
STAMP := .venv/.setup-$(EXTRA)
# Any finished set-up will do for the other targets: they must not undo `make setup MPI=site`.
READY := $(firstword $(wildcard .venv/.setup-*) $(STAMP))
KERNELS := kernels/build.py $(wildcard kernels/*/*)
ONE_THREAD := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1

.PHONY: setup kernels demo test lint sanitize sweep nightly clean

setup: $(STAMP)

.venv/.setup-%: pyproject.toml hatch_build.py $(KERNELS)
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	rm -f .venv/.setup-*
	$(if $(filter site-mpi,$*),$(BIN)/python -m pip uninstall --quiet --yes mpich)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[$*,cpu,data,onnx,report,dev]"
	touch $@

kernels: $(READY)
	$(BIN)/python kernels/build.py

demo: $(READY)
	scripts/mpirun $(RANKS) $(BIN)/python -m gridnn.train

test: $(READY)
	$(ONE_THREAD) $(BIN)/python -m pytest

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(ONE_THREAD) $(BIN)/python -m pytest --quiet tests/house

sanitize: $(READY)
	SHIM_CXXFLAGS="-fsanitize=address,undefined -fno-sanitize-recover=undefined" \
	LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libubsan.so)" \
	ASAN_OPTIONS=detect_leaks=0 $(BIN)/python -m pytest tests/compute/gpu --deselect tests/compute/gpu/test_compile.py

# Exhaustive tests, left out of `make test`; nightly runs them with all the others, and what sanitizers see behind them.
sweep: $(READY)
	$(ONE_THREAD) $(BIN)/python -m pytest --sweep -m sweep

nightly: $(READY)
	$(ONE_THREAD) $(BIN)/python -m pytest --sweep
	$(MAKE) sanitize

clean:
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	find . -path ./.venv -prune -o -name __pycache__ -type d -exec rm -rf {} +
