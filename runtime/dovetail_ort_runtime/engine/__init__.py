"""Graphs on devices: sessions, KV caches and forwards.

    devices, graph_choice -> session + kv_cache (in cache_memory, within gpu_memory) + host_buffers -> graph_runner
    graph_runner: target (after its first_blocks), draft_graph; forward_rows -> forward_inputs -> logits, hidden states
    measured of a target: forward_times, row_invariance; of the kernels: reference_bits; ort_protocols: what it calls

It knows no text and no drafting.
"""
