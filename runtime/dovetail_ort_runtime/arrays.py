"""Array types by what they hold; axes are named as in every docstring of the project.

`B` batch, `S` new tokens, `P` past tokens, `T = P + S`, `H` query heads, `Hkv` KV heads, `D` head size,
`E` hidden size, `V` vocabulary, `L` layers, `K` draft tokens per round.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

TokenArray: TypeAlias = NDArray[np.int64]
FloatArray: TypeAlias = NDArray[np.float32]
ProbabilityArray: TypeAlias = NDArray[np.float64]
