"""Names of a bundle's graphs, inputs, outputs and weights: the contract between the export and the runtime.

docs/bundle-format.md says what each holds.
"""

from __future__ import annotations

from typing import Final

# A bundle's graphs.
TARGET: Final = "target"
DRAFTER: Final = "drafter"

# Inputs.
INPUT_IDS: Final = "input_ids"
POSITION_IDS: Final = "position_ids"
SCORED_ROWS: Final = "scored_rows"
ATTENTION_BIAS: Final = "attention_bias"
# Of a portable graph.
SEQUENCE_LENGTHS: Final = "seqlens_k"
TOTAL_LENGTH: Final = "total_sequence_length"
# Of a native graph.
LENGTHS: Final = "lengths"
SEQUENCE_IDS: Final = "sequence_ids"
SLOTS: Final = "slots"
ANCESTORS: Final = "ancestors"

LOGITS: Final = "logits"
HIDDEN_STATES: Final = "hidden_states"
DRAFTER_FEATURES: Final = "drafter_features"
BLOCK_STATES: Final = "block_states"
# Of a drafter.
NUM_CANDIDATES: Final = "num_candidates"
PREDICTED_STATES: Final = "predicted_states"
CANDIDATE_IDS: Final = "candidate_ids"
CANDIDATE_LOG_PROBABILITIES: Final = "candidate_log_probabilities"

COS_TABLE: Final = "rotary.cos"
SIN_TABLE: Final = "rotary.sin"

PAST: Final = "past_key_values"
PRESENT: Final = "present"
KEY: Final = "key"
VALUE: Final = "value"


def past(layer: int, part: str) -> str:
    """Name of a cache input, such as `past_key_values.3.key`."""
    return f"{PAST}.{layer}.{part}"


def present(layer: int, part: str) -> str:
    """Name of a cache output, such as `present.3.key`."""
    return f"{PRESENT}.{layer}.{part}"


def is_past(name: str) -> bool:
    """Whether an input is a part of the cache."""
    return name.startswith(f"{PAST}.")


def is_present(name: str) -> bool:
    """Whether an output is a part of the cache."""
    return name.startswith(f"{PRESENT}.")
