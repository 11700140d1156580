"""Train a draft head on text that its target writes itself.

text_writer ──> written_text ──> training_text ──> training_session ──> head_directory
│                                                  │
slotted_target                                     draft_head, chains, optimisers
"""
