"""The same weights and prompts through other engines, each in a process and an environment of its own.

__main__ ──> setups ──> process ──> dovetail_peer, genai_peer, openvino_peer, transformers_peer, llama_peer.mjs
save_hugging_face, save_q8_gguf: the weights in the forms that the others read

What runs in another engine's environment imports `program`, the standard library and that engine.
"""
