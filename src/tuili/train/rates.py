"""The learning rate over the steps of a run."""

from __future__ import annotations

import math

from tuili.train.recipe import RateConfig


def share_of_peak(config: RateConfig, step: int, steps: int) -> float:
    """Return the learning rate of a step as a share of its peak.

    Args:
        config: how it goes.
        step: 0 for the first.
        steps: of the run.

    Source: Loshchilov and Hutter 2017, SGDR, eq. 5 (cosine); Hu et al. 2024, MiniCPM, section 4 (wsd).
    """
    if step < config.warm_up:
        return (step + 1) / (config.warm_up + 1)
    begin = steps - config.decay if config.kind == "wsd" else config.warm_up
    done = min(1.0, max(0.0, (step - begin + 1) / max(1, steps - begin)))
    left = (1 + math.cos(math.pi * done)) / 2 if config.kind == "cosine" else 1 - done
    return config.floor + (1 - config.floor) * left
