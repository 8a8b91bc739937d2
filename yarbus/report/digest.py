"""A study in numbers: all that its tables and differences show, without the replies they were made from.

A digest is small enough to be committed, and one page can show another study beside its own.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from yarbus.core.errors import CheckpointError
from yarbus.core.records import read_record
from yarbus.core.sections import scaled_steps
from yarbus.report.cells import Cell, Line
from yarbus.report.contrasts import Contrast
from yarbus.report.costs import Cost, costs_of
from yarbus.report.dots import difference_parts
from yarbus.report.estimates import number
from yarbus.report.figure import Origin, show
from yarbus.report.forgetting import Forgetting, forgetting_from, forgetting_of, plain
from yarbus.report.intervals import Difference
from yarbus.report.look import Look
from yarbus.report.made import machine_of
from yarbus.report.markup import Markup, join, tag
from yarbus.report.runs import Comparison, Row, read_comparison
from yarbus.report.scores import score_table
from yarbus.report.summary import Summary, summarise
from yarbus.report.sweeps import sweeps_in

FILE = "digest.json"


@dataclass(frozen=True, kw_only=True)
class Digest:
    """A study as it was summed up, with what is needed to say which study it is."""

    name: str
    variants: list[str]
    seeds: list[int]
    steps: dict[str, int]
    """Training steps by stage."""
    machine: str
    commit: str | None
    """Of the code; several by comma where runs were resumed after a change."""
    command: str
    note: str | None
    advice: Row | None
    summary: Summary
    costs: list[Cost]
    """Empty in records older than them."""
    alignment: Row
    forgetting: Forgetting | None
    """None where there were no tasks of both kinds, and in records older than it."""


def _steps(comparison: Comparison) -> dict[str, int]:
    """Steps of every stage: the last one logged, else what the recipe says."""
    found: dict[str, int] = {}
    for name, stage in ((comparison.recipe or {}).get("stages") or {}).items():
        said = number((stage or {}).get("steps"))
        steps = None if said is None else scaled_steps(int(said), number(stage.get("fraction")) or 1.0)
        found |= {name: steps} if steps else {}
    for run in [*comparison.shared, *comparison.runs]:
        for stage, lines in run.curves.items():
            logged = [int(step) for line in lines if (step := number(line.get("step")))]
            if logged:
                found[stage] = max(logged[-1], found.get(stage, 0))
    return found


def digest_of(comparison: Comparison) -> dict[str, Any]:
    """The digest of a comparison as plain values, to be written as ``digest.json``."""
    environments = [run.environment for run in comparison.runs if run.environment]
    environment = environments[0] if environments else {}
    return {
        "kind": "digest",
        "name": comparison.name,
        "variants": comparison.variants,
        "seeds": comparison.seeds,
        "steps": _steps(comparison),
        "machine": machine_of(environment),
        "commit": ", ".join(dict.fromkeys(one["commit"] for one in environments if one.get("commit"))) or None,
        "command": comparison.command,
        "note": comparison.note,
        "advice": comparison.conflict.get("advice"),
        "summary": asdict(summarise(comparison)),
        "costs": [asdict(one) for one in costs_of(comparison)],
        "alignment": comparison.alignment,
        "forgetting": plain(forgetting_of(comparison, sweeps_in(comparison.folder))),
    }


def _line(record: Row) -> Line:
    cells = {variant: None if cell is None else Cell(**cell) for variant, cell in record["cells"].items()}
    return Line(record["task"], record["chance"], cells)


def _summary(record: Row) -> Summary:
    return Summary(
        lines=[_line(line) for line in record["lines"]],
        mean=None if record["mean"] is None else _line(record["mean"]),
        contrasts=[Contrast(**{**one, "difference": Difference(**one["difference"])}) for one in record["contrasts"]],
        headline=record["headline"],
        details=record["details"],
        unfinished=record["unfinished"],
        num_errors=record["num_errors"],
    )


def digest_from(record: Row, where: Path) -> Digest:
    """The digest in a record; what is not one is named by its file."""
    try:
        return Digest(
            name=record["name"],
            variants=record["variants"],
            seeds=record["seeds"],
            steps=record["steps"],
            machine=record["machine"],
            commit=record["commit"],
            command=record["command"],
            note=record["note"],
            advice=record["advice"],
            summary=_summary(record["summary"]),
            costs=[Cost(**one) for one in record.get("costs") or []],
            alignment=record.get("alignment") or {},
            forgetting=forgetting_from(record.get("forgetting") or {}, where),
        )
    except (KeyError, TypeError, AttributeError) as error:
        why, fix = f"no digest: {type(error).__name__} {error}", "write it again with digest_of"
        raise CheckpointError("damaged record", where=where, why=why, fix=fix) from None


def stored_digest(folder: Path) -> Digest | None:
    """The digest that a folder holds."""
    path = folder / FILE
    return digest_from(read_record(path), path) if path.exists() else None


def read_digest(folder: Path) -> Digest | None:
    """The digest of a study: as stored, else made from its replies; None where the folder holds no study."""
    stored = stored_digest(folder)
    if stored is not None or not (folder / "comparison.json").exists():
        return stored
    return digest_from(digest_of(read_comparison(folder)), folder / "comparison.json")


def _short(commit: str) -> str:
    """Ten letters of it, and whether the tree had changes besides."""
    name, plus, rest = commit.partition("+")
    return f"{name[:10]}{plus}{rest}"


def beside(digest: Digest, look: Look) -> Markup:
    """Another study's scores and differences, labelled as what they are."""
    origin = Origin(name=digest.name, command=digest.command)
    seeds, variants = len(digest.seeds), len(digest.variants)
    facts = [f"{variants} variant{'' if variants == 1 else 's'}", f"{seeds} training seed{'' if seeds == 1 else 's'}"]
    facts += [f"{steps:,} steps of {stage}" for stage, steps in digest.steps.items()]
    facts += [digest.machine] if digest.machine else []
    facts += [f"commit {', '.join(_short(one) for one in digest.commit.split(', '))}"] if digest.commit else []
    label = tag("p", "Not this run: ", tag("b", digest.name), tag("br"), " \N{MIDDLE DOT} ".join(facts), class_="label")
    return join(
        [
            label,
            tag("p", f"Its finding: {digest.summary.headline}", class_="finding"),
            tag("p", digest.note) if digest.note else "",
            show(score_table(digest.summary, digest.variants, seeds, look), origin),
            difference_parts(digest.summary, look, origin, is_short=True),
        ]
    )
