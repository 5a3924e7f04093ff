import pytest

from tuili.errors import InputError
from tuili.train.planning.batches import fits_batch, held
from tuili.train.planning.devices import device
from tuili.train.planning.layout import Practice
from tuili.train.planning.memory import HEADROOM
from tuili.train.planning.models import preset, presets

A100 = device("a100-80")
USABLE = A100.memory_gib * (1 - HEADROOM)


def test_shards_are_as_few_as_fit_and_the_largest_batch_is_the_largest():
    found = fits_batch(64, A100, 512, Practice())
    assert set(found) == set(presets())
    for name, fits in found.items():
        for fit in fits:
            given = preset(name), 512, fit.recompute
            if fit.num_shards is not None:
                assert held(given[0], 64, *given[1:], fit.num_shards, Practice()).total <= USABLE
                assert fit.largest >= 64
            if fit.num_shards is not None and fit.num_shards > 1:
                assert held(given[0], 64, *given[1:], fit.num_shards // 2, Practice()).total > USABLE
            if fit.num_shards is None:
                assert fit.largest < 64
            assert held(given[0], fit.largest + 1, *given[1:], 4096, Practice()).total > USABLE


def test_some_models_fit_alone_some_sharded_some_never():
    fits = [fit for fits in fits_batch(64, A100, 512, Practice()).values() for fit in fits]
    assert any(fit.num_shards == 1 for fit in fits)
    assert any(fit.num_shards is None for fit in fits)
    assert any(fit.num_shards not in (1, None) for fit in fits)


def test_an_empty_batch_is_refused():
    with pytest.raises(InputError, match="at least 1"):
        fits_batch(0, A100, 512, Practice())
