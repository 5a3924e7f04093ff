"""The reasoning graph of an answer as boxes and curves: what is drawn, and where.

Layers go from left to right: the question, the entities it names, what the facts lead to, the
answers. Lengths are pixels; a renderer only has to paint.
"""

from __future__ import annotations

import textwrap
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from tuili.reason.answer import Answer, PathEdge, Pruned

MAX_NODES = 60
QUESTION = "\0question"
RESULT = "\0result"
CHAR_WIDTH = 7.0
LINE_HEIGHT = 16.0
MAX_LINE = 26
MAX_LINES = 4
PADDING = 10.0
ROW_GAP = 22.0
MIN_COLUMN_GAP = 56.0
MAX_FAN = 140.0
FAN_STEP = 5.0
FAN_FROM = 8
MARGIN = 24.0
BOLD = 1.12
LABEL_CHAR = 5.6
LABEL_HEIGHT = 15.0
LABEL_PADDING = 24.0
ARROW = 10.0

_ROLE_ORDER = ("question", "constant", "answer", "middle", "pruned")


@dataclass
class Box:
    """A node: its text in lines, its role, and its place (centre) once laid out."""

    key: str
    lines: tuple[str, ...]
    role: str
    layer: int = 0
    num_labels: int = 0
    x: float = 0.0
    y: float = 0.0

    @property
    def width(self) -> float:
        """Width of the box with its padding."""
        wide = BOLD if self.role == "answer" else 1.0
        return max(len(line) for line in self.lines) * CHAR_WIDTH * wide + 2 * PADDING

    @property
    def height(self) -> float:
        """Height of the box with its padding."""
        return max(len(self.lines) * LINE_HEIGHT + 2 * PADDING - 4, self.num_labels * LABEL_HEIGHT + 4)


@dataclass
class Curve:
    """An edge from box `start` to box `end`; `reason` tells why a pruned one was left out.

    `points`: start, where the bend begins, its two control points, where it ends, end.
    `label_left`: the label stands at the left box.
    """

    start: str
    end: str
    label: str
    weight: float
    is_pruned: bool = False
    reason: str = ""
    label_left: bool = False
    points: tuple[tuple[float, float], ...] = ()
    label_at: tuple[float, float] = (0.0, 0.0)


@dataclass
class Picture:
    """Everything to paint; `num_left_out` nodes did not find room."""

    boxes: dict[str, Box] = field(default_factory=dict)
    curves: list[Curve] = field(default_factory=list)
    num_left_out: int = 0
    width: float = 0.0
    height: float = 0.0

    def add(self, key: str, text: str, role: str) -> bool:
        """Add a box if there is room or it is there; the stronger role stays."""
        known = self.boxes.get(key)
        if known:
            known.role = min(known.role, role, key=_ROLE_ORDER.index)
            return True
        if len(self.boxes) >= MAX_NODES:
            return False
        self.boxes[key] = Box(key, wrap(text), role)
        return True


def picture_of(answer: Answer, max_pruned: int = 12) -> Picture:
    """Return an answer's reasoning graph, laid out."""
    picture = Picture()
    picture.add(QUESTION, answer.question, "question")
    answers = {item.name for item in answer.entities if item.probability >= 0.5}
    wanted: set[str] = set()
    for path in answer.paths:
        for edge in path.edges:
            _add_edge(picture, edge, answers, wanted)
    _add_links(picture, answer, answers)
    _add_result(picture, answer, answers)
    _add_pruned(picture, answer.pruned[:max_pruned], answers, wanted)
    wanted.update(item.entity for item in answer.pruned)
    picture.num_left_out = len(wanted - picture.boxes.keys())
    _place(picture)
    return picture


def about(answer: Answer) -> str:
    """Return the line below the answer: its base, and how sure it is."""
    return f"base {answer.kb} · " + ("abstained" if answer.abstained else f"confidence {answer.confidence:.2f}")


def wrap(text: str) -> tuple[str, ...]:
    """Break a text into at most `MAX_LINES` lines of about `MAX_LINE` characters."""
    is_name = " " not in text.strip()
    lines = (_wrap_name(text) if is_name else textwrap.wrap(text, MAX_LINE)) or [text]
    if len(lines) > MAX_LINES:
        lines = [*lines[: MAX_LINES - 1], f"{lines[MAX_LINES - 1][: MAX_LINE - 1]}…"]
    return tuple(lines)


def _wrap_name(name: str) -> list[str]:
    """Break a dotted name after its dots."""
    lines = [""]
    for at, part in enumerate(name.split(".")):
        piece = part if at == 0 else f".{part}"
        if lines[-1] and len(lines[-1]) + len(piece) > MAX_LINE:
            lines.append("")
        lines[-1] += piece
    return [line for long in lines for line in textwrap.wrap(long, MAX_LINE)]


def _add_edge(picture: Picture, edge: PathEdge, answers: set[str], wanted: set[str]) -> None:
    wanted.update((edge.subject, edge.object))
    room = [picture.add(name, name, "answer" if name in answers else "middle") for name in (edge.subject, edge.object)]
    known = any(
        (curve.start, curve.end, curve.label) == (edge.subject, edge.object, edge.relation) for curve in picture.curves
    )
    if all(room) and not known:
        picture.curves.append(Curve(edge.subject, edge.object, edge.relation, edge.weight))


def _add_links(picture: Picture, answer: Answer, answers: set[str]) -> None:
    """Join the question to the entities it names; to the starts of the paths where no link is drawn."""
    used = set(picture.boxes)
    for link in answer.links:
        names = [name for name in link.entities if name in used] or list(link.entities[:1])
        for name in names:
            if name not in answers and picture.add(name, name, "constant"):
                picture.curves.append(Curve(QUESTION, name, link.how, link.score))
    if not any(curve.start == QUESTION for curve in picture.curves):
        targets = {curve.end for curve in picture.curves}
        for name in [curve.start for curve in picture.curves if curve.start not in targets]:
            if all(curve.end != name for curve in picture.curves):
                picture.add(name, name, "constant")
                picture.curves.append(Curve(QUESTION, name, "", 1.0))


def _add_result(picture: Picture, answer: Answer, answers: set[str]) -> None:
    """Add a box for an answer that is no entity of the paths: a number, Yes or No; or for an abstention."""
    if answers & picture.boxes.keys() or (answer.abstained and len(picture.boxes) > 1):
        return
    text = answer.text.split(":")[0] if answer.abstained or answer.text.startswith(("Yes", "No")) else answer.text
    picture.add(RESULT, text, "middle" if answer.abstained else "answer")
    ends = dict.fromkeys(_end(picture, path.edges[-1]) for path in answer.paths if path.edges)
    starts = [name for name in ends if name in picture.boxes] or _constants(picture) or [QUESTION]
    picture.curves.extend(Curve(name, RESULT, "", 1.0) for name in starts)


def _end(picture: Picture, edge: PathEdge) -> str:
    """Return the end of a path's last edge that the question does not name."""
    is_named = [
        name in picture.boxes and picture.boxes[name].role == "constant" for name in (edge.subject, edge.object)
    ]
    return edge.subject if is_named == [False, True] else edge.object


def _constants(picture: Picture) -> list[str]:
    return [key for key, box in picture.boxes.items() if box.role == "constant"]


def _add_pruned(picture: Picture, pruned: Iterable[Pruned], answers: set[str], wanted: set[str]) -> None:
    anchor = _anchor(picture, answers)
    for item in pruned:
        if item.entity in picture.boxes:
            continue
        start, end, label = anchor, item.entity, ""
        if item.edge and {item.edge.subject, item.edge.object} & picture.boxes.keys():
            start, end, label = item.edge.subject, item.edge.object, item.edge.relation
        if all(picture.add(name, name, "pruned") for name in (start, end)):
            picture.curves.append(Curve(start, end, label, item.weight, True, item.reason))


def _anchor(picture: Picture, answers: set[str]) -> str:
    """Return where candidates without an edge of their own hang: the other end of an answer's edge."""
    kept = [curve for curve in picture.curves if curve.start != QUESTION and curve.end != RESULT]
    for curve in reversed(kept):
        if curve.end in answers:
            return curve.start
        if curve.start in answers:
            return curve.end
    first = next((curve.end for curve in picture.curves if curve.start == QUESTION), QUESTION)
    return kept[-1].start if kept else first


# Placing.


def _place(picture: Picture) -> None:
    _layer(picture)
    columns = _columns(picture)
    _make_room(picture)
    _order(picture, columns)
    left = MARGIN
    tallest = max(_column_height(column) for column in columns)
    for at, column in enumerate(columns):
        width = max(box.width for box in column)
        top = MARGIN + (tallest - _column_height(column)) / 2
        for box in column:
            box.x, box.y = left + width / 2, top + box.height / 2
            top += box.height + ROW_GAP
        left += width + (_gap(picture, column[0].layer) if at + 1 < len(columns) else 0.0)
    picture.width, picture.height = left + MARGIN, tallest + 2 * MARGIN
    _run_curves(picture)


def _layer(picture: Picture) -> None:
    """Give each box its distance from the question along edges in either direction; results come last."""
    neighbours: dict[str, list[str]] = defaultdict(list)
    for curve in picture.curves:
        if RESULT not in (curve.start, curve.end):
            neighbours[curve.start].append(curve.end)
            neighbours[curve.end].append(curve.start)
    layers, frontier = {QUESTION: 0}, [QUESTION]
    while frontier:
        following = dict.fromkeys(name for key in frontier for name in neighbours[key] if name not in layers)
        depth = layers[frontier[0]] + 1
        layers |= dict.fromkeys(following, depth)
        frontier = list(following)
    for key, box in picture.boxes.items():
        box.layer = layers.get(key, 1)
    _part_neighbours(picture)
    last = max(box.layer for box in picture.boxes.values())
    if RESULT in picture.boxes:
        picture.boxes[RESULT].layer = last + 1


def _part_neighbours(picture: Picture) -> None:
    """Move answers, then ends of edges, out of the column of what leads to them."""
    for _ in picture.boxes:
        for curve in picture.curves:
            start, end = picture.boxes[curve.start], picture.boxes[curve.end]
            if start.layer == end.layer and curve.start != curve.end:
                later = start if start.role == "answer" and end.role != "answer" else end
                later.layer += 1
                break
        else:
            return


def _columns(picture: Picture) -> list[list[Box]]:
    columns: dict[int, list[Box]] = defaultdict(list)
    for box in picture.boxes.values():
        columns[box.layer].append(box)
    return [columns[layer] for layer in sorted(columns)]


def _make_room(picture: Picture) -> None:
    """Choose where each label stands, and make boxes high enough for the labels at their sides."""
    degrees = Counter(side for curve in picture.curves for side in _sides(picture, curve))
    labels: Counter[tuple[str, bool]] = Counter()
    for curve in picture.curves:
        left, right = _sides(picture, curve)
        curve.label_left = degrees[left] < degrees[right]
        labels[left if curve.label_left else right] += 1
    for box in picture.boxes.values():
        box.num_labels = max(labels[box.key, True], labels[box.key, False])


def _sides(picture: Picture, curve: Curve) -> tuple[tuple[str, bool], tuple[str, bool]]:
    """Return the sides a curve joins: (box, whether it is its right side), the left box first."""
    if picture.boxes[curve.start].layer <= picture.boxes[curve.end].layer:
        return (curve.start, True), (curve.end, False)
    return (curve.end, True), (curve.start, False)


def _order(picture: Picture, columns: Sequence[list[Box]]) -> None:
    """Sort each column by the mean place of its neighbours on the left; pruned boxes go to the rims."""
    place = {box.key: float(at) for column in columns for at, box in enumerate(column)}
    for column in columns[1:]:
        means = {box.key: _mean_place(picture, box, place) for box in column}
        kept = sorted((box for box in column if box.role != "pruned"), key=lambda box: means[box.key])
        pruned = [box for box in column if box.role == "pruned"]
        column[:] = [*pruned[0::2][::-1], *kept, *pruned[1::2]] if kept else pruned
        middle = (len(column) - 1) / 2
        place.update({box.key: at - middle for at, box in enumerate(column)})


def _mean_place(picture: Picture, box: Box, place: Mapping[str, float]) -> float:
    ends = [
        curve.start if curve.end == box.key else curve.end
        for curve in picture.curves
        if box.key in (curve.start, curve.end)
    ]
    left = [place[key] for key in ends if picture.boxes[key].layer < box.layer]
    return sum(left) / len(left) if left else place[box.key]


def _column_height(column: Sequence[Box]) -> float:
    return sum(box.height for box in column) + ROW_GAP * (len(column) - 1)


def _gap(picture: Picture, layer: int) -> float:
    """Return the room to the right of a column: enough for the longest label there, and for many curves to part."""
    lengths = [
        label_width(curve) for curve in picture.curves if picture.boxes[_sides(picture, curve)[0][0]].layer == layer
    ]
    fan = min(MAX_FAN, FAN_STEP * max(0, len(lengths) - FAN_FROM))
    return MIN_COLUMN_GAP + fan + max(lengths, default=0.0)


def label_of(curve: Curve) -> str:
    """Return what is written at an edge."""
    weight = f"{curve.weight:.2f}" if curve.weight < 0.995 or curve.is_pruned else ""
    return f"{curve.label} {weight}".strip()


def label_width(curve: Curve) -> float:
    """Return the length of an edge's label with the arrow head beside it."""
    text = label_of(curve)
    return len(text) * LABEL_CHAR + LABEL_PADDING if text else 0.0


def _run_curves(picture: Picture) -> None:
    """Give each curve its points: ports spread along the sides of boxes, straight beside its label."""
    ends: dict[tuple[str, bool], list[tuple[float, int]]] = defaultdict(list)
    for number, curve in enumerate(picture.curves):
        left, right = _sides(picture, curve)
        ends[left].append((picture.boxes[right[0]].y, number))
        ends[right].append((picture.boxes[left[0]].y, number))
    ports: dict[tuple[str, bool, int], tuple[float, float]] = {}
    for (key, is_right), curves in ends.items():
        box = picture.boxes[key]
        room = min(LABEL_HEIGHT * (len(curves) - 1), box.height - 14)
        for at, (_, number) in enumerate(sorted(curves)):
            share = at / (len(curves) - 1) - 0.5 if len(curves) > 1 else 0.0
            ports[key, is_right, number] = (
                box.x + (box.width / 2 if is_right else -box.width / 2),
                box.y + room * share,
            )
    for number, curve in enumerate(picture.curves):
        left, right = _sides(picture, curve)
        _run(curve, ports[*left, number], ports[*right, number], is_forward=left[0] == curve.start)


def _run(curve: Curve, left: tuple[float, float], right: tuple[float, float], *, is_forward: bool) -> None:
    straight = label_width(curve)
    bend_left = left[0] + max(straight if curve.label_left else 0.0, ARROW)
    bend_right = right[0] - max(0.0 if curve.label_left else straight, ARROW)
    middle = (bend_left + bend_right) / 2
    points = (left, (bend_left, left[1]), (middle, left[1]), (middle, right[1]), (bend_right, right[1]), right)
    curve.points = points if is_forward else points[::-1]
    at, y = ((left[0] + bend_left) / 2, left[1]) if curve.label_left else ((bend_right + right[0]) / 2, right[1])
    head_side = (1 if is_forward else -1) * ARROW / 2
    curve.label_at = (at - (head_side if curve.label_left != is_forward else 0.0), y)
