"""Types of arrays by their content, and the axis letters of all docstrings of the project.

`B` batch, `S` new tokens, `P` past tokens, `T = P + S`, `H` query heads, `Hkv` key-value heads, `D` head size,
`E` hidden size, `F` width of the drafter's features, `V` vocabulary, `L` blocks of the target, `K` draft tokens of a
round.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

TokenArray: TypeAlias = NDArray[np.int64]
FloatArray: TypeAlias = NDArray[np.float32]
Shape: TypeAlias = tuple[int, ...]
ProbabilityArray: TypeAlias = NDArray[np.float64]
