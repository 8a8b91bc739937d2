"""What the studies share: variants laid on a recipe, and a finished part kept as records and a page."""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from yarbus.core.recipe import Recipe, load_recipe
from yarbus.core.records import make_folder, read_record, write_json, write_text
from yarbus.report.cells import MEAN
from yarbus.report.digest import digest_of
from yarbus.report.html import page
from yarbus.report.summary import contrasts_between
from yarbus.report.sweeps import read_all

SEEDS = 3
WHOLE = (2.5e-4, 5e-4, 1e-3, 2e-3)
"""Rates that a method tries for whole tensors."""

Changes = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One variant of a study: what it changes, and which rates it tries."""

    changes: Changes
    tries: tuple[float, ...] = WHOLE
    like: str | None = None
    """The variant whose chosen rates it takes over, where it chooses none of its own."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One comparison of a study."""

    name: str
    asks: str
    variants: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...] = ()
    """Reference and variant of differences besides those to frozen and full."""
    scopes: Mapping[str, Collection[str]] = field(default_factory=dict)
    """Name -> benchmarks on whose mean the pairs are compared as well, besides the mean of all tasks."""
    policy: str = "tuned"
    seeds: int = SEEDS
    differs: tuple[str, ...] = ()
    """What differs besides the method."""
    tasks: tuple[str, ...] = ()
    """Kinds of tasks that share one volume evenly; empty is the study's own mixture."""
    base: str | None = None
    """Another base than the shipped one."""

    @property
    def has_own_runs(self) -> bool:
        """Whether none of its runs can be another part's."""
        return bool(self.tasks or self.base)


def with_variants(recipe: Recipe, variants: Mapping[str, Changes], differs: tuple[str, ...] = ()) -> Recipe:
    """The study's recipe comparing these variants."""
    values = recipe.resolved()
    compare = {"variants": {name: dict(changes) for name, changes in variants.items()}, "differs": list(differs)}
    return load_recipe({**values, "compare": compare})


def keep(part: Part, folder: Path, place: Path) -> None:
    """Puts what there is of a part into its place: its numbers, the differences it asks for, its page.

    The study is called like the folder that the place lies in.
    """
    comparison, sweeps = read_all(folder)
    comparison = replace(comparison, name=f"{place.parent.name}: {part.asks}")
    answered = {(run.variant, run.seed) for run in comparison.runs if run.evaluations}
    first = comparison.seeds[0]
    planned = [(seed, name) for seed in range(first, first + part.seeds) for name in part.variants]
    scopes = {MEAN: None, **part.scopes}
    found = [one for name, some in scopes.items() for one in contrasts_between(comparison, part.pairs, some, name)]
    record = {
        **digest_of(comparison),
        "asks": part.asks,
        "policy": part.policy,
        "contrasts": [asdict(one) for one in found],
        "not_run": [f"{name}, seed {seed}" for seed, name in planned if (name, seed) not in answered],
    }
    make_folder(place)
    write_json(place / "digest.json", record)
    write_json(place / "comparison.json", read_record(folder / "comparison.json"))
    write_text(place / "index.html", page(comparison, sweeps))
