"""Graphs on devices: sessions, KV caches and forwards; it knows no text and no drafting.

graph_choice -> session + kv_cache -> graph_runner: target (after its first_blocks), draft_graph
rows -> forward_inputs -> one forward, bound once -> logits, hidden states
"""
