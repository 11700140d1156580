"""Train a draft head on text that its target writes itself.

text_writer ──> text_shards ──> training_text ──> training_session ──> head_directory
│                                                 │
slotted_target                                    draft_head, chains, optimisers
"""
