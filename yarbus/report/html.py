"""One self-contained HTML file from the records of a run or a comparison.

No network, no font, no library: the page opens from a disk years later. Its content-security policy
allows what is in the file and nothing else.
"""

from base64 import b64encode
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import yaml

from yarbus.core.records import make_folder, write_text
from yarbus.report.curves import Curve, curve_figure, curves
from yarbus.report.dots import difference_figures
from yarbus.report.downloads import curves_csv, data_uri, differences_csv, scores_csv
from yarbus.report.gallery import gallery
from yarbus.report.look import Look
from yarbus.report.markup import Markup, join, tag
from yarbus.report.runs import Comparison, read_comparison
from yarbus.report.summary import MEAN, REFERENCES, Cell, Line, Summary, percent, summarise

STATISTICS = (
    "Intervals of one task are Wilson's; with several training seeds accuracies are averaged and every question counts "
    "once. Intervals of means and differences are percentile bootstraps of 2,000 draws: scenes are drawn with "
    "replacement with all their questions, training seeds likewise where there are several; differences pair the "
    "same question under the same seed. A question that failed counts as wrong."
)


def _resource(name: str) -> str:
    return files("yarbus.report").joinpath(name).read_text(encoding="utf-8")


def _number(cell: Cell | None) -> Markup:
    if cell is None:
        return tag("td", tag("span", "\N{EN DASH}", class_="quiet"))
    return tag("td", percent(cell.value), tag("small", f"{percent(cell.low)}\N{EN DASH}{percent(cell.high)}"))


def _unbroken(text: str) -> str:
    """Keeps a number and its percent sign on one line."""
    return text.replace(" %", "\N{NO-BREAK SPACE}%")


def _score_row(line: Line, variants: list[str]) -> Markup:
    chance = tag("td", "\N{EN DASH}" if line.chance is None else percent(line.chance), class_="chance")
    return tag("tr", tag("th", line.task, scope="row"), chance, *(_number(line.cells[variant]) for variant in variants))


def score_table(comparison: Comparison, summary: Summary, look: Look) -> Markup:
    """Tasks by variants with chance and intervals, the mean, and the mean's paired differences."""
    variants = comparison.variants
    head = tag(
        "tr",
        tag("th", "task", scope="col"),
        tag("th", "chance", scope="col", class_="chance"),
        *(tag("th", look.marker(variant), " ", variant, scope="col") for variant in variants),
    )
    feet = []
    if summary.mean is not None:
        feet.append(_score_row(summary.mean, variants))
    total = summary.mean.task if summary.mean else summary.lines[0].task if summary.lines else MEAN
    for reference in REFERENCES:
        found = {variant: summary.contrast(total, reference, variant) for variant in variants}
        if not any(found.values()):
            continue
        cells = []
        for contrast in found.values():
            if contrast is None:
                cells.append(tag("td", tag("span", "\N{EN DASH}", class_="quiet")))
                continue
            d = contrast.difference
            interval = tag("small", f"{percent(d.low, True)} to {percent(d.high, True)}")
            cells.append(tag("td", percent(d.mean, True), interval, class_="open" if d.includes_zero else None))
        feet.append(
            tag("tr", tag("th", f"minus {reference}", scope="row"), tag("td", class_="chance"), *cells, class_="minus")
        )
    sizes = sorted({cell.num_questions for line in summary.lines for cell in line.cells.values() if cell})
    size = "no" if not sizes else f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    seeds = f", mean of {len(comparison.seeds)} training seeds" if len(comparison.seeds) > 1 else ""
    below = [
        line.task
        for line in summary.lines
        if line.chance is not None and any(cell and cell.low <= line.chance for cell in line.cells.values())
    ]
    reading = (
        f"On {', '.join(below)} at least one score is not above guessing."
        if below
        else "Every interval lies above chance."
        if summary.lines and summary.lines[0].chance is not None
        else "No chance level is known."
        if summary.lines
        else "Nothing has been evaluated yet."
    )
    caption = tag(
        "figcaption",
        tag("strong", "Accuracy in percent. "),
        reading,
        tag(
            "span",
            _unbroken(f" Small figures: 95 % interval; {size} questions per task{seeds}."),
            " Grey differences include 0." if summary.contrasts else "",
            class_="quiet",
        ),
        id="accuracies",
    )
    table = tag(
        "table",
        tag("thead", head),
        tag("tbody", *(_score_row(line, variants) for line in summary.lines)),
        tag("tfoot", *feet) if feet else "",
        class_="scores",
        aria_labelledby="accuracies",
    )
    return tag(
        "figure", caption, tag("div", table, class_="wide", tabindex=0, role="region", aria_labelledby="accuracies")
    )


def _other_metrics(comparison: Comparison) -> Markup:
    """Metrics of the benchmarks that are no plain accuracy, as stored (fractions, or the benchmark's own points)."""
    rows = []
    for run in comparison.runs:
        for evaluation in run.final_evaluations:
            for name, score in evaluation.scores.get("metrics", {}).items():
                if score.get("interval") != "wilson":
                    rows.append(
                        tag(
                            "tr",
                            tag("th", f"{evaluation.label}/{name}", scope="row"),
                            tag("td", run.variant),
                            tag("td", run.seed),
                            tag("td", f"{score['value']:.4g}"),
                            tag("td", f"{score['low']:.4g} to {score['high']:.4g}"),
                        )
                    )
    if not rows:
        return Markup("")
    head = tag(
        "tr", *(tag("th", name, scope="col") for name in ("metric", "variant", "seed", "value", "95 % interval"))
    )
    caption = tag(
        "figcaption", tag("strong", "Other metrics. "), "As the benchmark defines them, intervals drawn by group."
    )
    return tag(
        "figure",
        caption,
        tag("div", tag("table", tag("thead", head), tag("tbody", *rows), class_="plain"), class_="wide"),
    )


def _flat(value: Any, prefix: str = "") -> list[tuple[str, str]]:
    """A nested record as dotted keys and texts."""
    if isinstance(value, dict):
        return [pair for key, inner in value.items() for pair in _flat(inner, f"{prefix}{key}.")]
    return [(prefix.removesuffix("."), ", ".join(map(str, value)) if isinstance(value, list) else str(value))]


def _surroundings(environment: dict[str, Any]) -> dict[str, Any]:
    """What a run ran in, without what names the run itself."""
    return {key: value for key, value in environment.items() if key not in ("run", "stages", "start")}


def _made(comparison: Comparison) -> Markup:
    """Command, environment, recipe and the way the intervals were made."""
    place = comparison.folder if not comparison.folder.is_absolute() else comparison.folder.name
    command = comparison.command
    if not command and (comparison.folder / "recipe.yaml").exists():
        command = f"yarbus train {place}/recipe.yaml\nyarbus evaluate {place}"
    parts = [tag("p", "The numbers on this page come from"), tag("pre", tag("code", command))] if command else []
    parts += [
        tag("p", "The page is drawn again, from the records alone, by"),
        tag("pre", tag("code", f"yarbus report {place}")),
    ]
    if comparison.note:
        parts.append(tag("p", comparison.note))
    parts.append(tag("p", STATISTICS))
    recorded = [_surroundings(run.environment) for run in comparison.runs if run.environment]
    if recorded:
        environment = recorded[0]
        rows = [tag("tr", tag("th", key, scope="row"), tag("td", text)) for key, text in _flat(environment)]
        same = sum(one == environment for one in recorded)
        title = "Environment" if len(recorded) == 1 else f"Environment (the same in {same} of {len(recorded)} runs)"
        parts.append(
            tag(
                "details",
                tag("summary", title),
                tag("div", tag("table", tag("tbody", *rows), class_="plain"), class_="wide"),
            )
        )
    if comparison.recipe:
        text = yaml.safe_dump(comparison.recipe, sort_keys=False, allow_unicode=True)
        parts.append(tag("details", tag("summary", "Recipe"), tag("pre", tag("code", text))))
    return join(parts)


def _downloads(summary: Summary, drawn: dict[str, list[Curve]], name: str) -> Markup:
    made = {"scores": scores_csv(summary)}
    if summary.contrasts:
        made["differences"] = differences_csv(summary)
    if drawn:
        made["curves"] = curves_csv(drawn)
    links = [tag("a", f"{kind}.csv", href=data_uri(text), download=f"{name}-{kind}.csv") for kind, text in made.items()]
    return tag("p", "Download: ", Markup(", ".join(links)), class_="downloads")


def _facts(comparison: Comparison, summary: Summary) -> Markup:
    questions = sum(
        max((cell.num_questions for cell in line.cells.values() if cell), default=0) for line in summary.lines
    )
    counts = [
        (len(comparison.variants), "variant"),
        (len(comparison.seeds), "training seed"),
        (len(summary.lines), "task"),
        (questions, "test question"),
    ]
    text = " \N{MIDDLE DOT} ".join(f"{count:,} {word}{'' if count == 1 else 's'}" for count, word in counts)
    return tag("p", text, class_="facts")


def page(comparison: Comparison) -> str:
    """The whole document."""
    summary, look, drawn = summarise(comparison), Look(comparison.variants), curves(comparison)
    warnings = []
    if summary.unfinished:
        text = f"Not finished: {'; '.join(summary.unfinished)}. The page shows what is there."
        warnings.append(tag("p", text, class_="warning"))
    if summary.num_errors:
        text = f"{summary.num_errors} questions failed; they count as wrong and are marked in replies.jsonl."
        warnings.append(tag("p", text, class_="warning"))
    details = tag("ul", *(tag("li", sentence) for sentence in summary.details)) if summary.details else ""
    sections = [
        (
            "Scores",
            join(
                [
                    score_table(comparison, summary, look),
                    _other_metrics(comparison),
                    _downloads(summary, drawn, comparison.name),
                ]
            ),
        )
    ]
    if summary.contrasts:
        sections.append(("Differences", difference_figures(summary, look)))
    if drawn:
        sections.append(("Training", join(curve_figure(stage, some, look) for stage, some in drawn.items())))
    sections += [("Pictures and answers", gallery(comparison, look)), ("How this was made", _made(comparison))]
    body = join(
        [
            tag(
                "header",
                tag("p", "Yarbus", tag("span", comparison.name), class_="eyebrow"),
                tag("h1", _unbroken(summary.headline)),
                details,
                *warnings,
                _facts(comparison, summary),
            ),
            tag("main", *(tag("section", tag("h2", title), content) for title, content in sections)),
        ]
    )
    script = _resource("page.js")
    return Template(_resource("page.html")).substitute(
        title=tag("title", f"{comparison.name} \N{MIDDLE DOT} Yarbus"),
        style=_resource("page.css"),
        script=script,
        script_hash=b64encode(sha256(script.encode()).digest()).decode(),
        body=body,
    )


def write_report(folder: Path | list[Path], output: Path | None = None) -> Path:
    """Writes ``report/index.html`` into the folder of a run or comparison and returns its path.

    Several folders are shown side by side, in a ``report`` folder beside the first one.
    """
    comparison = read_comparison(folder)
    path = output or comparison.folder / "report" / "index.html"
    make_folder(path.parent)
    write_text(path, page(comparison))
    return path
