"""Train a draft head on text that its target writes itself.

text_writer ──> text_shards ──> text_batches ──> trainer ──> head directory
│                               │              │
slotted_target                draft_vocabulary   draft_head, unrolling, chain_acceptance
"""
