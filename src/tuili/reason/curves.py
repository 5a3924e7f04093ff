"""Training curves of PPO as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tuili.errors import DependencyError

PARTS = {"reward": "reward of a walk", "hops": "hops of a walk", "entropy": "entropy of an action, nats"}


def draw_curves(curve: Sequence[Mapping[str, float]], path: Path) -> None:
    """Write reward, hops and entropy by update to an .svg or .png.

    Raises:
        DependencyError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise DependencyError("matplotlib", "draw", "drawing training curves") from error
    figure = Figure(figsize=(9.0, 3.0), layout="constrained")
    FigureCanvasAgg(figure)
    updates = [point["update"] for point in curve]
    for place, (name, label) in enumerate(PARTS.items(), 1):
        axes = figure.add_subplot(1, len(PARTS), place)
        axes.plot(updates, [point[name] for point in curve], color="#2f6f5e")
        axes.set(title=label, xlabel="update")
        axes.grid(alpha=0.3)
    figure.savefig(path, format=path.suffix.lower().removeprefix("."), dpi=110)
