"""Weights as integers, and the range of what a model computes.

float32 weights -> blocks (8 bits) | nibbles (4 bits) -> packed_weights, in the order in which the kernels read them
model + text -> cache_range: whether keys and values fit fp16
"""
