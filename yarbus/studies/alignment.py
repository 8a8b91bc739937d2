"""Whether variants differ in what is compared and in nothing else: in their recipes, then in what their runs saw.

A comparison that trains one variant longer, on more data or from another start measures that, and not the method.
Recipes are looked at before any work, and refuse by name; the runs' own records are looked at before and after it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from yarbus.core.errors import CheckpointError, ConfigError, DataError, MismatchError
from yarbus.core.recipe import Recipe, load_recipe, variant
from yarbus.core.records import read_record
from yarbus.core.sections import TEXT_CACHE, DataSection
from yarbus.core.table import closest
from yarbus.report.aligned import ABSENT, values_text
from yarbus.studies.asked import asked_of, refuse_other_questions
from yarbus.studies.work import Work
from yarbus.training import checkpoint

Values = dict[str, Any]
"""Variant -> value of one setting; ``ABSENT`` where it has none."""
KEPT_ASIDE = {f"question.{key}" for key in TEXT_CACHE}
"""Settings that say where something is kept: a variant may keep it elsewhere."""
NEVER = "seed"
"""Every variant runs under every seed: this one cannot be what is compared."""
FACTS = {
    "data": "saw other samples",
    "base": "saw another base",
    "start": "saw another start",
    "questions": "was asked other questions",
    "length": "was cut at another length of replies",
    "prompt": "was shown its questions otherwise",
}
OTHERWISE_TRAINED = "restore what changed, remove the run that saw something else, and call again"
OTHERWISE_ASKED = "restore what changed, remove the evaluation folder of the run asked otherwise, and call again"
SHOWN_SETTINGS = 3
SHOWN = 16
"""Hex digits of a hash that a message shows."""


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """``(dotted path, value)`` of everything in a recipe; a number in the path reaches into a list."""
    inner: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, Mapping):
        inner = value.items()
    elif isinstance(value, list):
        inner = enumerate(value)
    entries = list(inner)
    if not entries:
        yield path, value
    for key, one in entries:
        yield from _leaves(one, f"{path}.{key}" if path else str(key))


def differing(recipes: Mapping[str, Recipe]) -> dict[str, Values]:
    """Dotted path -> value per variant, of every setting that is not the same in all of them."""
    leaves = {name: dict(_leaves(recipe.resolved())) for name, recipe in recipes.items()}
    paths = dict.fromkeys(path for some in leaves.values() for path in some if path not in KEPT_ASIDE)
    found = {path: {name: some.get(path, ABSENT) for name, some in leaves.items()} for path in paths}
    return {path: values for path, values in found.items() if any(v != _first(values) for v in values.values())}


def _first(values: Values) -> Any:
    return next(iter(values.values()))


def _is_below(path: str, prefix: str) -> bool:
    return path == prefix or path.startswith(f"{prefix}.")


def _is_method(path: str, values: Values, recipes: Mapping[str, Recipe]) -> bool:
    """The setting says what the last stage trains or how fast, or belongs to a projector with its own align stage."""
    last = {list(recipe.stages)[-1] for recipe in recipes.values()}
    if any(_is_below(path, f"stages.{stage}.{part}") for stage in last for part in ("train", "learning_rate")):
        return True
    for stage in {stage for recipe in recipes.values() for stage in recipe.stages}:
        if _is_below(path, f"stages.{stage}.train.projector"):
            return True
        if _is_below(path, f"stages.{stage}.learning_rate.projector"):
            return _is_one_per_projector(stage, values, recipes)
    return False


def _is_one_per_projector(stage: str, values: Values, recipes: Mapping[str, Recipe]) -> bool:
    """Variants with the same projector have the same value: they can begin from one align stage."""
    found: dict[str, Any] = {}
    for name, recipe in recipes.items():
        projector = repr(recipe.stages[stage].train.get("projector")) if stage in recipe.stages else ABSENT
        if found.setdefault(projector, values[name]) != values[name]:
            return False
    return True


def _refuse_unknown(prefixes: Sequence[str], recipes: Mapping[str, Recipe]) -> None:
    """A path that names nothing would allow nothing, and a reader would believe that it did."""
    known: dict[str, None] = {}
    for recipe in recipes.values():
        for path, _ in _leaves(recipe.resolved()):
            parts = path.split(".")
            known |= dict.fromkeys(".".join(parts[:length]) for length in range(1, len(parts) + 1))
    for prefix in prefixes:
        if _is_below(NEVER, prefix) or _is_below(prefix, NEVER):
            raise ConfigError(
                "variants cannot differ in seed", where="compare.differs", why="each runs under all of them",
                fix="remove it, and ask for more seeds",
            )  # fmt: skip
        if prefix not in known:
            raise ConfigError(
                f"unknown setting '{prefix}'",
                where="compare.differs",
                fix=f"use one of: {closest(prefix, list(known))}",
            )


def check_recipes(recipe: Recipe) -> dict[str, Any]:
    """What the variants of a recipe differ in, for the comparison's record; anything but what is compared raises.

    Returns:
        ``{"compared": {path: {variant: value}}, "differs": {path: {variant: value}}}``: methods with their rates, and
        what the recipe's ``compare.differs`` names besides.

    Raises:
        ConfigError: a setting differs that is neither; it is named with its value in each variant.
    """
    assert recipe.compare is not None
    recipes = {name: variant(recipe, name) for name in recipe.compare.variants}
    _refuse_unknown(recipe.compare.differs, recipes)
    named = recipe.compare.differs
    record: dict[str, dict[str, Values]] = {"compared": {}, "differs": {}}
    refused: dict[str, Values] = {}
    for path, values in differing(recipes).items():
        if any(_is_below(path, prefix) for prefix in named):
            record["differs"][path] = values
        elif _is_method(path, values, recipes):
            record["compared"][path] = values
        else:
            refused[path] = values
    if refused:
        shown = list(refused)[:SHOWN_SETTINGS]
        more = f" and {len(refused) - len(shown)} more" if len(refused) > len(shown) else ""
        fix = "set it alike, or name it in compare.differs to compare it"
        raise ConfigError(
            f"variants differ in {', '.join(shown)}{more}",
            why="; ".join(f"{path.rpartition('.')[2]} is {values_text(refused[path])}" for path in shown),
            fix="set the seed alike, and ask for more seeds" if NEVER in refused else fix,
        )
    return record


def seen_by(work: Work) -> dict[str, dict[str, str]]:
    """Stage -> what the run says it trained on (``data``, ``base``) and began from (``start``), as hashes.

    A stage whose checkpoints are gone, or damaged, says nothing: training decides whether it needs them.
    """
    found: dict[str, dict[str, str]] = {}
    for stage in work.stages:
        facts = _facts(work.run / "stages" / stage / "checkpoints")
        if facts is not None:
            found[stage] = {key: str(value) for key, value in facts.items() if key in ("data", "base")}
            start = read_record(work.run / "environment.json").get("start")
            if stage == work.stages[0] and isinstance(start, str):
                found[stage]["start"] = start
    return found


def _facts(root: Path) -> dict[str, Any] | None:
    for folder in reversed(checkpoint.folders(root)):
        try:
            return checkpoint.read_manifest(folder).facts
        except CheckpointError:
            continue
    return None


def _rows_of(work: Work, stage: str) -> list[DataSection]:
    return load_recipe(work.recipe).stages[stage].used_data


def _should_share(work: Work, stage: str, fact: str) -> str:
    """Runs with the same text here must have the same fact."""
    if fact == "data":
        return f"{stage} {_rows_of(work, stage)}"
    return work.base if fact == "base" else f"{work.start}"


def check_runs(works: Iterable[Work]) -> dict[str, Any]:
    """What the runs on the disk saw, for the comparison's record.

    Returns:
        ``{"checked": [{"stage", "benchmark", "fact", "value", "runs"}], "unknown": [...]}``: each fact of training or
        of evaluation with the runs that share it, and the runs that kept no checkpoint to tell.

    Raises:
        MismatchError: two runs that should have seen the same data, base or start, or been asked the same questions in
            the same way, were not; it names both.
    """
    groups: dict[tuple[str, str], dict[str, Any]] = {}
    unknown = []

    def note(work: Work, fact: str, share: str, value: str, stage: str | None, benchmark: str | None) -> None:
        first = {"stage": stage, "benchmark": benchmark, "fact": fact, "value": value, "runs": [work.label]}
        group = groups.setdefault((fact, share), first)
        if group["value"] != value:
            where = "" if fact == "base" else f"stage {stage}: " if stage else f"{benchmark}: " if benchmark else ""
            raise MismatchError(
                f"'{work.label}' {FACTS[fact]} than '{group['runs'][0]}'",
                where=work.run,
                why=f"{where}{value[:SHOWN]} against {group['value'][:SHOWN]}",
                fix=OTHERWISE_ASKED if stage is None and fact != "base" else OTHERWISE_TRAINED,
            )
        group["runs"] += [work.label] if work.label not in group["runs"] else []

    for work in works:
        seen = seen_by(work)
        unknown += [work.label] if set(seen) != set(work.stages) else []
        for stage, facts in seen.items():
            for fact, value in facts.items():
                note(work, fact, _should_share(work, stage, fact), value, None if fact == "base" else stage, None)
        for one in asked_of(work):
            note(work, one.fact, one.share, one.value, None, one.benchmark)
    return {"checked": list(groups.values()), "unknown": unknown}


def refuse_other_data(works: Sequence[Work]) -> None:
    """Raises before any work where a data file is not what finished runs were trained on, or a benchmark not theirs.

    Raises:
        DataError: it names the first run that saw other samples, or was asked other questions.
    """
    from yarbus.data.mixture import read_mixture
    from yarbus.training.facts import samples_hash

    waiting = [work for work in works if not work.is_trained()]
    for group in check_runs(works)["checked"]:
        if group["fact"] != "data":
            continue
        stage, first = group["stage"], group["runs"][0]
        sharing = next(work for work in works if work.label == first)
        share = _should_share(sharing, stage, "data")
        if any(stage in work.stages and _should_share(work, stage, "data") == share for work in waiting):
            now = samples_hash(read_mixture(_rows_of(sharing, stage)))
            if now != group["value"]:
                raise DataError(
                    f"the data changed since '{first}' was trained",
                    where=sharing.run,
                    why=f"stage {stage}: {group['value'][:SHOWN]} then, {now[:SHOWN]} now",
                    fix="restore it, or name another folder",
                )
    refuse_other_questions(works)
