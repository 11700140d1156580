"""Weights as integers, and the range of a model's keys and values.

float32 weights -> scales -> blocks: 8 or 4 bits, for a stock ONNX Runtime
                          -> packed_weights: 8 bits | nibbles: 4 bits, in the order in which the kernels read them
model + text -> cache_range: whether keys and values fit fp16
"""
