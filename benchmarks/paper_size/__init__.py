"""What a round costs at the size of the paper, LLaMA-2-7B, with random weights.

random_source ──> `dovetail-ort export` ──> __main__, with random_drafters ──> projection
"""
