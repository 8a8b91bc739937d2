"""What the context knows: do its clusters follow the tasks, and better than those of the bare text vector?

What the tower adds to the question is the difference between the two.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from yarbus.report.context_map import (
    KINDS,
    MOST_DOTS,
    claim_of,
    information,
    label_of,
    map_figure,
    reading_of,
    silhouette,
)
from yarbus.report.estimates import Estimate, decimal, listed, over_seeds
from yarbus.report.figure import Figure
from yarbus.report.look import Look, ticks
from yarbus.report.strips import Group, Strip, axis_labels, in_figures, strips
from yarbus.report.thumbnails import Album

Row = dict[str, Any]
Records = Mapping[str, Sequence[Row]]


def _reading(found: Mapping[tuple[str, str], Estimate], variants: Sequence[str], label: str) -> str:
    """Whose context follows the label; with the figures where there is one variant."""
    if len(variants) == 1:
        return reading_of(found.get(("context", variants[0])), found.get(("text", variants[0])), label)
    claims: dict[str, list[str]] = {}
    for name in variants:
        claims.setdefault(claim_of(found.get(("context", name)), found.get(("text", name)), label), []).append(name)
    text = "; ".join(f"{claim} ({listed(names)})" for claim, names in claims.items())
    return f"{text[0].upper()}{text[1:]}."


def _before(records: Records, found: Mapping[tuple[str, str], Estimate]) -> str:
    """What routers of random weights reach; a trained context says something only beyond that."""
    untrained = {
        variant: value
        for variant, some in records.items()
        if (value := over_seeds([information(record.get("untrained") or {}, "context") for record in some])) is not None
    }
    groups: dict[bool, list[str]] = {}
    for variant, value in untrained.items():
        trained = found.get(("context", variant))
        learned = trained is not None and trained.is_above(value.mean)
        groups.setdefault(learned, []).append(f"{variant} {decimal(value.mean)}")
    text = f" Routers of random weights reach as much ({', '.join(groups[False])})." if False in groups else ""
    return text + (f" Training added to it ({', '.join(groups[True])} before)." if True in groups else "")


def numbers_figure(records: Records, look: Look) -> Figure | None:
    """Agreement of clusters with tasks for every variant, of the context and of the bare text."""
    found = {
        (kind, variant): value
        for kind in KINDS
        for variant, some in records.items()
        if (value := over_seeds([information(record, kind) for record in some])) is not None
    }
    if not found:
        return None
    shapes: dict[tuple[str, str], float] = {}
    for kind, variant in found:
        known = [apart for record in records[variant] if (apart := silhouette(record, kind)) is not None]
        if known:
            shapes[kind, variant] = sum(known) / len(known)
    groups = [
        Group(
            title=title.capitalize(),
            strips=[
                Strip(
                    name=variant,
                    dots=[(variant, value)],
                    note=f"silhouette {decimal(shapes[kind, variant])}" if (kind, variant) in shapes else "",
                    text=in_figures(value),
                    is_open=not value.is_above(0.0),
                )
                for (of, variant), value in found.items()
                if of == kind
            ],
        )
        for kind, title in KINDS.items()
    ]
    ends = [end for value in found.values() for end in value.ends]
    marks = ticks(min(0.0, *ends), max(1.0, *ends), most=6)
    label = next(label_of(record) for some in records.values() for record in some)
    seeds = max(len(some) for some in records.values())
    over = f" Means over {seeds} seeds." if seeds > 1 else ""
    return Figure(
        name="contexts",
        title=f"Do clusters follow the {label}?",
        reading=_reading(found, list(records), label) + _before(records, found),
        how=f"Adjusted mutual information of k-means clusters with the {label}; 0 is chance, 1 the same parts.{over}",
        body=strips([group for group in groups if group.strips], look, marks, axis_labels(marks), "information"),
        header=["variant", "vector", "mutual_information", "low", "high", "silhouette"],
        rows=[
            [variant, kind, value.mean, value.low, value.high, shapes.get((kind, variant))]
            for (kind, variant), value in found.items()
        ],
        classes="noted",
    )


def contexts_figures(records: Records, look: Look, album: Album) -> list[Figure | None]:
    """The numbers of all variants, unless one map's caption says them all; then the maps of each one's first seed."""
    is_one = sum(len(some) for some in records.values()) == 1
    most = min(MOST_DOTS, max(60, 2 * MOST_DOTS // max(1, len(records))))
    maps = [map_figure(variant, some, album, most) for variant, some in records.items()]
    return maps if is_one else [numbers_figure(records, look), *maps]
