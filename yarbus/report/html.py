"""One self-contained HTML file from the records of a run, a comparison or a diagnosis of conflict."""

from collections.abc import Sequence
from pathlib import Path

from yarbus.core.records import make_folder, write_text
from yarbus.report.advice import advice_card, advice_figure, advice_sentences
from yarbus.report.aligned import besides, checked
from yarbus.report.comparing import comparing_sections
from yarbus.report.conflict import (
    conflict_page,
    conflict_sections,
    headline_of,
    missing_list,
    missing_parts,
    origin_of,
)
from yarbus.report.contrasts import BUDGET, LEAST_DRAWS, MOST_DRAWS
from yarbus.report.costs import costs_of
from yarbus.report.curves import curve_figure, curves
from yarbus.report.diagnosis import diagnosis_sections, is_about_runs, missing_diagnosis
from yarbus.report.digest import Digest, beside, read_digest, stored_digest
from yarbus.report.document import Section, document, header
from yarbus.report.figure import Origin, show, show_all
from yarbus.report.forgetting import Forgetting, forgetting_of
from yarbus.report.forgetting_panel import forgetting_figure, forgetting_table
from yarbus.report.gallery import gallery
from yarbus.report.look import Look
from yarbus.report.made import made, place_of
from yarbus.report.markup import Markup, join, tag
from yarbus.report.runs import Comparison, Row, find_folder, is_conflict, read_conflict
from yarbus.report.scores import other_metrics, score_table
from yarbus.report.summary import Summary, summarise
from yarbus.report.sweeps import Sweep, read_all
from yarbus.report.thumbnails import Album

STATISTICS = (
    "Intervals of one task are Wilson's; with several training seeds accuracies are averaged and every question counts "
    "once. Intervals of means and differences are percentile bootstraps of at least 2,000 draws: scenes are drawn with "
    "replacement with all their questions, training seeds likewise where there are several; differences pair the "
    "same question under the same seed. A question that failed counts as wrong."
)
P_VALUES = (
    f"Differences take {MOST_DRAWS:,} draws; where there are more than {BUDGET // MOST_DRAWS:,} scenes, fewer, down to "
    f"{LEAST_DRAWS:,}. Their p values are two-sided, from these draws, and so never below {2 / (MOST_DRAWS + 1):.4f}; "
    "Holm's correction counts all variants that are compared with one reference on the mean, and all variants times "
    "tasks where tasks are shown one by one."
)

NO_CONFLICT = "conflict by depth and task: needs yarbus conflict RECIPE"


def _command(comparison: Comparison) -> str:
    """The command that made the records; of a lone run the two that its recipe stands for."""
    if not comparison.command and (comparison.folder / "recipe.yaml").exists():
        place = place_of(comparison.folder)
        return f"yarbus train {place}/recipe.yaml\nyarbus evaluate {place}"
    return comparison.command


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


def _warnings(summary: Summary) -> list[Markup]:
    texts = []
    if summary.unfinished:
        texts.append(f"Not finished: {'; '.join(summary.unfinished)}. The page shows what is there.")
    if summary.num_errors:
        texts.append(f"{summary.num_errors} questions failed; they count as wrong and are marked in replies.jsonl.")
    return [tag("p", text, class_="warning") for text in texts]


def _scores(comparison: Comparison, summary: Summary, look: Look, origin: Origin) -> Markup:
    table = score_table(summary, comparison.variants, len(comparison.seeds), look)
    return join([show(table, origin), other_metrics(comparison, look)])


def _conflict(comparison: Comparison) -> Section:
    """The diagnosis that lies in the comparison's folder, advice first."""
    record = comparison.conflict
    if not record:
        return Section(title="Do the tasks conflict?", content=Markup(""))
    origin, advice = origin_of(record, comparison.name), record.get("advice")
    parts = [
        tag("p", headline_of(record), class_="finding"),
        advice_card(advice),
        advice_sentences(advice),
        show_all([advice_figure(advice)], origin),
        *(section.content for section in conflict_sections(record, origin)),
    ]
    return Section(title="Do the tasks conflict?", content=join(parts))


def _study_beside(comparison: Comparison) -> tuple[Digest | None, list[str]]:
    """The study that the comparison names, or a line about why it is not shown."""
    if not comparison.beside:
        return None, []
    folder = find_folder(comparison.beside, comparison.folder)
    digest = None if folder is None else read_digest(folder)
    if digest is None:
        return None, [f"the longer study beside this one: {comparison.beside} holds none"]
    return digest, []


def _statistics(summary: Summary, alignment: Row) -> list[str]:
    """How intervals and p values were made, and what of the variants was checked to be the same."""
    has_p = any(one.difference.p is not None for one in summary.contrasts)
    return [STATISTICS, *([P_VALUES] if has_p else []), *filter(None, [checked(alignment)])]


def _forgetting(found: Forgetting | None, look: Look, origin: Origin) -> Section:
    """Classification over instructions, where tasks of both kinds were asked."""
    figures = [] if found is None else [forgetting_figure(found, look), forgetting_table(found, look)]
    return Section(title="Gained and forgotten", content=show_all(figures, origin))


def page(comparison: Comparison, sweeps: Sequence[Sweep] = ()) -> str:
    """The whole document of runs or a comparison, with the curves of sweeps between them."""
    summary, drawn = summarise(comparison), curves(comparison)
    kept = None if summary.lines else stored_digest(comparison.folder)
    summary = summary if kept is None else kept.summary
    costs = costs_of(comparison) if kept is None else kept.costs
    alignment = comparison.alignment if kept is None else kept.alignment
    forgetting = forgetting_of(comparison, sweeps) if kept is None else kept.forgetting
    study, missing = _study_beside(comparison)
    drawn_curves = forgetting.curves if forgetting is not None else {}
    look = Look(list(dict.fromkeys([*comparison.variants, *(study.variants if study else []), *drawn_curves])))
    origin = Origin(name=comparison.name, command=_command(comparison))
    album = Album(comparison.folder)
    training = [curve_figure(stage, some, look) for stage, some in drawn.items()]
    replies = tag("p", "This folder holds the numbers of a study without its replies.", class_="quiet")
    sections = [
        Section(title="Scores", content=_scores(comparison, summary, look, origin)),
        _forgetting(forgetting, look, origin),
        *comparing_sections(summary, comparison.variants, costs, look, origin),
        _conflict(comparison),
        *diagnosis_sections(comparison.runs, look, origin, album),
        Section(title="A longer study, for comparison", content=beside(study, look) if study else Markup("")),
        Section(title="Training", content=show_all(training, origin)),
        Section(title="Pictures and answers", content=gallery(comparison, look) if kept is None else replies),
    ]
    said = missing_parts(comparison.conflict) if comparison.conflict else [NO_CONFLICT]
    missing += [text for text in said if not is_about_runs(text)] + missing_diagnosis(comparison.runs)
    sections += [
        Section(title="Not recorded", content=missing_list(missing, album.num_left_out)),
        Section(
            title="How this was made",
            content=made(
                command=origin.command,
                folder=comparison.folder,
                statistics=" ".join(_statistics(summary, alignment)),
                environments=[run.environment for run in comparison.runs],
                recipe=comparison.recipe,
                note=comparison.note,
            ),
        ),
    ]
    sentences = [*summary.details, *filter(None, [besides(alignment)])]
    details = tag("ul", *(tag("li", sentence) for sentence in sentences)) if sentences else ""
    head = header(comparison.name, summary.headline, details, *_warnings(summary), _facts(comparison, summary))
    return document(comparison.name, head, sections, album.style())


def write_report(folder: Path | list[Path], output: Path | None = None) -> Path:
    """Writes ``report/index.html`` into the folder of a run, comparison or diagnosis and returns its path.

    Several folders are shown side by side, in a ``report`` folder beside the first one; sweeps among them, or in the
    folder of a comparison, are curves of the forgetting panel.
    """
    alone = folder[0] if isinstance(folder, list) and len(folder) == 1 else folder
    if isinstance(alone, Path) and is_conflict(alone):
        place, text = alone, conflict_page(read_conflict(alone))
    else:
        comparison, sweeps = read_all(folder)
        place, text = comparison.folder, page(comparison, sweeps)
    path = output or place / "report" / "index.html"
    make_folder(path.parent)
    write_text(path, text)
    return path
