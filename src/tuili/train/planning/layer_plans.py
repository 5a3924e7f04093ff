"""A layer plan in one line: "dense:2 sparse:24:keep=1024 pooled:4:window=1024"."""

from __future__ import annotations

from tuili.errors import UsageError
from tuili.train.planning.models import KINDS, Reading

DEFAULTS: dict[str, dict[str, int]] = {
    "dense": {},
    "window": {"keep": 4096},
    "sparse": {"keep": 1024, "sub": 1, "gate": 16, "beam": 0},
    "pooled": {"window": 1024, "block": 64},
}
NAMES = {"keep": "keys", "window": "keys", "block": "block", "sub": "block", "gate": "gate_width", "beam": "beam"}


def parse_layer_plan(text: str) -> tuple[Reading, ...]:
    """Return what each layer reads.

    Parts stand between blanks or commas: KIND:COUNT[:NAME=VALUE...]. Sparse layers take keep (keys read), sub (keys per
    gate key), gate (the gate's width) and beam (groups of 256 keys that are scored; 0: all); windows take keep, pooled
    layers window and block.

    Raises:
        UsageError: a part can't be read.
    """
    readings: list[Reading] = []
    for part in text.replace(",", " ").split():
        kind, _, rest = part.partition(":")
        count, *options = rest.split(":")
        if kind not in KINDS or not count.isdecimal() or int(count) < 1:
            raise UsageError(f"{part!r} in the layer plan; give KIND:COUNT with a kind of {', '.join(KINDS)}")
        readings += [_reading(kind, options, part)] * int(count)
    if not readings:
        raise UsageError('the layer plan is empty; give for example "dense:2 sparse:28"')
    return tuple(readings)


def _reading(kind: str, options: list[str], part: str) -> Reading:
    values: dict[str, int] = dict(DEFAULTS[kind])
    for option in options:
        name, _, value = option.partition("=")
        if name not in values or not value.isdecimal():
            known = ", ".join(values) or "none"
            raise UsageError(f"{option!r} in {part!r}; a {kind} layer takes NAME=NUMBER with a name of: {known}")
        values[name] = int(value)
    return Reading(kind=kind, **{NAMES[name]: value for name, value in values.items()})
