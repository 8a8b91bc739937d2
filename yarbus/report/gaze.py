"""Where the tower looks for a question, and where for another question on the same picture.

Yarbus showed his subjects one painting and asked different things. Bright is looked at; the outline holds half of the
gaze, so that the figure reads without any colour.
"""

from base64 import b64encode
from collections import defaultdict
from collections.abc import Mapping, Sequence
from hashlib import sha256
from io import BytesIO
from itertools import zip_longest
from typing import Any

from PIL import Image

from yarbus.report.estimates import Estimate, decimal, estimate, number, over_seeds, scaled, words
from yarbus.report.figure import Figure
from yarbus.report.markup import Markup, tag
from yarbus.report.thumbnails import Album

Row = dict[str, Any]
Records = Mapping[str, Sequence[Row]]

MOST_PAIRS = 8
PICTURE_PX = 160
DARKEST = 0.6
"""How far a patch is darkened that nothing of the gaze falls on."""
STILL = 0.02
"""A mean distance below this is called none: two gazes share 98 % of their weight."""


def _weights(sample: Row) -> list[float]:
    """The gaze on the patches; empty if any is unknown."""
    values = [number(value) for value in sample.get("gaze") or []]
    return [] if None in values else [value for value in values if value is not None]


def half(weights: Sequence[float]) -> set[int]:
    """The fewest patches that hold half of the gaze."""
    found: set[int] = set()
    held = 0.0
    for index in sorted(range(len(weights)), key=lambda index: -weights[index]):
        if held >= sum(weights) / 2:
            break
        found.add(index)
        held += weights[index]
    return found


def outline(inside: set[int], columns: int) -> str:
    """The rim of a set of patches as an SVG path."""
    edges = []
    for index in sorted(inside):
        row, column = divmod(index, columns)
        if index - columns not in inside:
            edges.append(f"M{column} {row}h1")
        if index + columns not in inside:
            edges.append(f"M{column} {row + 1}h1")
        if column == 0 or index - 1 not in inside:
            edges.append(f"M{column} {row}v1")
        if column == columns - 1 or index + 1 not in inside:
            edges.append(f"M{column + 1} {row}v1")
    return "".join(edges)


def _veil(weights: Sequence[float], rows: int, columns: int) -> Markup:
    """A black picture of one pixel per patch, the more opaque the less it is looked at."""
    most = max(weights) or 1.0
    pixels = [round(255 * DARKEST * (1 - value / most)) for value in weights]
    picture = Image.new("LA", (columns, rows))
    picture.putdata([(0, opacity) for opacity in pixels])
    buffer = BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    data = b64encode(buffer.getvalue()).decode()
    return tag("span", class_="veil", style=f"background-image:url(data:image/png;base64,{data})")


def _outline(weights: Sequence[float], rows: int, columns: int) -> Markup:
    """The rim of half of the gaze, white on black, so that it is seen on every picture."""
    d = outline(half(weights), columns)
    rims = [tag("path", d=d, class_=name, vector_effect="non-scaling-stroke") for name in ("rim under", "rim")]
    return tag("svg", *rims, viewBox=f"0 0 {columns} {rows}", preserveAspectRatio="none", aria_hidden="true")


def _grid(grid: object, num_patches: int) -> tuple[int, int]:
    """Rows and columns of the patches; one row where the layout is not known."""
    if isinstance(grid, list) and len(grid) == 2 and grid[0] * grid[1] == num_patches:
        return int(grid[0]), int(grid[1])
    return 1, num_patches


def _look(sample: Row, grid: object, picture: str | None) -> Markup:
    """One picture under the gaze of one question, and the question."""
    weights = _weights(sample)
    rows, columns = _grid(grid, len(weights))
    strongest = max(range(len(weights)), key=lambda index: weights[index])
    row, column = divmod(strongest, columns)
    alt = f"Gaze for: {sample.get('question')} Strongest in row {row + 1}, column {column + 1} of {rows} by {columns}."
    shape = "" if picture else " blank"
    return tag(
        "div",
        tag(
            "div",
            tag("span", class_=f"thumb {picture or ''}".strip()),
            _veil(weights, rows, columns),
            _outline(weights, rows, columns),
            class_=f"gaze{shape}{' row' if rows == 1 else ''}",
            role="img",
            aria_label=alt,
        ),
        tag("p", str(sample.get("task")), class_="task"),
        tag("p", str(sample.get("question") or "")[:160], class_="question"),
    )


def _chosen(samples: Sequence[Row]) -> list[Row]:
    """Pairs in the order of a hash of their id, in turn from every task: nobody picks them."""
    by_task: dict[str, list[Row]] = defaultdict(list)
    for sample in sorted(samples, key=lambda one: sha256(str(one.get("id")).encode()).digest()):
        other = sample.get("other") or {}
        if _weights(sample) and len(_weights(other)) == len(_weights(sample)):
            by_task[str(sample.get("task"))].append(sample)
    in_turn = [
        s for round_ in zip_longest(*(by_task[task] for task in sorted(by_task))) for s in round_ if s is not None
    ]
    return in_turn[:MOST_PAIRS]


def _percent(value: Estimate) -> str:
    return f"{words(scaled(value, 100), 0)} percent"


def _reading(records: Sequence[Row]) -> str:
    distance, same, other = (
        over_seeds([estimate(record.get(key)) for record in records])
        for key in ("distance", "distance_same_task", "distance_other_task")
    )
    if distance is None:
        return "How far another question moves the gaze was not recorded."
    if distance.mean < STILL:
        return f"The gaze hardly moves: another question on the same picture moves {_percent(distance)} of it."
    if same is None or other is None:
        return f"Another question on the same picture moves {_percent(distance)} of the gaze."
    return (
        f"On the same picture a question of another task moves {_percent(other)} of the gaze, "
        f"another question of the same task {_percent(same)}."
    )


def _how(record: Row, records: Sequence[Row]) -> str:
    parts = ["Bright is looked at; the outline holds half of the gaze (mean over heads)."]
    parts.append("Moved: total variation, 0 is the same gaze and 1 nothing in common.")
    spread, most = over_seeds([estimate(one.get("entropy")) for one in records]), number(record.get("max_entropy"))
    if spread is not None and most:
        parts.append(f"Entropy {words(spread)} of at most {decimal(most)}.")
    outside = over_seeds([estimate(one.get("prefix")) for one in records])
    if outside is not None and outside.mean > 0:
        parts.append(f"{100 * outside.mean:.0f} % of the gaze is on no patch and not drawn.")
    if any(_layout(record, sample) is None for sample in record["samples"]):
        parts.append("Where the layout of the patches is not known, they stand in one row.")
    parts.append("Pairs in the order of a hash of their id, in turn from every task.")
    if len(records) > 1:
        parts.append(f"Pictures of the first of {len(records)} seeds, figures over all.")
    return " ".join(parts)


def _layout(record: Row, sample: Row) -> object:
    """Rows and columns of one picture's patches: its own, or those of all."""
    return sample.get("grid") or record.get("grid")


def gaze_figure(variant: str, records: Sequence[Row], album: Album) -> Figure | None:
    """Pairs of gazes on one picture, with their distance; pictures of the first seed, figures over all."""
    record = records[0] if records else {}
    chosen = _chosen(record.get("samples") or [])
    if not chosen:
        return None
    pairs = []
    for sample in chosen:
        picture, grid = album.add(sample.get("image"), PICTURE_PX), _layout(record, sample)
        apart = number(sample.get("distance"))
        pairs.append(
            tag(
                "div",
                _look(sample, grid, picture),
                _look(sample["other"], grid, picture),
                tag("p", "" if apart is None else f"Moved: {decimal(apart)}", class_="moved"),
                class_="pair",
            )
        )
    block = f", block {record['block']}" if record.get("block") is not None else ""
    others = [sample.get("other") or {} for sample in record["samples"]]
    return Figure(
        name=f"gaze-{variant}",
        title=f"Gaze of {variant}{block}",
        reading=_reading(records),
        how=_how(record, records),
        body=tag("div", *pairs, class_="pairs"),
        header=["variant", "id", "task", "other_id", "other_task", "distance"],
        rows=[
            [variant, one.get("id"), one.get("task"), other.get("id"), other.get("task"), number(one.get("distance"))]
            for one, other in zip(record["samples"], others, strict=True)
        ],
    )
