"""Names of the native operators, the layout of their weights, and the sizes that they take. It knows no graph.

The export packs weights by it, and the runtime checks graphs by it. docs/kernels.md draws the layout.
"""

from __future__ import annotations

from typing import Final

# Operators.
EMBEDDING: Final = "Embedding"
NORM: Final = "Norm"
PRODUCT: Final = "Product"
GATED_PRODUCT: Final = "GatedProduct"
NORM_PRODUCT: Final = "NormProduct"
ATTENTION: Final = "Attention"
PRODUCTS: Final = (PRODUCT, GATED_PRODUCT, NORM_PRODUCT)

# Layout of the codes of a weight.
OUTPUTS_SIDE_BY_SIDE: Final = 32
INPUTS_SIDE_BY_SIDE: Final = 4
INPUT_PAD: Final = 64
"""The number of inputs of a packed weight is filled up to a multiple of this."""
BITS: Final = (8, 4)
"""Bits of a code."""
GROUP: Final = 64
"""Inputs of an output that share a factor in 8 bits."""
GROUPS: Final = (GROUP, 0)
"""Inputs that may share a factor in 8 bits; 0 for a weight without factors."""
NIBBLE_GROUP: Final = 32
"""Inputs of an output that share a step and a minimum in 4 bits."""

# Inputs of a row that share a scale; few where the result is scores or becomes scores: logits, queries and keys. Few
# for a product that reads levels, too, where some channels are a thousand times the others.
BLOCK: Final = 64
FINE_BLOCK: Final = 32

# Activations of a GatedProduct.
SILU: Final = "silu"
GELU_TANH: Final = "gelu_tanh"
ACTIVATIONS: Final = (SILU, GELU_TANH)

# Sizes that the operators take.
HEAD_STEP: Final = 16
"""A head's number of channels is a multiple of this."""
LARGEST_HEAD: Final = 256
MOST_HEADS: Final = 65536
MOST_INPUTS: Final = 1 << 24
