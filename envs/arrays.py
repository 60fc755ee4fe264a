"""The types of arrays that the whole package uses.

Shape letters: B batch, T time, S states, A actions, K outcomes of the noise, V vocabulary, H horizon, D width.
"""

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
