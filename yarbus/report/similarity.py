"""Are images with alike contexts routed alike, and are clusters alike in what they see and read?"""

from collections.abc import Mapping, Sequence
from typing import Any

from yarbus.report.estimates import decimal, listed, number
from yarbus.report.figure import Figure
from yarbus.report.look import Look
from yarbus.report.markup import tag
from yarbus.report.plot import Cloud, cloud_markup

Row = dict[str, Any]
Records = Mapping[str, Sequence[Row]]

FAINT = 0.1
"""A correlation below this is called none: it would explain less than one percent."""


def first_seeds(records: Records) -> str:
    """Says that first seeds are shown, where some variant has several."""
    return " First seeds." if any(len(some) > 1 for some in records.values()) else ""


def _correlation(record: Row) -> str:
    """``r = 0.82, centred 0.61, by rank 0.58``."""
    names = {"pearson": "r =", "pearson_centred": "centred", "spearman_centred": "by rank"}
    known = [(name, value) for key, name in names.items() if (value := number(record.get(key))) is not None]
    return ", ".join(f"{name} {decimal(value)}" for name, value in known)


def _relation(record: Row) -> str:
    """What the centred correlation says, or the raw one where that is all there is."""
    values = (number(record.get(key)) for key in ("pearson_centred", "pearson"))
    value = next((value for value in values if value is not None), None)
    if value is None:
        return "no correlation was recorded"
    if abs(value) < FAINT:
        return "no relation seen between contexts and routing"
    return f"alike contexts are routed {'alike' if value > 0 else 'apart'}"


def _reading(found: Mapping[str, Row]) -> str:
    claims: dict[str, list[str]] = {}
    for variant, record in found.items():
        claims.setdefault(_relation(record), []).append(variant)
    if len(found) == 1:
        (record,) = found.values()
        figures = _correlation(record)
        text = next(iter(claims)) + (f": {figures}" if figures else "")
    else:
        text = "; ".join(f"{claim} ({listed(names)})" for claim, names in claims.items())
    return f"{text[0].upper()}{text[1:]}."


def _before(records: Records) -> str:
    """The centred correlations that routers of random weights have, of the first seeds."""
    found = {
        variant: value
        for variant, some in records.items()
        if some and (value := number(_untrained(some[0]).get("pearson_centred"))) is not None
    }
    parts = ", ".join(f"{variant} {decimal(value)}" for variant, value in found.items())
    return f" Before training, centred: {parts}." if parts else ""


def _untrained(record: Row) -> Row:
    return (record.get("untrained") or {}).get("routing_similarity") or {}


def routing_similarity_figure(records: Records, look: Look) -> Figure | None:
    """Cosine of routing over cosine of context for pairs of images, one cloud per variant (its first seed)."""
    found = {}
    for variant, some in records.items():
        record = (some[0].get("routing_similarity") or {}) if some else {}
        points = [
            (float(pair[0]), float(pair[1]))
            for pair in record.get("points") or []
            if len(pair) == 2 and None not in (number(pair[0]), number(pair[1]))
        ]
        if points:
            found[variant] = (record, points)
    if not found:
        return None
    clouds = [
        cloud_markup(
            Cloud(
                title=": ".join(filter(None, (variant, _correlation(record)))),
                points=points,
                x_title="cosine of contexts",
                y_title="cosine of routing",
                colour=look.colour(variant),
            )
        )
        for variant, (record, points) in found.items()
    ]
    pairs = next((int(n) for record, _ in found.values() if (n := number(record.get("num_pairs")))), None)
    return Figure(
        name="context-routing",
        title="Context against routing",
        reading=_reading({variant: record for variant, (record, _) in found.items()}),
        how="Up: cosine of two images' routing weights; right: cosine of their contexts. Routing weights share a large "
        "common part, so the centred correlation counts (by rank: Spearman's, centred)."
        + (f" Over {pairs:,} pairs." if pairs else "")
        + _before(records)
        + first_seeds(records),
        body=tag("div", *clouds, class_="panels clouds"),
        header=["variant", "context_cosine", "routing_cosine"],
        rows=[[variant, x, y] for variant, (_, points) in found.items() for x, y in points],
    )


MEASURES = {
    "intra": "within clusters",
    "inter": "across clusters",
    "intra_centred": "within, centred",
    "inter_centred": "across, centred",
}


def cluster_similarity_figure(records: Records) -> Figure | None:
    """How alike samples of one context cluster are in their pictures and in their texts; first seeds."""
    rows: list[list[Any]] = []
    gains = []
    for variant, some in records.items():
        similarity = (some[0].get("similarity") or {}) if some else {}
        for kind in ("visual", "text"):
            record = similarity.get(kind) or {}
            values = [number(record.get(key)) for key in MEASURES]
            if all(value is None for value in values):
                continue
            relative = number(record.get("relative"))
            rows.append([variant, kind, *values, relative])
            if values[2] is not None and values[3] is not None:
                gains.append(values[2] - values[3])
    if not rows:
        return None
    reading = (
        "No cosine was recorded after centring."
        if not gains
        else "Samples of one cluster are more alike in what they show and what they ask, also after centring."
        if min(gains) > 0.02
        else "After centring, at least one kind of vector is no more alike within clusters than across them."
    )
    head = tag("tr", *(tag("th", text, scope="col") for text in ("variant", "vectors", *MEASURES.values(), "relative")))
    body = [
        tag(
            "tr",
            tag("th", row[0], scope="row"),
            tag("td", row[1]),
            *(tag("td", "\N{EN DASH}" if value is None else decimal(value)) for value in row[2:6]),
            tag("td", "\N{EN DASH}" if row[6] is None else f"{decimal(100 * row[6], 1, sign=True)}\N{NO-BREAK SPACE}%"),
        )
        for row in rows
    ]
    table = tag("table", tag("thead", head), tag("tbody", *body))
    return Figure(
        name="cluster-similarity",
        title="Alike within context clusters",
        reading=reading,
        how="Mean pairwise cosine of picture and text embeddings; text embeddings are alike everywhere, so read the "
        "centred columns." + first_seeds(records),
        body=tag("div", table, class_="wide plain-table"),
        header=["variant", "vectors", *MEASURES, "relative"],
        rows=rows,
    )
