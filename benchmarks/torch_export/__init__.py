"""The trace of a target by `torch.export`, compared with the trace by the legacy exporter (docs/torch-export.md).

__main__ ──> symbolic_operators, refusals
"""
