"""Whether the exported graph is the model that its publisher means.

check_text -> reference: the original model's logits -> agreement: mean KL divergence, equal first tokens
files -> witness, read and computed apart from the export -> cross_check: model and graph against it
"""
