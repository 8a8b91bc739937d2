"""The curve between two finished models: every blend of them asked the same benchmarks, without training.

    FOLDER/
      sweep.json             what was blended, and the scores of every finished alpha
      alpha-0.3/evaluation/  the replies and scores of that blend, as below a run
      report/index.html

A blend is written, asked and removed before the next one: the disk holds one at a time.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from yarbus.core.errors import ConfigError, DataError, MismatchError
from yarbus.core.lock import locked
from yarbus.core.recipe import load_recipe
from yarbus.core.records import read_record, write_json
from yarbus.evaluation.folder import benchmark_folder
from yarbus.evaluation.identity import questions_hash
from yarbus.evaluation.runner import evaluate, load_benchmark
from yarbus.methods.assemble import load, load_adapter
from yarbus.methods.wise_ft import blending
from yarbus.models.interpolate import Pair, check_alpha
from yarbus.models.load import load_base
from yarbus.report.html import write_report
from yarbus.report.sweeps import RECORD
from yarbus.studies.measuring import on_device
from yarbus.training.folder import say

TENTHS = tuple(tenth / 10 for tenth in range(11))
DECIMALS = 4
"""Alphas are told apart by so many."""


def _checked(alphas: Sequence[int | float]) -> list[float]:
    for alpha in alphas:
        check_alpha(alpha)
    found = sorted({round(float(alpha), DECIMALS) for alpha in alphas})
    if not found:
        raise ConfigError("no alpha to ask", fix="name some from 0 to 1")
    return found


def _named(a: str | Path, b: str | Path, benchmarks: Sequence[str] | None) -> list[str]:
    """The benchmarks to ask: those named, or those of the recipe of the second run, else of the first."""
    if benchmarks:
        return list(dict.fromkeys(benchmarks))
    recipes = (Path(one) / "recipe.yaml" for one in (b, a))
    found = next((load_recipe(path).evaluation for path in recipes if path.is_file()), [])
    if not found:
        fix = "name some (yarbus list benchmarks)"
        raise ConfigError("no benchmarks named", why="neither of the two is a run whose recipe names any", fix=fix)
    return list(found)


def place_of(folder: Path, alpha: float) -> Path:
    """Where the replies of one blend stand."""
    return folder / f"alpha-{alpha:g}"


def _identity(pair: Pair, protocol: str) -> dict[str, Any]:
    """What may not change when a sweep goes on."""
    made_from = pair.made_from
    hashes = {side: made_from[side]["sha256"] for side in ("a", "b")}
    return {**hashes, "folded": made_from["folded"], "protocol": protocol}


def _open(folder: Path, pair: Pair, protocol: str, command: str) -> dict[str, Any]:
    """The record as it stands, or a new one; that of another pair is refused."""
    path = folder / RECORD
    new = {"kind": "sweep", "command": command, **pair.made_from, "identity": _identity(pair, protocol), "points": []}
    if not path.is_file():
        return new
    found = read_record(path)
    for key, value in new["identity"].items():
        before = (found.get("identity") or {}).get(key)
        if before != value:
            what = {"a": "the first model", "b": "the second model"}.get(key, f"'{key}'")
            why, fix = f"{before} then, {value} now", "restore it, or name another folder"
            raise MismatchError(f"{what} changed since the sweep began", where=path, why=why, fix=fix)
    return {**found, **{key: new[key] for key in ("command", "a", "b")}}


def _scores(place: Path, benchmarks: Sequence[str], protocol: str) -> dict[str, dict[str, Any]] | None:
    """The scores of a blend, by benchmark; None where a reply is yet to come."""
    found = {}
    for name in benchmarks:
        path = benchmark_folder(place, name, protocol) / "scores.json"
        scores = read_record(path) if path.is_file() else {}
        if not scores or scores["num_replies"] != scores["num_samples"] or scores["num_errors"]:
            return None
        found[name] = scores
    return found


def _refuse_other_questions(folder: Path, benchmarks: Sequence[str], protocol: str) -> None:
    """Raises where a blend that stays as it is answered other questions than the next would be asked."""
    places = [path for path in sorted(folder.glob("alpha-*")) if path.is_dir()]
    for name in benchmarks:
        asked = [found[name]["data"] for place in places if (found := _scores(place, [name], protocol))]
        now = questions_hash(load_benchmark(name).samples()) if asked else None
        if other := next((one for one in asked if one != now), None):
            why, fix = f"{other} then, {now} now", "restore it, or name another folder"
            raise DataError("the benchmark changed since the sweep began", where=name, why=why, fix=fix)


def _ask(pair: Pair, alpha: float, folder: Path, benchmarks: list[str], protocol: str, batch: int, shown: bool) -> None:
    """Writes one blend, asks it and removes it."""
    blend = folder / ".blend"
    try:
        pair.write(alpha, blend)
        model, processor = load(blend) if pair.base is None else load_adapter(*load_base(pair.base), blend)
        evaluate(
            on_device(model), processor, benchmarks, place_of(folder, alpha), protocol=protocol, batch=batch,
            progress=shown,
        )  # fmt: skip
    finally:
        shutil.rmtree(blend, ignore_errors=True)


def sweep(
    a: str | Path,
    b: str | Path,
    benchmarks: Sequence[str] | None = None,
    *,
    alphas: Sequence[int | float] = TENTHS,
    folder: str | Path,
    protocol: str = "official",
    batch: int = 32,
    progress: bool = True,
    command: str | None = None,
) -> Path:
    """Asks the blends of two models, as ``yarbus.interpolate`` makes them, and returns the folder of record and report.

    A call goes on where an earlier one stopped: a blend that has answered is not made again, and more alphas or
    benchmarks may be named. In a folder of a comparison, or beside one on a page, it is the curve of the forgetting
    panel; folders called ``NAME-seed<k>`` are one curve over several seeds.

    Args:
        a: what alpha 0 is; with ``b`` as ``yarbus.interpolate`` takes them.
        benchmarks: names or ``file:PATH``; None is what the recipe of ``b`` names, else that of ``a``.
        alphas: from 0 to 1.
        folder: where record and replies go. An existing sweep of the same two models is continued.
        command: what the report names as its origin.

    Raises:
        ConfigError: an alpha outside of [0, 1], an unknown benchmark, or a folder that holds something else.
        MismatchError: the two cannot be blended, or are not those that the folder's sweep began with.
        DataError: a benchmark is not what earlier blends were asked.
        LockedError: another call is at this sweep.
    """
    chosen, names, folder = _checked(alphas), _named(a, b, benchmarks), Path(folder)
    if folder.exists() and not (folder.is_dir() and ((folder / RECORD).is_file() or not any(folder.glob("[!.]*")))):
        raise ConfigError("there is something already that is no sweep", where=folder, fix="name another folder")
    for name in names:  # a wrong name is told before a model is read
        load_benchmark(name).protocol(protocol)
    with locked(folder), blending(a, b, _swept(folder)) as pair:
        made_of = f"yarbus.studies.sweep.sweep({str(a)!r}, {str(b)!r})"
        record = _open(folder, pair, protocol, command or made_of)
        _refuse_other_questions(folder, names, protocol)
        write_json(folder / RECORD, record)  # whose replies they are, before there are any
        for number, alpha in enumerate(chosen, 1):
            if _scores(place_of(folder, alpha), names, protocol) is None:
                if progress:
                    say(f"alpha {alpha:g} ({number} of {len(chosen)})")
                _ask(pair, alpha, folder, names, protocol, batch, progress)
            _keep(record, folder, alpha, names, protocol)
    write_report(folder)
    return folder


def _swept(folder: Path) -> Path:
    """The folder without what a killed call left there."""
    for path in folder.glob(".blend*"):
        shutil.rmtree(path, ignore_errors=True)
    return folder


def _keep(record: dict[str, Any], folder: Path, alpha: float, names: Sequence[str], protocol: str) -> None:
    """Puts the scores of a finished blend into the record; those of benchmarks asked before stay."""
    points = {point["alpha"]: point for point in record["points"]}
    scores = dict(points.get(alpha, {}).get("scores", {}))
    for name in names:
        scores[name] = read_record(benchmark_folder(place_of(folder, alpha), name, protocol) / "scores.json")["metrics"]
    points[alpha] = {"alpha": alpha, "folder": place_of(folder, alpha).name, "scores": scores}
    record["points"] = [points[key] for key in sorted(points)]
    write_json(folder / RECORD, record)
