"""The round: draft, verify, accept; and its tokens as an answer.

    decoder: drafter.propose -> verification (rows) -> target.forward -> acceptance -> KV cache keeps what was accepted
    answer_stream: tokens -> pieces of text with their statistics; turn_queue: one answer at a time

It knows no bundle.
"""
