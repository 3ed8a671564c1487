"""From the mean of a text's hidden states to its embedding: cut to the wanted width, scaled to length 1.

A model that was trained to embed puts its most telling directions first, so a shorter vector is the front of
the long one. Nothing here knows where the means come from.

References: Kusupati et al., Matryoshka Representation Learning, NeurIPS 2022 (cutting); Muennighoff, SGPT,
2022 (decoder models as embedders).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from trimtab.errors import UsageError

Floats = npt.NDArray[np.float32]


def checked_dimensions(dimensions: int | None, width: int) -> int:
    """How many values an embedding has.

    Raises
    ------
    UsageError : fewer than one, or more than the model's hidden states have
    """
    if dimensions is None:
        return width
    if not 1 <= dimensions <= width:
        message = f"dimensions is {dimensions}; this model's embeddings have 1 to {width} values"
        raise UsageError(message, param="dimensions")
    return dimensions


def unit(mean: Floats, dimensions: int) -> Floats:
    """The first `dimensions` values of `mean`, (width,), at length 1; a vector of zeros stays what it is."""
    cut = mean[:dimensions].astype(np.float64)
    length = float(np.sqrt(cut @ cut))
    return (cut / length if length > 0 else cut).astype(np.float32)
