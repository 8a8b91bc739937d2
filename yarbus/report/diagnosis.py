"""The sections of a page that ask why: what was recorded of trained runs, and what was not."""

from collections.abc import Sequence
from dataclasses import replace

from yarbus.report.agreement import agreement_figures
from yarbus.report.contexts import contexts_figures
from yarbus.report.document import Section
from yarbus.report.estimates import listed
from yarbus.report.figure import Figure, Origin, show
from yarbus.report.gaze import gaze_figure
from yarbus.report.look import Look
from yarbus.report.markup import Markup, join, tag
from yarbus.report.mixing import mixing_figure
from yarbus.report.router import router_figure
from yarbus.report.routing import routing_figure
from yarbus.report.runs import Row, Run
from yarbus.report.similarity import cluster_similarity_figure, routing_similarity_figure
from yarbus.report.swapped import swapped_figures
from yarbus.report.thumbnails import Album

RUN = "needs yarbus conflict RECIPE --run RUN"
ROUTER = f"{RUN}, of a run whose tower takes the question"
NEEDS = {
    "agreement": ("gradient agreement", f"needs record.vision_gradient in training, then {RUN.removeprefix('needs ')}"),
    "router": ("routing while training", "needs record.routing in training"),
    "routing": ("routing by task", ROUTER),
    "contexts": ("contexts", ROUTER),
    "gaze": ("gaze", ROUTER),
    "swapped": ("swapped questions", ROUTER),
}
"""What each part of a diagnosis is called, and what it needs."""


def records_of(runs: Sequence[Run], kind: str) -> dict[str, list[Row]]:
    """Variant -> the records of one kind of those of its seeds that have one."""
    found: dict[str, list[Row]] = {}
    for run in sorted(runs, key=lambda run: run.seed):
        if run.analysis.get(kind):
            found.setdefault(run.variant, []).append(run.analysis[kind])
    order = list(dict.fromkeys(run.variant for run in runs))
    return {variant: found[variant] for variant in order if variant in found}


def _routers(runs: Sequence[Run]) -> dict[str, dict[str, list[list[Row]]]]:
    """Stage -> variant -> the lines of routing.jsonl of every seed."""
    found: dict[str, dict[str, list[list[Row]]]] = {}
    for run in runs:
        for stage, lines in run.routing.items():
            if lines:
                found.setdefault(stage, {}).setdefault(run.variant, []).append(lines)
    return found


def _folded(figures: Sequence[Figure | None], origin: Origin, num_open: int = 1) -> Markup:
    """The first pictures of a row of alike ones, the others one click away."""
    drawn = [figure for figure in figures if figure is not None]
    parts = [show(figure, origin) for figure in drawn[:num_open]]
    parts += [tag("details", tag("summary", figure.title), show(figure, origin)) for figure in drawn[num_open:]]
    return join(parts)


def _origin(origin: Origin, records: dict[str, list[Row]]) -> Origin:
    """The command that a record names, else the page's."""
    named = (str(record["command"]) for some in records.values() for record in some if record.get("command"))
    return replace(origin, command=next(named, origin.command))


def diagnosis_sections(runs: Sequence[Run], look: Look, origin: Origin, album: Album) -> list[Section]:
    """A section for each part that some run has a record of."""
    found = {kind: records_of(runs, kind) for kind in NEEDS}
    made = {kind: _origin(origin, records) for kind, records in found.items()}
    num_swapped = 1 if len(found["swapped"]) > 1 else 2
    routers = [router_figure(curves, look, stage) for stage, curves in _routers(runs).items()]
    contexts = contexts_figures(found["contexts"], look, album)
    mixing = records_of(runs, "mixing")
    weights = mixing_figure(mixing, look)
    num_contexts = 1 if sum(map(len, found["contexts"].values())) == 1 else 2
    sections = [
        Section(
            title="Swapped questions",
            content=_folded(swapped_figures(found["swapped"], look), made["swapped"], num_swapped),
        ),
        Section(
            title="Mixing weights", content=show(weights, _origin(origin, mixing)) if weights is not None else join([])
        ),
        Section(
            title="Routing",
            content=join(
                [
                    _folded([routing_figure(v, some) for v, some in found["routing"].items()], made["routing"]),
                    *(show(figure, origin) for figure in routers if figure is not None),
                ]
            ),
        ),
        Section(
            title="Contexts",
            content=join(
                [
                    _folded(contexts, made["contexts"], num_contexts),
                    *(
                        show(figure, made["contexts"])
                        for figure in (
                            routing_similarity_figure(found["contexts"], look),
                            cluster_similarity_figure(found["contexts"]),
                        )
                        if figure is not None
                    ),
                ]
            ),
        ),
        Section(
            title="Gaze",
            content=_folded([gaze_figure(v, some, album) for v, some in found["gaze"].items()], made["gaze"]),
        ),
        Section(
            title="Gradient agreement",
            content=_folded(agreement_figures(found["agreement"], look), made["agreement"], 3),
        ),
    ]
    return [section for section in sections if section.content]


def _is_about(kind: str, text: str) -> bool:
    return text.startswith((f"{kind}:", NEEDS[kind][0]))


def is_about_runs(text: str) -> bool:
    """A line about what is missing speaks of trained runs."""
    return any(_is_about(kind, text) for kind in NEEDS)


def _reasons(run: Run) -> Row:
    """Why the run has no record of a part, by part (``analysis/index.json``)."""
    return (run.analysis.get("index") or {}).get("missing") or {}


def _left_out(runs: Sequence[Run], recorded: Sequence[str]) -> list[str]:
    """Variants that lack a part which others have, by the reason in their records."""
    found: dict[str, dict[str, list[str]]] = {}
    for run in runs:
        for kind in (kind for kind in recorded if _reasons(run).get(kind)):
            kinds = found.setdefault(str(_reasons(run)[kind]), {}).setdefault(run.variant, [])
            kinds += [kind] if kind not in kinds else []
    lines: dict[tuple[str, str], list[str]] = {}
    for why, by_variant in found.items():
        for variant, kinds in by_variant.items():
            lines.setdefault((why, listed([NEEDS[kind][0] for kind in kinds])), []).append(variant)
    return [f"{parts} of {listed(variants)}: {why}" for (why, parts), variants in lines.items()]


def missing_diagnosis(runs: Sequence[Run], said: Sequence[str] = ()) -> list[str]:
    """What no run, or not every run, has a record of, and why, or what it would need.

    Parts about which something is said already are left out.
    """
    missing, recorded = [], []
    for kind, (name, needs) in NEEDS.items():
        if any(run.routing if kind == "router" else run.analysis.get(kind) for run in runs):
            recorded.append(kind)
        elif not any(_is_about(kind, text) for text in said):
            whys = (_reasons(run).get(kind) for run in runs)
            missing.append(f"{name}: {next(filter(None, whys), needs)}")
    return missing + _left_out(runs, recorded)
