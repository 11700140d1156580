"""The network of a draft head: training sets its weights, and attaching turns it into a graph.

config: the sizes that decide its weights -> draft_head: fusion and decoder blocks in torch
"""
