"""Graphs on devices: sessions, KV caches and forwards; it knows no text and no drafting.

graph + device -> session -> target (behind first_blocks) | draft_graph, each with a kv_cache
rows -> forward_inputs -> one forward -> logits, hidden states
"""
