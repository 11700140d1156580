"""The network of a draft head, which training teaches and the exporter makes a graph of.

config: the sizes that decide its weights -> draft_head: fusion and decoder blocks in torch
"""
