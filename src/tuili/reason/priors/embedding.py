"""ComplEx: entities and relations as complex vectors; what it knows of a query before any walk. NumPy only.

Source: Trouillon et al. 2016, "Complex Embeddings for Simple Link Prediction", eq. 11.
`embedding_training.py` trains.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tuili.errors import InputError
from tuili.reason.priors.facts import Floats, Ints


@dataclass(frozen=True, slots=True)
class Embedding:
    """Vectors `entities_N2D` and `relations_R2D`: the real half, then the imaginary half.

    Relations include the inverses, so a query for a head is a query for the tail of the inverse.

    Raises:
        InputError: the widths differ, or are odd.
    """

    entities_N2D: Floats
    relations_R2D: Floats

    def __post_init__(self) -> None:
        width = self.entities_N2D.shape[1]
        if width != self.relations_R2D.shape[1] or width % 2:
            raise InputError(f"widths {width} and {self.relations_R2D.shape[1]} must be equal and even")

    def scores(self, head_B: Ints, relation_B: Ints) -> Floats:
        """Return the logit of every entity as the tail, (B, N). O(B N D)."""
        half = self.entities_N2D.shape[1] // 2
        head, relation = self.entities_N2D[head_B], self.relations_R2D[relation_B]
        a, b, c, d = head[:, :half], head[:, half:], relation[:, :half], relation[:, half:]
        query = np.concatenate([a * c - b * d, a * d + b * c], axis=1)
        return np.asarray(query @ self.entities_N2D.T, np.float32)
