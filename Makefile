PYTHON ?= python3
BIN := .venv/bin
PYTEST := python -m pytest -n auto --dist loadfile

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

# Keep compiled bytecode even if the machine says not to: each process would compile torch again, which takes seconds.
export PYTHONDONTWRITEBYTECODE :=

setup: .venv/.installed ## set up .venv with everything (downloads several GB the first time)

.venv/.installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --editable '.[dev]'
	@touch $@

test test-lowest test-newest: export OMP_NUM_THREADS := 1 # the processes share the cores

docs: setup ## the documentation as a site in site/; broken links are errors
	$(BIN)/python -m mkdocs build --strict --quiet

package: setup ## a wheel and an sdist in dist/, installed into empty environments: alone and with [all] (downloads torch)
	rm -rf dist
	$(BIN)/python -m build --installer uv
	for file in dist/*.tar.gz dist/*.whl; do \
		$(BIN)/uv venv --quiet --clear build/empty && \
		$(BIN)/uv pip install --quiet --python build/empty/bin/python $$file && \
		build/empty/bin/python -I -c 'import bam; print(bam.__version__, bam.BAM(64))' && build/empty/bin/bam doctor || exit 1; done
	$(BIN)/uv pip install --quiet --python build/empty/bin/python "$$(ls dist/*.whl)[all]"
	build/empty/bin/bam doctor
	cd build && empty/bin/bam compare --recipe digits/small --epochs 1 --seeds 1 --attention none,bam --out ../build/compared

# Old versions deprecate what newer ones have dropped, so their warnings are no errors.
test-lowest: setup ## the tests with the lowest versions of the dependencies that pyproject.toml allows
	$(BIN)/uv run --isolated --no-project --resolution lowest-direct --with-editable '.[dev]' $(PYTEST) -W default

test-newest: setup ## the tests with the newest versions
	$(BIN)/uv run --isolated --no-project --resolution highest --upgrade --with-editable '.[dev]' $(PYTEST)

demo: setup ## the main job on the embedded digits: a network without and with BAM, three paired seeds, a report
	$(BIN)/bam compare --recipe digits/small --attention none,bam --seeds 3 --jobs 2

test: lint ## lint, then the tests (a few minutes, no network, no GPU)
	$(BIN)/$(PYTEST)

test-slow: setup ## the tests that take longer
	$(BIN)/python -m pytest -m slow

lint: setup ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup ## put the code into its style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup ## the benchmarks (minutes; on an otherwise idle machine)
	$(BIN)/python benchmarks/module.py --compile
	$(BIN)/python benchmarks/module.py --threads 1
	$(BIN)/python benchmarks/network.py
	$(BIN)/python benchmarks/network.py --model cifar/resnet20 --image 32 --batch 128
	$(BIN)/python benchmarks/network.py --model cifar/resnet8 --image 24 --batch 32 --dtype fp32 --threads 1
	$(BIN)/python benchmarks/loop.py
	$(BIN)/python benchmarks/inference.py --threads 1
	$(BIN)/python benchmarks/inference.py --threads 2
	$(BIN)/python benchmarks/inference.py --models cifar/resnet8,cifar/resnet20 --image 32 --threads 1
	$(BIN)/python benchmarks/decoding.py --threads 1
	$(BIN)/python benchmarks/decoding.py --threads 1 --size 128
	$(BIN)/python benchmarks/scaling.py
	$(BIN)/python benchmarks/page.py

coverage: setup ## docs/coverage.md again, from networks not tried yet (half an hour if docs/coverage.csv is removed first)
	$(BIN)/bam coverage --out docs
	$(BIN)/python -m tests.ecosystem.table docs/coverage.md

audit: setup ## known vulnerabilities in what is installed (asks a service), and its licences
	$(BIN)/pip-licenses
	$(BIN)/pip-audit --local --skip-editable --strict

notebooks: setup ## execute the notebooks again, and keep their outputs
	rm -rf build/notebooks && mkdir -p build/notebooks && cp docs/notebooks/*.ipynb build/notebooks
	cd build/notebooks && PATH="$(CURDIR)/$(BIN):$$PATH" jupyter execute --inplace *.ipynb
	cp build/notebooks/*.ipynb docs/notebooks

clean: ## remove what the other targets made, except your runs
	rm -rf .venv build dist site src/*.egg-info .pytest_cache .ruff_cache .mypy_cache

.PHONY: help setup docs package test-lowest test-newest demo test test-slow lint format bench coverage audit notebooks clean
