"""The page of a conflict folder: the advice on top, then every picture that it rests on."""

from collections.abc import Sequence
from typing import Any

from yarbus.report.advice import advice_card, advice_figure, advice_sentences
from yarbus.report.depth import depth_figure
from yarbus.report.diagnosis import diagnosis_sections, missing_diagnosis
from yarbus.report.document import Section, document, header
from yarbus.report.drift import drift_figure
from yarbus.report.figure import Origin, show_all
from yarbus.report.gap import gap_figure
from yarbus.report.look import Look
from yarbus.report.made import made
from yarbus.report.markup import Markup, join, tag
from yarbus.report.matrix import matrix_figure
from yarbus.report.pull import pull_figure
from yarbus.report.runs import Conflict, Run
from yarbus.report.thumbnails import Album

Row = dict[str, Any]

STATISTICS = (
    "Every cosine is made from independent halves of the data, so that noise makes none of them larger; the ratio to "
    "the ceiling uses unbiased products. Intervals are 95 % and cover the choice of samples, not the luck of a "
    "training seed, unless a figure says so."
)
NEEDS = {
    "gradients": ("gradients", "by depth and task by task: needs yarbus conflict"),
    "drift": ("weight changes", "by depth, with their control: needs yarbus conflict --steps"),
    "gap": ("what sharing costs", "each task alone against the mix: needs yarbus conflict --steps"),
}
"""Parts of the record that may be null: what they are called, and what each needs."""


def origin_of(record: Row, name: str) -> Origin:
    """What the figures of a conflict record name as their origin."""
    return Origin(name=name, command=str(record.get("command") or ""))


def missing_parts(record: Row) -> list[str]:
    """What the record says is missing, and the parts that are null without a word there."""
    said = [str(text) for text in record.get("missing") or []]
    unsaid = [
        f"{name}, {text}"
        for part, (name, text) in NEEDS.items()
        if not record.get(part) and not any(name in one for one in said)
    ]
    return unsaid + said


def _missing(conflict: Conflict) -> list[str]:
    """What this page does not show, and what it would need."""
    missing = missing_parts(conflict.record)
    if conflict.record.get("run") and conflict.run is None:
        missing.append(f"the trained run: {conflict.record['run']} is not there")
    return missing + missing_diagnosis([conflict.run] if conflict.run else [], missing)


def missing_list(missing: Sequence[str], num_pictures: int = 0) -> Markup:
    """What is not drawn, and what it needs; pictures that would have made the page too large are counted."""
    parts = [tag("ul", *(tag("li", text) for text in missing), class_="missing")] if missing else []
    if num_pictures:
        text = f"{num_pictures} thumbnails were left out to keep this page small; their dots are drawn."
        parts.append(tag("p", text, class_="quiet"))
    return join(parts)


def conflict_sections(record: Row, origin: Origin) -> list[Section]:
    """The pictures of the record itself, those that there is something to draw for."""
    gradients, drift = record.get("gradients"), record.get("drift")
    drift_matrix = matrix_figure(
        (drift or {}).get("matrix"), name="weight-change-tasks", title="Cosine of weight changes between tasks",
        measure="whole runs", ceiling="two runs of one task",
    )  # fmt: skip
    found = [
        Section(title="By depth", content=show_all([depth_figure(gradients)], origin)),
        Section(
            title="Task by task",
            content=show_all([matrix_figure((gradients or {}).get("matrix")), pull_figure(gradients)], origin),
        ),
        Section(title="Weight changes", content=show_all([drift_figure(drift), drift_matrix], origin)),
        Section(title="Cost of sharing", content=show_all([gap_figure(record.get("gap"))], origin)),
    ]
    return [section for section in found if section.content]


def tasks_table(record: Row) -> Markup:
    """What the samples were grouped by, with sizes and example questions."""
    grouping = record.get("grouping") or {}
    tasks = grouping.get("tasks") or {}
    if not tasks:
        return Markup("")
    rows = [
        tag(
            "tr",
            tag("th", name, scope="row"),
            tag("td", _count(task.get("num_rows"))),
            tag("td", _count(task.get("num_samples"))),
            tag("td", join(tag("div", str(text)[:200]) for text in task.get("examples") or [])),
        )
        for name, task in tasks.items()
    ]
    heads = (str(grouping.get("by") or "task"), "rows", "used", "for example")
    head = tag("tr", *(tag("th", text, scope="col") for text in heads))
    return tag("div", tag("table", tag("thead", head), tag("tbody", *rows), class_="plain"), class_="wide")


def _count(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else "\N{EN DASH}"


def _facts(record: Row, run: Run | None) -> Markup:
    grouping, gradients = record.get("grouping") or {}, record.get("gradients") or {}
    tasks = grouping.get("tasks") or {}
    samples = sum(task.get("num_samples") or 0 for task in tasks.values())
    parts = [f"{len(tasks)} groups by {grouping['by']}"] if grouping.get("by") else []
    parts += [f"{samples:,} samples"] if samples else []
    parts += [f"{len(gradients['blocks'])} blocks"] if gradients.get("blocks") else []
    parts += [f"stage {record['stage']}"] if record.get("stage") else []
    parts += [f"seed {record['seed']}"] if record.get("seed") is not None else []
    parts += [f"trained run {run.folder.name}"] if run is not None else []
    return tag("p", " \N{MIDDLE DOT} ".join(parts), class_="facts") if parts else Markup("")


def headline_of(record: Row) -> str:
    """The advice in one sentence."""
    return str((record.get("advice") or {}).get("headline") or "Conflict of tasks: no advice was recorded.")


def conflict_page(conflict: Conflict) -> str:
    """The whole document."""
    record, origin = conflict.record, origin_of(conflict.record, conflict.name)
    runs, album, advice = [conflict.run] if conflict.run else [], Album(conflict.folder), record.get("advice")
    start = f"Start: {record['start']}." if record.get("start") else None
    sections = [
        Section(title="Behind the advice", content=show_all([advice_figure(advice)], origin)),
        *conflict_sections(record, origin),
        *diagnosis_sections(runs, Look([run.variant for run in runs]), origin, album),
        Section(title="Not recorded", content=missing_list(_missing(conflict), album.num_left_out)),
        Section(title="The data", content=tasks_table(record)),
        Section(
            title="How this was made",
            content=made(
                command=origin.command,
                folder=conflict.folder,
                statistics=STATISTICS,
                environments=[record.get("machine") or {}],
                recipe=record.get("recipe"),
                note=" ".join(str(text) for text in (start, record.get("note")) if text) or None,
            ),
        ),
    ]
    head = header(
        conflict.name, headline_of(record), advice_card(advice), advice_sentences(advice), _facts(record, conflict.run)
    )
    return document(conflict.name, head, sections, album.style())
