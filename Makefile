# Needs make and Python 3.11 or newer; everything else goes into .venv and models/.

PYTHON ?= python3
BIN := .venv/bin
SOURCES := broker cli client docs gateway shared worker benchmarks examples tests

TESTS := $(BIN)/pytest --numprocesses 4 --dist loadfile --no-loadscope-reorder -m "not matrix"
LOCK := build/lock-venv/bin/uv pip compile pyproject.toml --constraint constraints.txt --universal --upgrade \
    --python-version 3.11 --generate-hashes --no-annotate --no-header --quiet

.PHONY: serve test check attack fuzz matrix soak lock compare-torchserve clean

# The demo: both example models in the foreground. What is there already is not made again.
serve: .venv/.demo models/.built
	$(BIN)/torchrelay serve --model-store models --models all --enable-model-api

# All that CI runs. Most tests wait for processes, so four go side by side, on two cores too; those of a file share
# its servers, and tests/conftest.py says which file comes first. mypy takes what they leave of the cores, and says at
# the end what it has found: `make check` has it first.
# Bytecode is kept whatever the environment says: those processes collect, and what they start imports the same again.
test: export PYTHONDONTWRITEBYTECODE :=
test: .venv/.dev
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	@mkdir -p build
	@echo '$(BIN)/mypy, beside $(TESTS)'; \
	nice $(BIN)/mypy > build/mypy.log 2>&1 & mypy=$$!; trap "kill $$mypy 2> /dev/null" INT TERM EXIT; \
	$(TESTS); tests=$$?; \
	wait $$mypy; types=$$?; echo mypy:; cat build/mypy.log; exit $$((tests + types))

# What a person runs before a commit: seconds, no process started.
check: .venv/.dev
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/pytest -q -m "not integration and not gpu"

# Attacks of minutes and hundreds of MB on servers of their own, beside honest requests; takes about half an hour.
# ATTACKS='NAME ...' runs some of them; `python -m tests.attacks --list` says which there are.
attack: .venv/.dev
	$(BIN)/python -m tests.attacks $(ATTACKS)

# Peers and bytes that say anything, seed after seed, until it is stopped; FUZZ="--seed 7" runs one again.
fuzz: .venv/.dev
	$(BIN)/python -m tests.fuzz $(FUZZ)

# Each fault of each part of a fleet, as root; about five minutes. Most of it is waiting, so that several fleets go
# side by side. Writes what docs/reliability.md is made of.
matrix: export TORCHRELAY_PRELOAD := torch
matrix: .venv/.dev
	rm -f benchmarks/results/matrix.jsonl
	MATRIX_RESULTS=benchmarks/results/matrix.jsonl $(BIN)/pytest tests/reliability/test_matrix.py --numprocesses 4 --dist worksteal
	$(BIN)/python -m tests.reliability.page

# Random faults under load, as root. The same seed is the same schedule; the report goes to build/soak.{json,md}.
MINUTES ?= 10
SEED ?= 1
soak: .venv/.dev
	$(BIN)/python -m tests.reliability.soak --minutes $(MINUTES) --seed $(SEED)

# The same requests to the real TorchServe (needs Java 17) and to ours; takes about twenty minutes.
compare-torchserve: .venv/.dev build/torchserve-venv/.made
	$(BIN)/python -m tests.compatibility.compare --torchserve build/torchserve-venv/bin/torchserve

build/torchserve-venv/.made: constraints.txt
	$(PYTHON) -m venv build/torchserve-venv
	build/torchserve-venv/bin/python -m pip install --quiet --constraint constraints.txt torch torchserve \
	    setuptools pyyaml pillow numpy
	touch $@

# Renews what the images install, hashes included, after a change of constraints.txt or pyproject.toml.
lock: build/lock-venv/.made
	echo 'setuptools>=77' | $(LOCK) --extra broker --output-file deploy/requirements-broker.txt -
	echo 'setuptools>=77' | $(LOCK) --extra gateway --extra grpc-native --output-file deploy/requirements-gateway.txt -
	printf 'setuptools>=77\npillow>=10\n' | $(LOCK) --extra worker --output-file deploy/requirements-worker.txt -

build/lock-venv/.made: constraints.txt
	$(PYTHON) -m venv build/lock-venv
	build/lock-venv/bin/python -m pip install --quiet --constraint constraints.txt uv
	touch $@

clean:
	rm -rf .venv models .torchrelay build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

.venv/.made:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "torchrelay needs Python 3.11 or newer")'
	$(PYTHON) -m venv .venv
	touch $@

# Stamps, so that a second run asks no registry. Demo and dev differ by tools that only tests need.
.venv/.demo: .venv/.made pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[all,demo]'
	touch $@

.venv/.dev: .venv/.made pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m compileall -qq -j 0 .venv/lib || true  # pip does it on one core; some files are of other Pythons
	touch $@ .venv/.demo

models/.built: .venv/.demo examples/build.py $(wildcard examples/*/*.py)
	$(BIN)/python examples/build.py models
	touch $@
