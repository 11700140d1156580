"""Draft heads: the prompts that they are trained with, heads that differ in one thing, and what each of them accepts.

training_prompts ──> `dovetail-ort train` ──> variants ──> measure
"""
