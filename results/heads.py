"""The third study, resumable: does a weight that depends on the question raise classification? ``make study`` ends so.

All variants begin with one model that was tuned on instructions alone, and train on one row of classification to seven
of instructions. Nine variants try as many rates each, on validation questions; the other controls of ``carpe``, which
train its tensors or some of them, take its own. The curve between the model at the beginning and the projector
tuned on pictures alone (WiSE-FT) needs no training. The out-of-distribution set is asked once, in the end.
"""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from results.keeping import commit, study_parser
from results.parts import WHOLE, Changes, Entry, Part, keep, with_variants
from yarbus.core.recipe import Recipe, load_recipe
from yarbus.core.records import read_record, write_json
from yarbus.report.answers import answers_of
from yarbus.report.cells import cell_of
from yarbus.report.forgetting import is_classification
from yarbus.report.runs import Comparison, Evaluation
from yarbus.report.summary import contrasts_between
from yarbus.report.sweeps import blend_name, read_all
from yarbus.studies.work import shared_start

HERE = Path(__file__).parent / "heads"
WORK = Path("comparisons") / "heads"
COMMAND = "make study"
INSTRUCTIONS = ("read", "locate", "exist", "colour", "caption", "size", "lean")
VALIDATION = [f"file:tinyworld:validation/{task}.json" for task in (*INSTRUCTIONS, "classify", "classify-closed")]
SELECTION = {"stages.mixed.steps": 125}
"""Rates are chosen in half of the steps."""
TRAIN, RATE, DATA = "stages.mixed.train", "stages.mixed.learning_rate", "stages.mixed.data"
RATES = (*WHOLE, 4e-3)
"""One more than in the other studies: eight of nine variants did best at the highest of those four."""
BESIDE = 0.25
"""Rate of the projector relative to what trains beside it; CARPE's own is a tenth, for a projector of 21 M."""
PICTURES = [{"source": "llava", "path": "tinyworld:train/classify.json"}]
WORDS = [{"source": "llava", "path": "tinyworld:train/train.json"}]
FAST = {"peak": 4e-2, "frozen_fraction": 0.5}
"""Of a scalar that is let go further: at carpe's own rate it ended at 0.51 to 0.52, where carpe's weights are 0.55 to
0.81. That and a constant at the mean of those were added when the other runs had been seen."""
COVFT = {"method": "covft", "num_experts": 4, "context_dim": 64, "expert_jitter": 1e-2}


def carpe(**options: Any) -> dict[str, Any]:
    """CARPE, with queries that begin as the identity."""
    return {"method": "carpe", "queries": "final_prenorm", **options}


def head(**options: Any) -> Changes:
    """The head of the mixed stage."""
    return {f"{TRAIN}.head": carpe(**options)}


ENTRIES: dict[str, Entry] = {
    "projector": Entry(changes={}),
    "pictures-alone": Entry(changes={DATA: PICTURES}, like="projector"),
    "language": Entry(changes={f"{TRAIN}.language": "full"}),
    "head-alone": Entry(changes=head(weighting="fixed", vision_weight=0.0)),
    "carpe": Entry(changes=head()),
    "carpe-paper": Entry(changes=head(queries="second_last"), like="carpe"),
    "scalar": Entry(changes=head(weighting="scalar")),
    "scalar-fast": Entry(changes={**head(weighting="scalar"), f"{RATE}.router": FAST}, like="scalar"),
    "fixed-0.5": Entry(changes=head(weighting="fixed", vision_weight=0.5), like="carpe"),
    "fixed-0.67": Entry(changes=head(weighting="fixed", vision_weight=0.67), like="carpe"),
    "joint": Entry(changes=head(context_pass="joint"), like="carpe"),
    "blind": Entry(changes=head(cross_attention=False), like="carpe"),
    "adapted": Entry(changes=head(features="adapted"), like="carpe"),
    "lm-head-kept": Entry(changes=head(train_lm_head=False), like="carpe"),
    "no-pictures": Entry(changes={**head(), DATA: WORDS}, like="carpe"),
    "carpe-moe": Entry(changes=head(encoders={"siglip": "tinyworld:siglip", "dino": "tinyworld:dino"})),
    "levi": Entry(changes={f"{TRAIN}.head": {"method": "levi"}}),
    "covft": Entry(changes={f"{TRAIN}.vision": COVFT}),
    "covft-carpe": Entry(changes={f"{TRAIN}.vision": COVFT, **head()}),
}
PART = Part(
    name="mixed",
    asks="what raises classification, and what it costs elsewhere",
    variants=tuple(ENTRIES),
    pairs=(
        ("projector", "carpe"), ("head-alone", "carpe"), ("scalar", "carpe"), ("fixed-0.5", "carpe"),
        ("blind", "carpe"), ("joint", "carpe"), ("levi", "carpe"), ("carpe", "carpe-moe"), ("covft", "covft-carpe"),
        ("projector", "covft"),
        # Added when one seed had been seen, the last line when all had.
        ("carpe-paper", "carpe"), ("adapted", "carpe"), ("lm-head-kept", "carpe"), ("language", "carpe"),
        ("language", "covft-carpe"), ("head-alone", "scalar"),
        ("scalar-fast", "carpe"), ("fixed-0.67", "carpe"),
    ),
    # Split so when two seeds had been seen; planned was the mean of all tasks.
    scopes={
        "in distribution": ("classify", "classify-closed"), "out of distribution": ("classify-ood",),
        "instructions": INSTRUCTIONS,
    },
    differs=(DATA,),
)  # fmt: skip
CURVE = "wise-ft"
ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Of the curve between the model at the beginning and the projector tuned on pictures alone."""
WEIGHED = ("carpe", "carpe-paper", "carpe-moe", "scalar", "scalar-fast", "joint", "covft-carpe")
"""Heads that learn their weights: what they end as is recorded by task."""
QUESTIONS = 120
"""Per task, for the weights."""
MINUTES = 2.5
"""Of one core for a run of this study; measured with the first seed."""


def rates_of(entry: Entry, rate: float) -> Changes:
    """The tried rate is that of what trains beside the projector, and the projector's own where nothing does."""
    alone = entry is ENTRIES["projector"]
    groups = ("head", "vision", "vision_new", "language")
    # The question's weight begins to move in the second half, as the paper has it; the eyes' router cannot wait.
    has_eyes = f"{TRAIN}.vision" in entry.changes
    router: Any = rate / 2 if has_eyes else {"peak": rate, "frozen_fraction": 0.5}
    return {
        f"{RATE}.projector": rate if alone else rate * BESIDE,
        **({} if alone else {**{f"{RATE}.{group}": rate for group in groups}, f"{RATE}.router": router}),
    }


def choose(recipe: Recipe, work: Path, jobs: int | None) -> None:
    """The rates of every variant that has tensors of its own, on validation questions and a seed of their own.

    A record with all of them stands: the runs behind it need not be on this machine.
    """
    from yarbus.studies.rates import choose_rates

    path = HERE / "rates.json"
    own = {name: entry for name, entry in ENTRIES.items() if entry.like is None}
    if path.is_file() and set(own) <= set(read_record(path)["variants"]):
        return
    tried = choose_rates(
        with_variants(recipe, {name: entry.changes for name, entry in own.items()}),
        {name: [{**SELECTION, **rates_of(entry, rate)} for rate in RATES] for name, entry in own.items()},
        benchmarks=VALIDATION, folder=work / "rates", jobs=jobs, command=COMMAND,
    )  # fmt: skip
    write_json(path, tried)


def variants_of(rates: dict[str, Any]) -> dict[str, Changes]:
    """All variants at their chosen rates."""
    found = {}
    for name, entry in ENTRIES.items():
        chosen = rates["variants"][entry.like or name]["chosen"]
        found[name] = {**{key: rate for key, rate in chosen.items() if RATE in key}, **entry.changes}
    return found


def run(recipe: Recipe, work: Path, jobs: int | None) -> None:
    """Trains and evaluates what is missing, seed by seed, draws the curve, asks the heads for their weights."""
    from yarbus.studies.compare import compare
    from yarbus.studies.diagnose import diagnose
    from yarbus.studies.sweep import sweep

    chosen = with_variants(recipe, variants_of(read_record(HERE / "rates.json")), PART.differs)
    folder, start = work / PART.name, shared_start(chosen, work / PART.name)
    assert start is not None
    for seed in range(recipe.seed, recipe.seed + PART.seeds):  # an interrupted study has whole seeds
        compare(chosen, seeds=seed - recipe.seed + 1, folder=folder, jobs=jobs, command=COMMAND)
        tuned = folder / f"pictures-alone-seed{seed}"
        curve = folder / f"{CURVE}-seed{seed}"
        sweep(start.run, tuned, recipe.evaluation, folder=curve, alphas=ALPHAS, batch=64, command=COMMAND)
        for run in (folder / f"{name}-seed{seed}" for name in WEIGHED):
            if not (run / "analysis" / "mixing.json").is_file():
                diagnose(run, questions=QUESTIONS)
        keep(PART, folder, HERE / PART.name)
        weights = {path.parent.parent.name: read_record(path) for path in sorted(folder.glob("*/analysis/mixing.json"))}
        write_json(HERE / PART.name / "mixing.json", weights)
        write_json(HERE / PART.name / "named.json", named(folder))


def names_it_alone(reply: str, label: str) -> bool:
    """Whether the label is the one digit that the reply names: ``white 5`` for 5, and not ``white 5 pink 0``."""
    return {word for word in reply.split() if word.isdecimal()} == {label}


def judged_by_name(comparison: Comparison) -> Comparison:
    """The classification benchmarks alone, where a reply is right that names the label and no other, in any form."""

    def judged(evaluation: Evaluation) -> Evaluation:
        rows = [{**row, "is_correct": names_it_alone(row["reply"] or "", row["answer"])} for row in evaluation.replies]
        return replace(evaluation, replies=rows)

    runs = [
        replace(run, evaluations=[judged(one) for one in run.final_evaluations if is_classification(one.label)])
        for run in comparison.runs
    ]
    return replace(comparison, runs=runs)


def named(folder: Path) -> dict[str, Any]:
    """Who names the label, by variant or blend and benchmark; the part's pairs, and what each gains over the beginning.

    Exact match, which the part's own record counts, asks for the form of the answer as well. The benchmarks' own
    ``label_named`` is wider: a reply that names several digits is right there if one of them is.
    """
    comparison, sweeps = read_all(folder)
    blends = [run for sweep in sweeps for run in sweep.runs.values()]
    every = judged_by_name(
        replace(
            comparison,
            variants=list(dict.fromkeys([*comparison.variants, *(run.variant for run in blends)])),
            runs=[*comparison.runs, *blends],
        )
    )
    answers, chances = answers_of(every)
    values = {name: {task: cell_of(some, task) for task in chances} for name, some in answers.items() if some}
    before = [(blend_name(CURVE, 0.0), name) for name in comparison.variants]
    found = {
        key: [
            asdict(one)
            for name, some in PART.scopes.items()
            if name != "instructions"
            for one in contrasts_between(every, pairs, some, name)
        ]
        for key, pairs in (("contrasts", PART.pairs), ("minus_before", before))
    }
    return {
        "values": {name: {task: cell and asdict(cell) for task, cell in row.items()} for name, row in values.items()},
        **found,
    }


def show_plan() -> None:
    """Prints the runs with their minutes; runs of half the steps count half."""
    tries = len(RATES) * sum(entry.like is None for entry in ENTRIES.values())
    runs, blends = PART.seeds * len(PART.variants), PART.seeds * len(ALPHAS)
    for name, count, minutes in (
        ("rates", tries, tries * MINUTES / 2), ("mixed", runs, runs * MINUTES), ("curve", blends, blends * MINUTES / 4),
    ):  # fmt: skip
        print(f"{name:<12}{count:>5} runs{minutes:>7.0f} minutes of one core")


def main() -> None:
    """The command line."""
    parser = study_parser(__doc__, WORK)
    parser.add_argument("--plan", action="store_true", help="print the planned runs and leave")
    arguments = parser.parse_args()
    if arguments.plan:
        show_plan()
        return
    recipe = load_recipe(HERE / "recipe.yaml")
    choose(recipe, arguments.work, arguments.jobs)
    commit("Choose the rates of the study of heads on the validation split", [HERE], not arguments.no_commit)
    run(recipe, arguments.work, arguments.jobs)
    commit(f"Run the study of heads: {PART.asks}", [HERE], not arguments.no_commit)


if __name__ == "__main__":
    main()
