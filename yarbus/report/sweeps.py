"""The curve between two models, read from the folder of a sweep: one run for each blend.

A sweep called ``NAME-seed<k>`` is one seed's part of the curve ``NAME``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from yarbus.core.errors import CheckpointError
from yarbus.core.records import read_record
from yarbus.report.estimates import number
from yarbus.report.runs import Comparison, Row, Run, read_comparison, read_run

RECORD = "sweep.json"


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """The blends of one pair of models that have been asked."""

    name: str
    seed: int
    folder: Path
    record: Row
    runs: dict[float, Run]
    """By alpha, in order. Each stands under the name ``blend_name`` gives it."""

    @property
    def models(self) -> tuple[str, str]:
        """What alpha 0 and alpha 1 are, as they were named."""
        a, b = (str((self.record.get(side) or {}).get("name", "")) for side in ("a", "b"))
        return a, b

    @property
    def begins_with_base(self) -> bool:
        """Alpha 0 is a model as a whole, and no adapter: what a base is."""
        return (self.record.get("a") or {}).get("kind") == "model"


def blend_name(curve: str, alpha: float) -> str:
    """``wise-ft at 0.5``."""
    return f"{curve} at {alpha:g}"


def is_sweep(folder: Path) -> bool:
    """The folder holds a sweep's record."""
    return (folder / RECORD).is_file()


def read_sweep(folder: Path) -> Sweep:
    """The sweep in a folder, as far as it goes."""
    record = read_record(folder / RECORD)
    lone = read_run(folder)  # the name and the seed that the folder's name says
    runs = {}
    points = record.get("points")
    for point in points if isinstance(points, list) else []:
        alpha = number(point.get("alpha")) if isinstance(point, dict) else None
        if alpha is None or not isinstance(point.get("folder"), str):
            fix = "remove it, and run the sweep again; what has been answered is kept"
            raise CheckpointError(
                "damaged record", where=folder / RECORD, why="a point without alpha or folder", fix=fix
            )
        runs[alpha] = read_run(folder / point["folder"], blend_name(lone.variant, alpha), lone.seed)
    return Sweep(name=lone.variant, seed=lone.seed, folder=folder, record=record, runs=dict(sorted(runs.items())))


def sweeps_in(folder: Path) -> list[Sweep]:
    """The sweeps that lie in the folder of a comparison."""
    return [read_sweep(path.parent) for path in sorted(folder.glob(f"*/{RECORD}"))]


def comparison_of(sweeps: Sequence[Sweep]) -> Comparison:
    """Sweeps alone, each blend as a variant."""
    runs = [run for sweep in sweeps for run in sweep.runs.values()]
    first = sweeps[0]
    return Comparison(
        name=first.folder.resolve().name,
        folder=first.folder,
        variants=list(dict.fromkeys(run.variant for run in runs)),
        seeds=sorted({run.seed for run in runs}),
        runs=runs,
        command=str(first.record.get("command") or ""),
    )


def read_all(folder: Path | Sequence[Path]) -> tuple[Comparison, list[Sweep]]:
    """What ``read_comparison`` reads, and the sweeps that are named beside it or lie in its folder."""
    folders = [folder] if isinstance(folder, Path) else list(folder)
    sweeps = [read_sweep(one) for one in folders if is_sweep(one)]
    others = [one for one in folders if not is_sweep(one)]
    if not others:
        return comparison_of(sweeps), sweeps
    comparison = read_comparison(others)
    inside = {one.folder for one in sweeps}
    return comparison, [*sweeps, *(one for one in sweeps_in(comparison.folder) if one.folder not in inside)]
