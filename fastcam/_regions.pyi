from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

def rectangles(landmarks: ArrayLike) -> NDArray[Any]: ...
def carry(
    landmarks: ArrayLike, template_landmarks: ArrayLike, boxes: ArrayLike
) -> NDArray[Any]: ...
def grid(
    rectangles: ArrayLike, height: float, width: float, rows: int, cols: int, binary: bool = False
) -> NDArray[np.float32]: ...
