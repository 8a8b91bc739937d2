"""A map of context vectors beside one of the bare text vectors, with the sample behind every dot.

Distances on a map are those of two directions only; the figures in its caption are made from all of them.
"""

import json
from collections.abc import Sequence
from hashlib import sha256
from typing import Any

from yarbus.report.estimates import Estimate, decimal, estimate, first_of, number, words
from yarbus.report.figure import Figure
from yarbus.report.look import Look
from yarbus.report.markup import Markup, join, tag
from yarbus.report.plot import legend
from yarbus.report.scatter import Dot, map_markup
from yarbus.report.thumbnails import Album, thumbnail

Row = dict[str, Any]

MOST_DOTS = 300
"""On all maps of one variant; with several variants fewer each, so that a page stays small."""
LONGEST_QUESTION = 160
KINDS = {"context": "context vector", "text": "bare text vector"}


def information(record: Row, kind: str) -> Estimate | None:
    """Adjusted mutual information of the clusters with the task labels."""
    return estimate((record.get(kind) or {}).get("mutual_information"))


def silhouette(record: Row, kind: str) -> float | None:
    """How well the clusters are apart, in [-1, 1]."""
    return number((record.get(kind) or {}).get("silhouette"))


def label_of(record: Row) -> str:
    """What the samples are grouped by."""
    return str(record.get("by") or "task")


def claim_of(context: Estimate | None, text: Estimate | None, label: str) -> str:
    """Whether the context follows the label, and better than the bare text: only where intervals are apart."""
    if context is None:
        return f"how well the clusters follow the {label} was not recorded"
    if context.low is None or context.high is None:
        return "without intervals nothing is separated"
    if context.low <= 0:
        return f"clusters of the context do not follow the {label} beyond chance"
    if text is None or text.low is None or text.high is None:
        return f"clusters of the context follow the {label}; nothing sure is known of the bare text"
    if context.low > text.high:
        return f"the context knows the {label} better than the bare text does"
    if context.high < text.low:
        return f"the context follows the {label} less than the bare text does"
    return f"no difference seen: clusters of the context follow the {label} as well as those of the bare text"


def reading_of(context: Estimate | None, text: Estimate | None, label: str) -> str:
    """The claim with its figures."""
    claim = claim_of(context, text, label)
    figures = "" if context is None else f": {words(context)}" + ("" if text is None else f" against {words(text)}")
    return f"{claim[0].upper()}{claim[1:]}{figures}."


def _chosen(samples: Sequence[Row], most: int) -> list[Row]:
    """Samples with a place on both maps, by a hash of their id: in the record tasks may take turns."""
    known = [s for s in samples if all(number(s.get(key)) is not None for key in ("x", "y", "text_x", "text_y"))]
    return sorted(known, key=lambda sample: sha256(str(sample.get("id")).encode()).digest())[:most]


def _question(sample: Row) -> str:
    text = str(sample.get("question") or "")
    return text if len(text) <= LONGEST_QUESTION else text[:LONGEST_QUESTION] + " \N{HORIZONTAL ELLIPSIS}"


def _caption_line(sample: Row) -> str:
    cluster = sample.get("cluster")
    return f"{sample.get('task')}" + ("" if cluster is None else f", cluster {cluster}")


def _inspector(sample: Row, shown: str | None) -> Markup:
    """Where the sample under the pointer is shown."""
    return tag(
        "div",
        thumbnail(shown, "Picture of the chosen sample"),
        tag(
            "div",
            tag("p", _caption_line(sample), class_="quiet task"),
            tag("p", _question(sample), class_="question"),
        ),
        class_="inspector",
        aria_live="polite",
    )


def _share(explained: object) -> str:
    values = [value for part in explained if (value := number(part)) is not None] if isinstance(explained, list) else []
    return f", {100 * sum(values):.0f}\N{NO-BREAK SPACE}% of the variance" if values else ""


def _numbers(record: Row, kind: str) -> str:
    parts = []
    apart, shared = silhouette(record, kind), information(record, kind)
    parts += [f"silhouette {decimal(apart)}"] if apart is not None else []
    parts += [f"adjusted mutual information {words(shared)}"] if shared is not None else []
    return f"{KINDS[kind]}: {', '.join(parts)}" if parts else ""


def before_training(record: Row) -> str:
    """The control: how well a router of random weights follows the label; empty where it was not recorded."""
    found = information(record.get("untrained") or {}, "context")
    return "" if found is None else f"Before training the context vector had {words(found)}. "


def map_figure(variant: str, records: Sequence[Row], album: Album, most: int = MOST_DOTS) -> Figure | None:
    """Both maps of the first seed side by side, linked: a sample chosen on one is ringed on the other."""
    record = records[0] if records else {}
    chosen = _chosen(record.get("samples") or [], most)
    if not chosen:
        return None
    look = Look(list(dict.fromkeys(str(sample.get("task")) for sample in record["samples"])), neutral=())
    shown = [album.add(sample.get("image")) for sample in chosen]
    maps, places = [], []
    for kind, prefix in (("context", ""), ("text", "text_")):
        dots = [
            Dot(
                x=float(sample[f"{prefix}x"]),
                y=float(sample[f"{prefix}y"]),
                name=str(sample.get("task")),
                cluster=cluster if isinstance(cluster := sample.get(f"{prefix}cluster"), int) else None,
            )
            for sample in chosen
        ]
        title = KINDS[kind].capitalize() + _share(record.get("explained" if kind == "context" else "text_explained"))
        drawing, where = map_markup(dots, look, title=title, described=f"Map of {len(dots)} samples by {KINDS[kind]}.")
        maps.append(tag("div", drawing, class_="panel"))
        places.append(where)
    data = [
        {
            "at": [[round(value, 1) for value in where[index]] for where in places],
            "line": _caption_line(sample),
            "question": _question(sample),
            "picture": shown[index],
        }
        for index, sample in enumerate(chosen)
    ]
    total = int(record.get("num_samples") or len(record.get("samples") or []))
    drawn = f"{len(chosen)} of {total} samples drawn" if len(chosen) < total else f"All {total} samples drawn"
    without = sum(found is None for found in shown)
    drawn += f", {without} without a picture" if without else ""
    numbers = "; ".join(filter(None, (_numbers(record, kind) for kind in KINDS)))
    block = f", block {record['block']}" if record.get("block") is not None else ""
    values = Markup(json.dumps(data, separators=(",", ":")).replace("<", "\\u003c"))
    return Figure(
        name=f"contexts-{variant}",
        title=f"Context map of {variant}{block}",
        reading=reading_of(information(record, "context"), information(record, "text"), label_of(record)),
        how=f"{numbers[:1].upper()}{numbers[1:]}. {before_training(record)}{drawn}; numbers stand at the "
        f"middle of k-means clusters. {first_of(records)}"
        "Point at a dot, tap it, or use the arrow keys to see its sample.",
        body=join(
            [
                legend([(name, "") for name in look.names], look),
                tag("div", *maps, class_="panels maps"),
                _inspector(chosen[0], shown[0]),
                tag("script", values, type="application/json"),
                _clusters(record, album, look),
            ]
        ),
        header=["id", "task", "x", "y", "cluster", "text_x", "text_y", "text_cluster"],
        rows=[
            [s.get("id"), s.get("task"), *(s.get(k) for k in ("x", "y", "cluster", "text_x", "text_y", "text_cluster"))]
            for s in chosen
        ],
        classes="contexts",
    )


def _clusters(record: Row, album: Album, look: Look) -> Markup:
    """Size, tasks and nearest samples of every cluster of the context."""
    clusters = (record.get("context") or {}).get("clusters") or []
    by_id = {str(sample.get("id")): sample for sample in record.get("samples") or []}
    rows = []
    for cluster in clusters:
        tasks = sorted((cluster.get("tasks") or {}).items(), key=lambda item: -item[1])
        nearest = [by_id[str(name)] for name in cluster.get("nearest") or [] if str(name) in by_id]
        pictures = [
            tag("li", thumbnail(album.add(sample.get("image")), "Picture of a sample"), tag("span", _question(sample)))
            for sample in nearest
        ]
        shares = [
            tag("span", look.marker(task) if task in look.names else "", f" {task} {count}", class_="share")
            for task, count in tasks
        ]
        rows.append(
            tag(
                "tr",
                tag("th", cluster.get("cluster"), scope="row"),
                tag("td", cluster.get("size")),
                tag("td", *shares),
                tag("td", tag("ul", *pictures, class_="nearest")),
            )
        )
    if not rows:
        return Markup("")
    head = tag("tr", *(tag("th", text, scope="col") for text in ("cluster", "samples", "tasks", "nearest its middle")))
    table = tag("table", tag("thead", head), tag("tbody", *rows), class_="plain clusters")
    return tag("details", tag("summary", f"The {len(rows)} clusters of the context"), tag("div", table, class_="wide"))
