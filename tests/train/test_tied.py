import pytest
import torch
from ranks import run_ranks
from small import TRAINING, batches, make_model, share

from tuili.train.engine import build_engine
from tuili.train.spec import ParallelSpec

NAME = "model.embed_tokens.weight"
LAYOUTS = [
    ParallelSpec(pp=2, micro_batch=4),
    ParallelSpec(pp=2, virtual=2, schedule="ZBVZeroBubble", micro_batch=4),
]


def copies_after_steps(spec):
    """Return, after each of some steps, the copies of tied embeddings that this process holds."""
    engine = build_engine(lambda: make_model("tied"), spec, TRAINING)
    found = []
    for batch in batches(3):
        engine.step(share(batch, engine))
        held = [dict(part.named_parameters()).get(NAME) for part in engine.parts]
        found.append([weight.detach().clone() for weight in held if weight is not None])
    return found


@pytest.mark.parametrize("spec", LAYOUTS, ids=lambda spec: spec.schedule)
def test_copies_of_tied_embeddings_stay_equal_to_the_bit(spec):
    """Without a sum of both gradients a pipeline would train two matrices, one by its use as embeddings alone."""
    ranks = run_ranks(2, copies_after_steps, spec)
    before = make_model("tied").get_parameter(NAME)
    for step in zip(*ranks, strict=True):
        first, last = (weight for held in step for weight in held)
        assert torch.equal(first, last)
        assert not torch.equal(first, before)
