# make demo   trains two digit classifiers and draws them     make test       every check
# make bench  the speed tables                              make pictures   those of the pages (needs Graphviz)
# Each makes the environment it needs in .venv; Python >= 3.11, pip and make suffice (no compiler, no dot, no GPU).
PYTHON ?= python3
TORCH ?= 1
TRITON ?= 1
BENCH ?=
# percent of lines and branches that must be run; without PyTorch fewer are
COVERAGE ?= $(if $(filter 1,$(TORCH)),90,80)

BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# One part of the checks: runs it, says how long it took, keeps its exit code.
PART = @set -e; start=$$(date +%s); code=0; echo "== $(1)"; $(2) || code=$$?; \
	echo "== $(1): $$(( $$(date +%s) - start )) s, exit code $$code"; exit $$code

.PHONY: demo test lint types imports tests bench pictures clean

demo: .venv/core.stamp
	$(BIN)/python examples/digits_mlp.py
	$(BIN)/python examples/digits_cnn.py

# Parts go on after a failure (-k), so that one run names everything that is wrong; pytest is last and closes the output.
test: .venv/test.stamp $(if $(filter 1,$(TORCH)),.venv/torch.stamp,without-torch) \
		$(if $(filter 1,$(TRITON)),.venv/triton.stamp,without-triton)
	@$(MAKE) --no-print-directory -k lint types imports tests TORCH=$(TORCH)

lint: .venv/test.stamp
	$(call PART,ruff,$(BIN)/ruff check .)

types: .venv/test.stamp
	$(call PART,mypy --strict,$(BIN)/mypy)

imports: .venv/test.stamp
	$(call PART,import-linter,$(BIN)/lint-imports --no-cache)

# the package's doctests are found through the links graphc/ops and graphc/backends
tests: .venv/test.stamp
	@echo "== pytest, doctests, examples"
	@$(BIN)/python -m pytest -q -n auto --doctest-modules graphc tests --cov --cov-report=term \
		--cov-fail-under=$(COVERAGE) --durations=15

bench: .venv/test.stamp .venv/torch.stamp
	$(BIN)/python -m benchmarks $(BENCH)

# the pictures of README.md and docs/TOUR.md, and the tour's blocks of text
pictures: .venv/core.stamp
	$(BIN)/python docs/draw_pictures.py
	$(BIN)/python docs/tour.py

# ---- environments: one .venv, filled in three steps

.venv/python.stamp:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "graphc needs Python 3.11 or newer: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv .venv
	@touch $@

.venv/core.stamp: .venv/python.stamp pyproject.toml
	$(PIP) --editable '.[demo]'
	@touch $@

.venv/test.stamp: .venv/core.stamp
	$(PIP) --editable '.[dev]'
	@touch $@

# The reference that gradients, layers and optimizers are compared with. Any build of this version will do.
.venv/torch.stamp: .venv/test.stamp
	$(PIP) torch==2.13.0 torch_geometric==2.8.1
	@touch $@

# The compiler of the GPU backend: its interpreter and its cubins are tested without a GPU.
.venv/triton.stamp: .venv/test.stamp
	$(PIP) triton==3.6.0
	@touch $@

.PHONY: without-triton
without-triton:
	@echo "TRITON=0: Triton is not installed here; what needs it is listed at the end as NOT CHECKED"

.PHONY: without-torch
without-torch:
	@echo "TORCH=0: PyTorch is not installed here; what needs it is listed at the end as NOT CHECKED"

clean:
	rm -rf .venv build demo-output *.egg-info .coverage* .pytest_cache .mypy_cache .ruff_cache
