"""A PyTorch model as a skeleton graph: few large operators, and weights that are only names.

a model of source -> target |    leaves: its modules in the operators of operators
a head of heads   -> drafter |-> skeleton: the tracer, and the graph with weights by name (its axes: axes)
"""
