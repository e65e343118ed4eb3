# Every target makes .venv by itself when it is missing or when the pinned packages changed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
BENCH := .venv-bench
LOADING := .venv-loading
REFERENCES := .venv-references
SITE := import sysconfig; print(sysconfig.get_path('purelib'))
ARGS ?=
PORT ?= 5092
SWANLOG ?= swanlog

.DEFAULT_GOAL := help
.PHONY: help setup train seeds test test-slow test-long fuzz browser browser-setup check bench bench-setup references dashboard lint format clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1|/' | column -t -s '|'

setup: $(STAMP) ## Make .venv and install everything into it

# sam2 wants torch at build time and would compile a CUDA extension that training does not use, so
# it is built without isolation, after torch, and without torchvision, which training does not import.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt setuptools wheel torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	SAM2_BUILD_CUDA=0 $(BIN)/python -m pip install --quiet --no-build-isolation --no-deps sam2==1.1.0
	touch $@

train: setup ## Train the default run, or e.g. make train ARGS="data=vos_folder data.root=DIR"
	$(BIN)/python train.py visualizations.enabled=true $(ARGS)

seeds: setup ## Train the default run with twenty seeds and print what each reaches (an hour)
	$(BIN)/python -m tests.seeds $(ARGS)

# One process per core and one thread per process: toy models gain nothing from threads of their own.
test: setup ## Run the test suite
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile $(ARGS)

test-slow: setup ## Run the tests that take minutes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal -m "slow and not long" --timeout 1200 $(ARGS)

test-long: setup ## Run further cases of the slow tests, which CI leaves out (about an hour)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal -m long --timeout 1200 $(ARGS)

fuzz: setup ## Run the property tests in their long form
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto -m "fuzz and not long" --timeout 1200 $(ARGS)

browser-setup: setup
	command -v chromedriver >/dev/null || [ "$$(id -u)" != 0 ] \
		|| { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium chromium-driver; } \
		|| echo "chromium cannot be installed: the tests are skipped"
	$(BIN)/python -m pip install --quiet -c constraints.txt selenium || echo "selenium cannot be installed: without chromium the tests are skipped, with it they fail"

browser: browser-setup ## Look at the dashboard in headless Chromium (installs chromium when run as root)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile -m browser --timeout 600 $(ARGS)

# In one go they are collected once, and no core waits for the other between them.
check: browser-setup ## Run test, test-slow, fuzz and browser in one go, as CI does
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal -m "not long" --timeout 1200 $(ARGS)

# The peers bring opencv-python, which needs libGL and would lie over the headless one: they have an
# environment of their own, which finds everything else in that of training. So has torchvision, of
# which the official pipeline is made and beside which Lightning cannot be imported everywhere.
bench-setup: setup
	test -x $(BENCH)/bin/python || $(BIN)/python -m venv $(BENCH)
	$(BIN)/python -c "$(SITE)" > "$$($(BENCH)/bin/python -c "$(SITE)")/training.pth"
	$(BENCH)/bin/python -m pip install --quiet -c constraints.txt -e '.[bench]' || echo "peers not installed: their rows are skipped"
	test -x $(LOADING)/bin/python || $(BIN)/python -m venv $(LOADING)
	$(BIN)/python -c "$(SITE)" > "$$($(LOADING)/bin/python -c "$(SITE)")/training.pth"
	$(LOADING)/bin/python -m pip install --quiet --no-deps torchvision==0.28.0 || echo "torchvision not installed: loading is skipped"

bench: bench-setup ## Measure what the visualisation costs; writes outputs/bench.json
	$(BENCH)/bin/python -m tests.benchmarks $(ARGS)

# Public evaluators bring opencv-python, as the peers do, and nothing of theirs is needed elsewhere.
references: setup ## Compare the numbers of core.evaluate with those of public evaluators
	test -x $(REFERENCES)/bin/python || $(BIN)/python -m venv $(REFERENCES)
	$(REFERENCES)/bin/python -m pip install --quiet vos-benchmark==0.1.0 esdft-segmetric==0.1.0
	$(BIN)/python -m tests.references $(REFERENCES)/bin/python $(ARGS)

dashboard: setup ## Serve the local SwanLab dashboard on 127.0.0.1:$(PORT)
	$(BIN)/swanlab watch $(SWANLOG) -h 127.0.0.1 -p $(PORT)

# Tests may be a little more complex than the program; radon prints what is above 10 and never fails.
lint: setup ## Check style, types, the direction of imports, and complexity
	$(BIN)/ruff check .
	$(BIN)/ruff check --isolated --select C901 --config lint.mccabe.max-complexity=12 tests
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	@complex=$$($(BIN)/radon cc -s -n C core train.py) && echo "$$complex" | awk -F '[()]' \
		'/^[^ ]/ { file = $$0 } /^ +[FM] / && $$2 > 15 { print file $$0 " is above 15"; bad = 1 } END { exit bad }'

format: setup ## Fix style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## Remove .venv, .venv-bench, .venv-loading and .venv-references
	rm -rf $(VENV) $(BENCH) $(LOADING) $(REFERENCES)
