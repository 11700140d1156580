"""A PyTorch model as a skeleton graph, whose operators stand for one idea each.

source.model -> operators (torch symbols) -> target | drafter -> an ONNX graph with weights by name
"""
