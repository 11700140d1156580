"""Whether the exported graph is the model that its publisher means.

check text -> agreement: the graph against the original model, mean KL divergence and equal first tokens
files -> witness, read and computed apart from the export -> cross_check: model and graph against it
"""
