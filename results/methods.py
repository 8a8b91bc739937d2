"""The second study, resumable: every way to tune the tower, compared fairly. ``make study`` runs it after the first.

Parts, in order (``--plan`` prints them with their runs and minutes): every vision method at one common rate (the
``official`` policy) and at rates tuned with equal effort each; contexts; routings; placement and number of experts;
fractions of the data; parameter-matched pairs; kinds of tasks by experts at equal volume; a second tower, and a larger
language model behind frozen eyes (``python -m results.bases`` makes both). Each part is a comparison with a record of
its own under ``results/methods``, committed when it is finished. Runs live in ``comparisons/methods`` and are never
committed; a run that two parts need is made once.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

from results import bases
from results.keeping import commit, study_parser
from results.parts import WHOLE, Changes, Entry, Part, keep, with_variants
from yarbus.core.recipe import Recipe, load_recipe
from yarbus.core.records import read_record, write_json

HERE = Path(__file__).parent / "methods"
WORK = Path("comparisons") / "methods"
COMMAND = "make study"
VALIDATION = [f"file:tinyworld:validation/{task}.json" for task in ("read", "exist", "locate", "size", "lean")]
SELECTION = {"stages.instruct.steps": 150, "record": {}}
"""Rates are chosen in half of the steps."""
RATE = "stages.instruct.learning_rate"
VISION, PROJECTOR = "stages.instruct.train.vision", "stages.instruct.train.projector"
COVFT = {"method": "covft", "num_experts": 4, "context_dim": 64, "expert_jitter": 1e-2}
ROUTER = 0.5
"""Rate of the router relative to the eyes': at twice it its softmax saturates here (the first study)."""
COMMON = (2.5e-4, 5e-4, 1e-3, 2e-3)
"""Rates that the official policy tries for everything at once, with the tower frozen and with all of it trained."""
SMALL, PROMPTS = (1e-3, 2e-3, 4e-3, 8e-3), (2e-3, 5e-3, 1.25e-2, 3e-2)
"""Rates that a method tries for what it trains in the eyes: few or small tensors, prompts. The rest tries ``WHOLE``."""


def covft(**options: Any) -> Changes:
    """CoVFT in the eyes, with other options than the study's own."""
    return {VISION: {**COVFT, **options}}


ENTRIES: dict[str, Entry] = {
    "frozen": Entry(changes={VISION: "frozen"}, tries=WHOLE),
    "full": Entry(changes={VISION: "full"}),
    "bitfit": Entry(changes={VISION: "bitfit"}, tries=SMALL),
    "layernorm": Entry(changes={VISION: "layernorm"}, tries=SMALL),
    "lora": Entry(changes={VISION: {"method": "lora", "rank": 8}}, tries=SMALL),
    "lora-unfrozen": Entry(changes={VISION: {"method": "lora", "rank": 8, "rest": "trained"}}),
    "vpt": Entry(changes={VISION: {"method": "vpt", "num_prompts": 10}}, tries=PROMPTS),
    "vpt-normal": Entry(changes={VISION: {"method": "vpt", "num_prompts": 10, "init": "normal"}}, tries=PROMPTS),
    "svpt": Entry(changes={VISION: {"method": "svpt", "num_prompts": 10}}, tries=PROMPTS),
    "qavit": Entry(changes={VISION: "qavit"}, tries=SMALL),
    "qmoe": Entry(changes={}, tries=SMALL),
    "covft": Entry(changes=covft()),
    "covft-merged": Entry(changes=covft(routing="merged")),
    "image": Entry(changes=covft(context="image")),
    "text": Entry(changes=covft(context="text")),
    "concat": Entry(changes=covft(context="concat")),
    "sparse-2": Entry(changes=covft(routing="sparse", top_k=2, balance_loss=0.01, z_loss=0.001)),
    "random-2": Entry(changes=covft(routing="random", top_k=2)),
    "uniform": Entry(changes=covft(routing="uniform")),
    "one-expert": Entry(changes={VISION: {"method": "covft", "num_experts": 1}}),
}
OWN_CONNECTOR = {"method": "qmoe", "num_queries": 36, "width": 96, "num_layers": 2, "num_heads": 4}
ENTRIES["qmoe"] = replace(
    ENTRIES["qmoe"],
    changes={VISION: "frozen", PROJECTOR: OWN_CONNECTOR, "stages.align.train.projector": OWN_CONNECTOR},
)
LAST = 5
"""Last executed block of the world's tower."""
for name, options in {
    "covft-blocks-0-5": {"first_block": 0, "last_block": LAST},
    "covft-blocks-0-2": {"first_block": 0, "last_block": 2},
    "covft-block-5": {"first_block": LAST, "last_block": LAST},
    "covft-2-experts": {"num_experts": 2},
    "covft-8-experts": {"num_experts": 8},
}.items():
    ENTRIES[name] = Entry(changes=covft(**options), like="covft")
FRACTIONS = (0.125, 0.25, 0.5, 0.75)
for name in ("frozen", "full", "covft"):
    for fraction in FRACTIONS:
        changes = {**ENTRIES[name].changes, "stages.instruct.fraction": fraction}
        ENTRIES[f"{name}-{fraction:g}"] = Entry(changes=changes, like=name)


LARGE = 80
"""LoRA's rank at which it trains about as many parameters as CoVFT in one block."""
BASES = bases.WORK
ENTRIES["large-frozen"] = Entry(changes={VISION: "frozen", "model.base": str(BASES / "large")}, like="frozen")
ENTRIES["lora-large"] = Entry(changes={VISION: {"method": "lora", "rank": LARGE, "alpha": 2.0 * LARGE}})
"""At the rate of rank 8 rank 80 lost 2.8 points to frozen eyes (three seeds): it tries lower ones of its own."""


METHODS = (
    "frozen", "full", "bitfit", "layernorm", "lora", "lora-unfrozen", "vpt", "vpt-normal", "svpt", "qavit", "qmoe",
    "covft",
)  # fmt: skip
SCALING = tuple(f"{name}{'' if fraction == 1 else f'-{fraction:g}'}"
                for fraction in (*FRACTIONS, 1) for name in ("frozen", "full", "covft"))  # fmt: skip
KINDS = ("read", "locate", "size", "lean", "exist", "colour", "caption")
PARTS = (
    Part(name="official", asks="all methods at one common rate", variants=METHODS, policy="official"),
    Part(name="tuned", asks="all methods at rates tuned with equal effort", variants=METHODS,
         pairs=(("lora", "covft"), ("lora", "lora-unfrozen"), ("vpt", "vpt-normal"), ("vpt", "svpt"))),
    Part(name="contexts", asks="what the router is told",
         variants=("frozen", "full", "image", "text", "concat", "covft"),
         pairs=(("image", "covft"), ("text", "covft"), ("concat", "covft"))),
    Part(name="routings", asks="how experts are chosen",
         variants=("frozen", "full", "one-expert", "uniform", "random-2", "sparse-2", "covft-merged", "covft"),
         pairs=tuple((name, "covft") for name in ("one-expert", "uniform", "random-2", "sparse-2", "covft-merged"))),
    Part(name="placement", asks="which blocks, how many experts",
         variants=("frozen", "full", "covft-blocks-0-5", "covft-blocks-0-2", "covft", "covft-block-5", "one-expert",
                   "covft-2-experts", "covft-8-experts"),
         pairs=tuple(("covft", name) for name in ("covft-blocks-0-5", "covft-blocks-0-2", "covft-block-5",
                                                  "covft-2-experts", "covft-8-experts"))),
    Part(name="fractions", asks="how much data", variants=SCALING, differs=("stages.instruct.fraction",),
         pairs=tuple((f"{base}-{fraction:g}", f"covft-{fraction:g}") for fraction in FRACTIONS
                     for base in ("frozen", "full"))),
    Part(name="matched", asks="equal numbers of trained parameters",
         variants=("frozen", "full", "lora", "lora-large", "covft-block-5", "covft"),
         pairs=(("lora-large", "covft-block-5"), ("full", "covft-block-5"))),
    *(Part(name=f"kinds-{number}", asks=f"{number} kinds of tasks in the same number of rows", seeds=1,
           variants=("frozen", "full", "covft-2-experts", "covft", "covft-8-experts"), tasks=KINDS[:number])
      for number in (2, 3, 5, 7)),
    Part(name="narrow-tower", asks="a second tower, of width 64", base=str(BASES / "narrow"),
         variants=("frozen", "full", "lora", "covft"), pairs=(("lora", "covft"),)),
    Part(name="large-decoder", asks="a larger language model behind frozen eyes, or CoVFT under the small one",
         variants=("frozen", "covft", "large-frozen"), pairs=(("covft", "large-frozen"),), differs=("model.base",)),
)  # fmt: skip


def rates_of(entry: Entry, rate: float) -> Changes:
    """The groups that a tried rate is for: the eyes', the connector's, or the language model's where the eyes rest."""
    if entry is ENTRIES["frozen"]:
        return {f"{RATE}.{group}": rate for group in ("projector", "language")}
    if entry is ENTRIES["qmoe"]:
        return {f"{RATE}.projector": rate}
    return {f"{RATE}.vision": rate, f"{RATE}.vision_new": rate, f"{RATE}.router": rate * ROUTER}


def common(rate: float) -> Changes:
    """One rate for all that trains, as the official code has it."""
    return {f"{RATE}.{group}": rate for group in ("vision", "vision_new", "router", "projector", "language")}


def choose(recipe: Recipe, work: Path, jobs: int | None) -> None:
    """Both policies' rates, on validation questions and a seed of their own: ``rates.json``."""
    from yarbus.studies.rates import choose_rates

    path = HERE / "rates.json"
    record: dict[str, Any] = read_record(path) if path.is_file() else {}
    if "official" not in record:
        anchors = {name: ENTRIES[name].changes for name in ("frozen", "full")}
        tried = choose_rates(
            with_variants(recipe, anchors),
            {name: [{**SELECTION, **common(rate)} for rate in COMMON] for name in anchors},
            benchmarks=VALIDATION, folder=work / "rates-official", jobs=jobs, command=COMMAND,
        )  # fmt: skip
        means = [
            mean(tried["variants"][name]["tried"][number]["mean"] for name in anchors) for number in range(len(COMMON))
        ]
        record["official"] = {**tried, "chosen": COMMON[means.index(max(means))]}
        write_json(path, record)
    own = {name: entry for name, entry in ENTRIES.items() if entry.like is None}
    tried = choose_rates(
        with_variants(recipe, {name: entry.changes for name, entry in own.items()}),
        {name: [{**SELECTION, **rates_of(entry, rate)} for rate in entry.tries] for name, entry in own.items()},
        benchmarks=VALIDATION, folder=work / "rates-tuned", jobs=jobs, command=COMMAND,
    )  # fmt: skip
    write_json(path, {**record, "tuned": tried})


def variants_of(part: Part, rates: Mapping[str, Any]) -> dict[str, Changes]:
    """The part's variants at their policy's rates."""
    if part.policy == "official":
        return {name: {**ENTRIES[name].changes, **common(rates["official"]["chosen"])} for name in part.variants}
    found = {}
    for name in part.variants:
        chosen = rates["tuned"]["variants"][ENTRIES[name].like or name]["chosen"]
        found[name] = {**ENTRIES[name].changes, **{key: rate for key, rate in chosen.items() if RATE in key}}
    return found


def recipe_of(part: Part, recipe: Recipe) -> Recipe:
    """The study's recipe with the part's data."""
    if part.base is not None:
        return load_recipe({**recipe.resolved(), "model": {"base": part.base}})
    if not part.tasks:
        return recipe
    share = 2 / len(part.tasks)  # each task has 5,000 rows: 10,000 in all, whatever the number of tasks
    data = [{"source": "llava", "path": f"tinyworld:train/{task}.json", "fraction": share} for task in part.tasks]
    values = recipe.resolved()
    values["stages"]["instruct"]["data"] = data
    return load_recipe({**values, "evaluation": [f"tinyworld/{task}" for task in part.tasks]})


def run(part: Part, recipe: Recipe, work: Path, jobs: int | None) -> None:
    """Trains and evaluates what is missing of a part, seed by seed, and keeps what there is."""
    from yarbus.studies.compare import compare

    if part.base is not None or "model.base" in part.differs:
        bases.make(BASES)
    rates = read_record(HERE / "rates.json")
    chosen = with_variants(recipe_of(part, recipe), variants_of(part, rates), part.differs)
    folder = work / (part.name if part.has_own_runs else part.policy)
    for seeds in range(1, part.seeds + 1):  # an interrupted part has whole comparisons
        compare(chosen, seeds=seeds, folder=folder, jobs=jobs, command=COMMAND)
        keep(part, folder, HERE / part.name)


def show_plan() -> None:
    """Prints every part with its runs and minutes of one core; runs of earlier parts are not counted again."""
    minutes = read_record(HERE / "costs.json")["minutes"]
    entries = [entry for entry in ENTRIES.items() if entry[1].like is None]
    half = sum(len(entry.tries) * minutes[name] / 2 for name, entry in entries)
    rows = [
        ("rates", sum(len(entry.tries) for _, entry in entries) + 2 * len(COMMON), half + len(COMMON) * minutes["full"])
    ]
    made: set[tuple[str, str]] = set()
    for part in PARTS:
        new = [name for name in part.variants if part.has_own_runs or (part.policy, name) not in made]
        made |= {(part.policy, name) for name in new if not part.has_own_runs}
        shares = {name: float(ENTRIES[name].changes.get("stages.instruct.fraction", 1)) for name in new}
        cost = sum(minutes.get(name) or minutes[ENTRIES[name].like] * share for name, share in shares.items())
        rows.append((part.name, part.seeds * len(new), part.seeds * cost))
    for name, runs, cost in rows:
        print(f"{name:<12}{runs:>5} runs{cost:>7.0f} minutes of one core")
    print(f"{'all':<12}{sum(row[1] for row in rows):>5} runs{sum(row[2] for row in rows):>7.0f} minutes of one core")


def main() -> None:
    """The command line."""
    parser = study_parser(__doc__, WORK)
    parser.add_argument("--parts", default=None, help="only these parts, a,b")
    parser.add_argument("--plan", action="store_true", help="print the planned runs and leave")
    arguments = parser.parse_args()
    if arguments.plan:
        show_plan()
        return
    recipe = load_recipe(HERE / "recipe.yaml")
    choose(recipe, arguments.work, arguments.jobs)
    commit("Choose the rates of every method on the validation split", [HERE], not arguments.no_commit)
    for part in PARTS:
        if arguments.parts is None or part.name in arguments.parts.split(","):
            run(part, recipe, arguments.work, arguments.jobs)
            commit(f"Run the study's part '{part.name}': {part.asks}", [HERE], not arguments.no_commit)


if __name__ == "__main__":
    main()
