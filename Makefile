# `make demo` and `make test` set up what they need in .venv; nothing else on the machine is touched.
SHELL  := bash
PYTHON ?= python3
VENV   ?= .venv
EXTRAS ?= dev
ARGS   ?=
COMMA  := ,
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed-$(subst $(COMMA),-,$(EXTRAS))
CODE   := p2p experiments evaluation results tests

.PHONY: help setup demo test fuzz faults check bench gpu quality quality-flow train-vae train-diffusion train-clip train-lpips train-judge train-flow train-instruct
.DEFAULT_GOAL := help

help:
	@echo 'make demo      set up, then run the main job on the embedded model; the last line is the run folder'
	@echo 'make test      set up, then run the tests'
	@echo 'make fuzz      10,000 odd inputs, others each time; a few hundred are among the tests'
	@echo 'make faults    kills, full disks, damaged files and more, a hundred times; a few are among the tests'
	@echo 'make check     ruff and mypy'
	@echo 'make bench     what sharing saves and the engine costs, as ratios'
	@echo 'make gpu       that the engine is right and fast on a GPU; ARGS="--quick --device cpu" rehearses it'
	@echo 'make quality   what the embedded models show on held-out scenes; make quality-flow: a flow transformer'
	@echo 'make train-vae, train-diffusion, train-clip, train-lpips, train-judge, train-flow, train-instruct'
	@echo 'Options: PYTHON=python3.12 VENV=.venv EXTRAS=dev,ray for the set-up, ARGS=... for what is run'

setup: $(STAMP)

# The warning left out is of local mirrors that lack a package; all else that pip says is shown.
$(STAMP): pyproject.toml constraints.txt
	@echo 'Setting up $(VENV); the first time takes minutes.'
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS)]' \
		2> >(grep -v "^WARNING: Location '.*' is ignored" >&2)
	@touch $@

demo: $(STAMP)
	@$(BIN)/p2p-bench run experiment=quickstart $(ARGS)

# Tests are free to spread, but for the files that name an xdist_group: what they share takes long to make.
test: $(STAMP)
	@$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadgroup $(ARGS)

fuzz: $(STAMP)
	@P2P_FUZZ=10000 $(BIN)/python -m pytest tests/fuzz $(ARGS)

faults: $(STAMP)
	@P2P_FAULTS=$${P2P_FAULTS:-100} $(BIN)/python -m pytest tests/faults -m 'slow or not slow' $(ARGS)

check: $(STAMP)
	@$(BIN)/ruff check $(CODE)
	@$(BIN)/ruff format --check $(CODE)
	@$(BIN)/mypy

bench: $(STAMP)
	@$(BIN)/python -m experiments.bench $(ARGS)

# Where nothing can be installed: python3 -m experiments.bench.gpu (CONTRIBUTING.md).
gpu: $(STAMP)
	@$(BIN)/python -m experiments.bench.gpu $(ARGS)

quality: $(STAMP)
	@$(BIN)/python -m experiments.embedded.quality $(ARGS)

quality-flow: $(STAMP)
	@$(BIN)/python -m experiments.embedded.flow_quality $(ARGS)

train-vae train-diffusion train-clip train-lpips train-judge train-flow train-instruct: train-%: $(STAMP)
	@$(BIN)/python -m experiments.embedded.train_$* $(ARGS)
