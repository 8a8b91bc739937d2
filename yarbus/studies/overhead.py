"""What each way of tuning costs: a training step, an answer and the memory of both, of several variants in one run.

Each turn of a variant is a process of its own (``studies.turn``): on a CPU the peak of a process is the only one that
the system knows, an accelerator of 7B models holds one variant at a time, and a variant that runs out of memory takes
no other with it. It costs some seconds of imports a turn, which no figure holds. Variants take turns several times, in
alternating order (``analysis.overhead``).
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yarbus.core.errors import ConfigError
from yarbus.core.progress import progress_of
from yarbus.core.recipe import Recipe, load_recipe, variant
from yarbus.core.records import make_folder, write_json
from yarbus.report.contrasts import references_of
from yarbus.studies.variants import choose
from yarbus.studies.work import quieten
from yarbus.studies.workers import in_own_process

if TYPE_CHECKING:  # torch takes seconds, and a wrong name should be told at once
    from yarbus.analysis.overhead import Protocol
    from yarbus.training.footprint import Asked
    from yarbus.training.planning import StagePlan
else:
    Asked = Protocol = StagePlan = Any

RECORD = "overhead.json"
KILLED = "its process was killed, most often for want of memory"
LEAST = {"rounds": 1, "warmup": 1, "steps": 1, "answers": 1, "new_tokens": 2}


def usual_variants(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """What is measured where nobody says: the recipe's own variants, else a frozen tower, a full one, and its own."""
    if recipe.compare is not None:
        return dict(recipe.compare.variants)
    last = list(recipe.stages)[-1]
    own = recipe.stages[last].train.get("vision", {"method": "frozen"})["method"]
    path = f"stages.{last}.train.vision"
    found: dict[str, dict[str, Any]] = {name: {path: name} for name in ("frozen", "full")}
    return {**found, own: {}}


def _protocol(given: Mapping[str, Any]) -> Protocol:
    from torch import accelerator

    from yarbus.analysis.overhead import Protocol
    from yarbus.analysis.timing import CLOCKS

    for name, least in LEAST.items():
        if given[name] < least:
            raise ConfigError(f"{name} is {given[name]}", fix=f"use at least {least}")
    clock = given["clock"]
    if clock not in CLOCKS:
        raise ConfigError(f"unknown clock '{clock}'", fix=f"use one of: {', '.join(CLOCKS)}")
    if clock != "wall" and accelerator.is_available():
        raise ConfigError(f"clock '{clock}' on an accelerator", why="it knows nothing of it", fix="use wall")
    return Protocol(**given)


def _asked(random_weights: bool, sizes: Mapping[str, int | None]) -> Asked | None:
    from yarbus.training.footprint import Asked

    given = {name: value for name, value in sizes.items() if value is not None}
    if random_weights:
        return Asked(**given)
    if given:
        what = f"{next(iter(given))} without random weights"
        raise ConfigError(what, why="the recipe's own rows are measured", fix="add --random-weights, or leave it out")
    return None


def _last_plans(recipes: Mapping[str, Recipe], asked: Asked | None) -> dict[str, StagePlan]:
    """Variant -> the plan of its last stage; raises for what would stop its turn."""
    from yarbus.training.planning import check_inputs, plan_recipe

    found = {}
    for name, recipe in recipes.items():
        last = list(recipe.stages)[-1]
        if asked is None:
            check_inputs(recipe.model_copy(update={"evaluation": []}), [last])
        found[name] = plan_recipe(recipe, asked)[-1]
    return found


def _about(recipe: Recipe, plan: StagePlan) -> dict[str, Any]:
    """What a variant is, from its recipe and plan."""
    stage = recipe.stages[plan.stage]
    footprint = plan.footprint
    return {
        "train": stage.train,
        "trained": plan.plan.total("trained"),
        "batch": stage.batch,
        "micro_batch": stage.micro_batch,
        "precision": stage.precision,
        "gradient_checkpointing": stage.gradient_checkpointing,
        "planned_training_bytes": None if footprint is None else footprint.peak,
    }


def _taken(turn: Any) -> dict[str, Any]:
    from yarbus.studies.turn import measure

    try:
        return in_own_process(measure, turn, turn.threads)
    except BrokenProcessPool:
        return {"failed": {"turn": KILLED}, "bytes": {}}


def _rounds(
    recipes: Mapping[str, Recipe], protocol: Protocol, asked: Asked | None, threads: int, progress: bool
) -> Iterator[tuple[list[str], dict[str, dict[int, Any]]]]:
    """After each round: the order in which it went, and variant -> round -> what its turns have found so far."""
    from yarbus.analysis.overhead import orders
    from yarbus.studies.turn import Turn

    turns: dict[str, dict[int, Any]] = {name: {} for name in recipes}
    with progress_of("overhead", protocol.rounds * len(recipes), progress) as advance:
        for number, order in enumerate(orders(list(recipes), protocol.rounds)):
            for name in order:
                if not any(turn["failed"] for turn in turns[name].values()):  # it would fail again
                    turn = Turn(recipe=recipes[name].resolved(), protocol=protocol, made_up=asked, threads=threads)
                    turns[name][number] = _taken(turn)
                advance(1)
            yield order, turns


def overhead(
    recipe: Recipe | str | Path | Mapping[str, Any],
    variants: Sequence[str] | Mapping[str, Mapping[str, Any]] | None = None,
    *,
    rounds: int = 3,
    warmup: int = 2,
    steps: int = 5,
    answers: int = 5,
    new_tokens: int = 16,
    clock: str = "wall",
    random_weights: bool = False,
    tokens: int | None = None,
    answer_tokens: int | None = None,
    images: int | None = None,
    side: int | None = None,
    threads: int = 1,
    folder: str | Path | None = None,
    references: Sequence[str] | None = None,
    progress: bool = True,
    command: str | None = None,
    note: str | None = None,
) -> Path:
    """Measures what variants of a recipe's last stage cost: seconds of a training step and of an answer, and memory.

    Variants take turns in one run, each turn in a process of its own, every other round in the opposite order. A
    variant that runs out of memory is recorded so, and the others go on.

    Args:
        recipe: a recipe, or what ``load_recipe`` takes.
        variants: names of the recipe's ``compare.variants``, or name -> {dotted path: value}; None is all of its own,
            and where it has none a frozen tower, a fully tuned one and what the recipe says.
        rounds: turns of each variant.
        warmup: steps, and answers, at the beginning of a turn that do not count.
        steps: optimizer steps of a turn that count. ``answers``: answers that count, to one question at a time.
        new_tokens: length of each answer.
        clock: ``wall``, or ``processor``: what the process itself used of the cores, steadier beside other work.
        random_weights: draw weights from the recipe's ``model.config`` (or the base's own) and make rows up: nothing is
            downloaded and no data read. ``tokens``, ``answer_tokens``, ``images`` and ``side`` then say what rows are
            like, as for ``yarbus plan``; otherwise they are the recipe's own.
        threads: of torch.
        folder: None is ``overheads/<recipe's name>``. A record that is there is replaced.
        references: variants that ratios are to; None is ``frozen`` and ``full`` where they take part, else the first.
        command: what the record names as its origin. ``note``: a sentence for it.

    Returns:
        The folder, with ``overhead.json``.

    Raises:
        ConfigError: a setting is impossible, or a variant cannot be trained as the recipe says.
        DataError: no row of the last stage has a picture.
    """
    if not isinstance(recipe, Recipe):
        recipe = load_recipe(recipe)
    given: dict[str, Any] = {
        "rounds": rounds, "warmup": warmup, "steps": steps, "answers": answers, "new_tokens": new_tokens,
        "clock": clock,
    }  # fmt: skip
    folder = Path(folder) if folder is not None else Path("overheads") / (recipe.name or "overhead")
    if folder.exists() and not folder.is_dir():
        raise ConfigError("the folder is a file", where=folder, fix="name another folder")
    recipe = choose(recipe, usual_variants(recipe) if variants is None else variants)
    assert recipe.compare is not None
    recipes = {name: variant(recipe, name) for name in recipe.compare.variants}

    references = references_of(list(recipes)) if references is None else list(references)
    if unknown := [name for name in references if name not in recipes]:
        raise ConfigError(f"no variant '{unknown[0]}' to refer to", fix=f"use some of: {', '.join(recipes)}")

    from yarbus.analysis.overhead import costs

    protocol = _protocol(given)
    asked = _asked(random_weights, {"tokens": tokens, "answer_tokens": answer_tokens, "images": images, "side": side})
    quieten()
    about = {name: _about(recipes[name], plan) for name, plan in _last_plans(recipes, asked).items()}
    make_folder(folder)
    record: dict[str, Any] = {
        "kind": "overhead",
        "name": folder.resolve().name,
        "recipe": recipe.resolved(),
        "stage": list(recipe.stages)[-1],
        "command": command or f"yarbus.overhead({recipe.name!r}, random_weights={random_weights})",
        "note": note,
        "protocol": given,
        "threads": threads,
        "random_weights": random_weights,
        "references": references,
        "machine": None,
        "order": [],
    }
    for order, turns in _rounds(recipes, protocol, asked, threads, progress):
        found = costs(turns, references, new_tokens)
        machines = [turn.pop("machine", None) for some in turns.values() for turn in some.values()]
        record["machine"] = record["machine"] or next(filter(None, machines), None)
        record["order"].append(order)
        record["variants"] = {name: {**about[name], **found[name], "turns": turns[name]} for name in recipes}
        write_json(folder / RECORD, record)
    return folder
