"""Peers from pykeen: ComplEx and ConvE with its own training, scored as everything else here."""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from reasoning.links_data import Links
from reasoning.links_scoring import ranks
from tuili.runtime import import_torch

BATCH = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """How a model of pykeen is trained: against all entities, with inverse relations and label smoothing."""

    model: str
    arguments: dict[str, Any]
    epochs: int
    learning_rate: float


# ComplEx: the best of eight on the validation part of UMLS; it has no dropout there and overfits.
RECIPES = {
    "complex": Recipe(
        model="ComplEx",
        arguments={
            "embedding_dim": 100,
            "entity_initializer": "xavier_normal",
            "relation_initializer": "xavier_normal",
            "regularizer": "lp",
            "regularizer_kwargs": {"weight": 0.003, "p": 3.0},
        },
        epochs=40,
        learning_rate=1e-2,
    ),
    "conve": Recipe(
        model="ConvE",
        arguments={"embedding_dim": 200, "feature_map_dropout": 0.2, "input_dropout": 0.2, "output_dropout": 0.3},
        epochs=40,
        learning_rate=2e-3,
    ),
}


def test_ranks(links: Links, recipe: Recipe, seed: int) -> np.ndarray:
    """Train a model and return the ranks of the test answers."""
    torch = import_torch()
    model = _trained(links, recipe, seed)
    queries = torch.from_numpy(links.test_Q3[:, :2].copy())
    with torch.no_grad():
        model.eval()
        scores = torch.cat([model.predict_t(queries[begin : begin + BATCH]) for begin in range(0, len(queries), BATCH)])
    return ranks(scores.numpy(), links.test_Q3[:, 2], links.known(links.test_Q3, with_test=True))


def _trained(links: Links, recipe: Recipe, seed: int) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pykeen.models import model_resolver
        from pykeen.training import LCWATrainingLoop
        from pykeen.triples import CoreTriplesFactory

    logging.getLogger("pykeen").setLevel(logging.ERROR)
    torch, facts = import_torch(), links.facts
    factory = CoreTriplesFactory(
        torch.from_numpy(facts.triples_E3), facts.num_entities, len(facts.relations), create_inverse_triples=True
    )
    model = model_resolver.make(
        recipe.model, triples_factory=factory, random_seed=seed, loss="BCEWithLogitsLoss", **recipe.arguments
    )
    optimizer = torch.optim.Adam(model.get_grad_params(), lr=recipe.learning_rate)
    loop = LCWATrainingLoop(model=model, triples_factory=factory, optimizer=optimizer)
    with warnings.catch_warnings():
        # It pins memory for an accelerator even where there is none, and torch says so.
        warnings.simplefilter("ignore")
        loop.train(
            factory,
            num_epochs=recipe.epochs,
            batch_size=128,
            label_smoothing=0.1,
            use_tqdm=False,
            use_tqdm_batch=False,
        )
    return model
