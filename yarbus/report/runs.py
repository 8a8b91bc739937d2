"""The records of a run or a comparison, read from its folder.

A folder that is still being filled reads as far as it goes: what is not there yet is an empty list.
"""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from yarbus.core.errors import CheckpointError, ConfigError
from yarbus.core.plugins import resolve
from yarbus.core.records import read_json, read_jsonl, read_record
from yarbus.report.estimates import number
from yarbus.report.look import SHARED, SHARED_BY_REST

Row = dict[str, Any]


SHARING = "sharing.json"
"""Record of a run: how many runs shared the machine while it trained, and with how many threads each."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One benchmark on one checkpoint: scores.json and the replies behind it."""

    benchmark: str
    protocol: str
    checkpoint: str
    scores: Row
    replies: list[Row]

    @property
    def label(self) -> str:
        """The benchmark's name, with its protocol where that is not the official one."""
        return self.benchmark if self.protocol == "official" else f"{self.benchmark}@{self.protocol}"


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training run. ``curves`` holds the lines of metrics.jsonl by stage, in order of the stages' age."""

    folder: Path
    variant: str
    seed: int
    recipe: Row = field(default_factory=dict)
    environment: Row = field(default_factory=dict)
    plan: Any = None
    curves: dict[str, list[Row]] = field(default_factory=dict)
    evaluations: list[Evaluation] = field(default_factory=list)
    analysis: dict[str, Row] = field(default_factory=dict)
    """Records of ``analysis/`` by name: what was asked of the trained model."""
    routing: dict[str, list[Row]] = field(default_factory=dict)
    """Lines of routing.jsonl by stage: routing while training."""
    jobs: list[int] = field(default_factory=list)
    """How many runs shared the machine while this one trained: more than one number where it was interrupted."""
    threads: list[int] = field(default_factory=list)
    """How many threads it had; empty where nothing was recorded."""

    @property
    def final_evaluations(self) -> list[Evaluation]:
        """Those of the finished model; without any, those of the last checkpoint."""
        names = sorted({evaluation.checkpoint for evaluation in self.evaluations})
        chosen = "final" if "final" in names else names[-1] if names else None
        return [evaluation for evaluation in self.evaluations if evaluation.checkpoint == chosen]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Runs of several variants under several seeds; a single run is a comparison of one variant."""

    name: str
    folder: Path
    variants: list[str]
    seeds: list[int]
    runs: list[Run]
    shared: list[Run] = field(default_factory=list)
    """Stages that variants start from (``align-<hash>``), under the name of who does: all, the others, a variant."""
    tasks: list[str] = field(default_factory=list)
    """Benchmarks in the order in which they are shown."""
    recipe: Any = None
    command: str = ""
    note: str | None = None
    conflict: Row = field(default_factory=dict)
    """conflict.json of the folder; empty if there is none."""
    beside: str | None = None
    """Folder of another study, to be shown for comparison."""
    alignment: Row = field(default_factory=dict)
    """What the variants differ in, and what of the rest was checked."""

    def runs_of(self, variant: str) -> list[Run]:
        """The runs of one variant, by seed."""
        return sorted((run for run in self.runs if run.variant == variant), key=lambda run: run.seed)


def _read(path: Path) -> Row:
    """A record, empty if there is none."""
    return read_record(path) if path.exists() else {}


def _evaluations(folder: Path) -> list[Evaluation]:
    found = []
    for scores in sorted((folder / "evaluation").glob("*/**/*@*/scores.json")):
        place = scores.parent
        record = _read(scores)
        replies = place / "replies.jsonl"
        found.append(
            Evaluation(
                benchmark=record.get("benchmark", place.name.rpartition("@")[0]),
                protocol=record.get("protocol", place.name.rpartition("@")[2]),
                checkpoint=place.relative_to(folder / "evaluation").parts[0],
                scores=record,
                replies=read_jsonl(replies) if replies.exists() else [],
            )
        )
    return found


def _recipe(folder: Path) -> Row:
    """The run's resolved recipe; empty if there is none."""
    path = folder / "recipe.yaml"
    if not path.exists():
        return {}
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        why = " ".join(str(error).split())
        raise CheckpointError("damaged record", where=path, why=why, fix="restore it") from error
    if not isinstance(found, dict):
        raise CheckpointError("damaged record", where=path, why="no mapping", fix="restore it")
    return found


def _by_stage(folder: Path, recipe: Row, file: str) -> dict[str, list[Row]]:
    """The lines of one file of every stage that has it, in the order of the run's recipe, then by name."""
    present = sorted(path.parent.name for path in (folder / "stages").glob(f"*/{file}"))
    named = [name for name in recipe.get("stages", {}) if name in present]
    order = named + [name for name in present if name not in named]
    return {name: read_jsonl(folder / "stages" / name / file) for name in order}


def read_run(folder: Path, variant: str | None = None, seed: int | None = None) -> Run:
    """The run in a folder. Without a name for its variant, ``<variant>-seed<k>`` is read off the folder's name."""
    named = re.fullmatch(r"(.+)-seed(\d+)", folder.name)
    if variant is None:
        variant = named.group(1) if named else folder.resolve().name
    if seed is None:
        seed = int(named.group(2)) if named else 0
    recipe, environment, sharing = _recipe(folder), _read(folder / "environment.json"), _read(folder / SHARING)
    threads = number((environment.get("machine") or {}).get("threads"))
    return Run(
        folder=folder,
        recipe=recipe,
        variant=variant,
        seed=seed,
        environment=environment,
        plan=read_json(folder / "plan.json") if (folder / "plan.json").exists() else None,
        curves=_by_stage(folder, recipe, "metrics.jsonl"),
        evaluations=_evaluations(folder),
        analysis={path.stem: read_record(path) for path in sorted((folder / "analysis").glob("*.json"))},
        routing=_by_stage(folder, recipe, "routing.jsonl"),
        jobs=[int(one) for one in sharing.get("jobs") or []],
        threads=[int(one) for one in sharing.get("threads") or ([threads] if threads else [])],
    )


def _together(runs: list[Run], name: str, folder: Path, **more: Any) -> Comparison:
    variants = list(dict.fromkeys(run.variant for run in runs))
    seeds = sorted({run.seed for run in runs})
    return Comparison(name=name, folder=folder, variants=variants, seeds=seeds, runs=runs, **more)


def _with_jobs(run: Run, jobs: int | None) -> Run:
    """``jobs``: what comparisons said before runs had a record of their own for it."""
    return run if run.jobs or not jobs else replace(run, jobs=[jobs])


def read_comparison(folder: Path | list[Path]) -> Comparison:
    """A comparison folder, one run's folder, or several runs' folders side by side."""
    if isinstance(folder, list) and len(folder) == 1:
        folder = folder[0]
    if isinstance(folder, list):
        runs = [run for one in folder for run in read_comparison(one).runs]
        names = Counter((run.variant, run.seed) for run in runs)
        runs = [replace(r, variant=str(r.folder)) if names[r.variant, r.seed] > 1 else r for r in runs]
        return _together(runs, "runs side by side", folder[0].parent)
    if not folder.is_dir():
        raise ConfigError("no such run", where=folder, fix="give the folder of a run or of a comparison")
    if not (folder / "comparison.json").exists():
        if not any((folder / part).exists() for part in ("recipe.yaml", "stages", "evaluation")):
            raise ConfigError(
                "neither a run nor a comparison", where=folder, why="no recipe.yaml, stages or evaluation in it",
                fix="give the folder of a run or of a comparison",
            )  # fmt: skip
        run = read_run(folder)
        return _together(
            [run],
            folder.resolve().name,
            folder,
            tasks=list(run.recipe.get("evaluation") or []),
            recipe=run.recipe,
            command=run.environment.get("command", ""),
        )
    record = _read(folder / "comparison.json")
    if missing := [key for key in ("variants", "seeds", "runs") if key not in record]:
        raise CheckpointError(
            "damaged record",
            where=folder / "comparison.json",
            why=f"no '{missing[0]}' in it",
            fix="run the comparison again; finished runs are kept",
        )
    places = {folder / entry.get("folder", name): entry for name, entry in record["runs"].items()}
    runs = [
        _with_jobs(read_run(place, entry["variant"], int(entry["seed"])), entry.get("jobs"))
        for place, entry in places.items()
        if place.is_dir()
    ]
    return Comparison(
        name=folder.resolve().name,
        folder=folder,
        variants=list(record["variants"]),
        seeds=list(record["seeds"]),
        runs=runs,
        shared=_shared(folder, record["runs"].values()),
        tasks=list(record.get("tasks") or []),
        recipe=record.get("recipe"),
        command=record.get("command", ""),
        note=record.get("note"),
        conflict=_read(folder / "conflict.json"),
        beside=record.get("beside"),
        alignment=record.get("alignment") or {},
    )


def _shared(folder: Path, entries: Iterable[Row]) -> list[Run]:
    """The runs that variants start from; where there are several, only the one of most variants is called shared."""
    starters: dict[str, list[str]] = {}
    for entry in entries:
        if entry.get("start"):
            starters.setdefault(entry["start"], []).append(entry["variant"])
    if not starters:  # an old record does not say it
        return [read_run(path, SHARED) for path in sorted(folder.glob("align-*")) if path.is_dir()]
    common = max(starters, key=lambda start: len(starters[start]))
    found = []
    for start, variants in starters.items():
        by_rest = SHARED if len(starters) == 1 else SHARED_BY_REST
        for name in [by_rest] if start == common else dict.fromkeys(variants):
            if (folder / start).is_dir():
                found.append(read_run(folder / start, name))
    return found


def find_folder(name: str, beside: Path) -> Path | None:
    """A folder that a record names: a plug-in's, as written, or below the record's own; None if it is not there."""
    try:
        found = Path(resolve(name))
    except ConfigError:  # a plug-in that is not installed here
        return None
    return next((place for place in (found, beside / name) if place.is_dir()), None)


@dataclass(frozen=True, kw_only=True)
class Conflict:
    """A folder of ``yarbus conflict``: its record and, where one was given, the trained run."""

    name: str
    folder: Path
    record: Row
    run: Run | None = None


def is_conflict(folder: Path) -> bool:
    """The folder holds a diagnosis of its own and no comparison."""
    return (folder / "conflict.json").exists() and not (folder / "comparison.json").exists()


def read_conflict(folder: Path) -> Conflict:
    """The diagnosis in a folder, with the run that it names if that is still there."""
    record = read_record(folder / "conflict.json")
    place = find_folder(str(record["run"]), folder) if record.get("run") else None
    return Conflict(
        name=str(record.get("name") or folder.resolve().name),
        folder=folder,
        record=record,
        run=None if place is None else read_run(place),
    )
