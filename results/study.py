"""The first study, resumable: ``make study`` runs it, and commits each finished part under ``results/study``.

Parts, in order: learning rates chosen on the validation split (``rates.json``); the comparison of variants at those
rates (``digest.json``, ``report/``); what diagnoses saw in its runs (``analysis/``). Runs live in ``comparisons/study``
and are never committed; what was not run is listed in the digest as not run.
"""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from results.keeping import commit, study_parser
from yarbus.core.recipe import Recipe, load_recipe
from yarbus.core.records import make_folder, read_record, write_json, write_text
from yarbus.report.digest import digest_of
from yarbus.report.html import page
from yarbus.report.runs import Comparison, read_comparison
from yarbus.report.summary import contrasts_between

HERE = Path(__file__).parent / "study"
SHIPPED = HERE.parents[1] / "yarbus" / "tinyworld" / "files" / "study"
"""The digest travels with the package, so that a quickstart can show this study beside its own short run."""
WORK = Path("comparisons") / "study"
VALIDATION = "file:tinyworld:validation/validation.json"
SELECTION_STEPS = 300
EYES, LANGUAGE = (2.5e-4, 5e-4), (5e-4, 1e-3)
"""Rates that each variant tries: of the eyes, or of the language model and projector where the eyes are frozen."""
ROUTER = {"covft-dense-plain": 1.0, "covft-dense-fast-router": 4.0}
"""Rate of the router relative to the eyes'; for all others ``SLOW``. Four times was the quickstart's: the softmax then
saturates within 300 steps, each block sends every image to one expert, and its gradient vanishes."""
SLOW = 0.5
SEEDS = 3
CHECKPOINTS = (300,)
COMMAND = "make study"
PROBE_STEPS = 100
DIAGNOSIS = {"samples": 700, "questions": 120}


def candidates(recipe: Recipe) -> dict[str, list[dict[str, Any]]]:
    """Two rates for each variant."""
    assert recipe.compare is not None
    short = {"stages.instruct.steps": SELECTION_STEPS, "record": {}, "stages.instruct.checkpoint_every": None}
    rate = "stages.instruct.learning_rate"
    found: dict[str, list[dict[str, Any]]] = {}
    for name in recipe.compare.variants:
        if name == "frozen":
            found[name] = [short | {f"{rate}.{group}": one for group in ("projector", "language")} for one in LANGUAGE]
            continue
        found[name] = []
        for one in EYES:
            eyes = {f"{rate}.{group}": one for group in ("vision", "vision_new")}
            found[name].append(short | eyes | {f"{rate}.router": one * ROUTER.get(name, SLOW)})
    return found


def chosen_variants(recipe: Recipe, rates: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The recipe's variants with the rates that were chosen for each."""
    assert recipe.compare is not None
    return {
        name: {
            **changes,
            **{key: value for key, value in rates["variants"][name]["chosen"].items() if "learning_rate" in key},
        }
        for name, changes in recipe.compare.variants.items()
    }


PAIRS = (
    ("uniform", "covft-dense"), ("one-expert", "covft-dense"), ("covft-text", "covft-dense"),
    ("covft-dense-plain", "covft-dense"), ("covft-dense-fast-router", "covft-dense"), ("uniform", "covft-merged"),
    ("one-expert", "covft-merged"), ("covft-dense", "covft-merged"), ("one-expert", "uniform"), ("full", "one-expert"),
)  # fmt: skip
"""Reference and variant of the differences that the study asks for, besides those to frozen and full."""
BULKY = {"contexts": ("samples",), "gaze": ("samples",)}


def at(comparison: Comparison, checkpoint: str) -> Comparison:
    """The comparison as it stood at one checkpoint."""
    runs = [
        replace(run, evaluations=[found for found in run.evaluations if found.checkpoint == checkpoint])
        for run in comparison.runs
    ]
    return replace(comparison, runs=runs)


def summary_of(comparison: Comparison) -> dict[str, Any]:
    """Digest and asked-for differences at one checkpoint; what is planned and not there is named as not run."""
    answered = {(run.variant, run.seed) for run in comparison.runs if run.evaluations}
    first = comparison.seeds[0]
    wanted = [(variant, seed) for seed in range(first, first + SEEDS) for variant in comparison.variants]
    contrasts = [asdict(one) for one in contrasts_between(comparison, PAIRS)]
    not_run = [f"{variant}, seed {seed}" for variant, seed in wanted if (variant, seed) not in answered]
    return {**digest_of(comparison), "contrasts": contrasts, "not_run": not_run}


def keep(work: Path) -> None:
    """Puts what is finished under ``results/study``: numbers, the page, the runs' diagnoses without their samples."""
    comparison = replace(read_comparison(work), name="study")
    digest = summary_of(at(comparison, "final"))
    write_json(HERE / "digest.json", digest)
    make_folder(SHIPPED)
    write_json(SHIPPED / "digest.json", digest)
    for step in CHECKPOINTS:
        name = f"step-{step:06d}"
        write_json(HERE / f"{name}.json", summary_of(at(comparison, name)))
    write_json(HERE / "comparison.json", read_record(work / "comparison.json"))
    for run in comparison.runs:
        for name, record in run.analysis.items():
            slim = {key: value for key, value in record.items() if key not in BULKY.get(name, ())}
            make_folder(HERE / "analysis" / run.folder.name)
            write_json(HERE / "analysis" / run.folder.name / f"{name}.json", slim)
        for stage, lines in run.routing.items():
            make_folder(HERE / "analysis" / run.folder.name)
            write_json(HERE / "analysis" / run.folder.name / f"routing-{stage}.json", {"lines": lines})
    make_folder(HERE / "report")
    write_text(HERE / "report" / "index.html", page(comparison))


def main() -> None:
    """The command line."""
    parser = study_parser(__doc__, WORK)
    parser.add_argument("--only-runs", action="store_true", help="train and evaluate, no diagnoses")
    arguments = parser.parse_args()
    from yarbus.studies.compare import compare
    from yarbus.studies.conflict import conflict
    from yarbus.studies.rates import choose_rates

    recipe = load_recipe(HERE / "recipe.yaml")
    rates_file = HERE / "rates.json"
    if not rates_file.is_file():
        record = choose_rates(
            recipe, candidates(recipe), benchmarks=[VALIDATION], folder=arguments.work / "rates", jobs=arguments.jobs,
            command=COMMAND,
        )  # fmt: skip
        write_json(rates_file, record)
        commit("Choose the study's learning rates on the validation split", [HERE, SHIPPED], not arguments.no_commit)
    rates = read_record(rates_file)
    runs = arguments.work / "runs"
    for seeds in range(1, SEEDS + 1):  # seed by seed: an interrupted study has whole comparisons
        compare(
            recipe, chosen_variants(recipe, rates), seeds=seeds, folder=runs, jobs=arguments.jobs, command=COMMAND,
            checkpoints=CHECKPOINTS, diagnose=None if arguments.only_runs else DIAGNOSIS,
        )  # fmt: skip
        keep(runs)
        commit(f"Run the study's comparison under {seeds} of {SEEDS} seeds", [HERE, SHIPPED], not arguments.no_commit)
    if not arguments.only_runs:
        conflict(recipe, folder=runs, steps=PROBE_STEPS, jobs=arguments.jobs, command=COMMAND)
        keep(runs)
        write_json(HERE / "conflict.json", read_record(runs / "conflict.json"))
        commit("Ask whether the study's tasks conflict", [HERE, SHIPPED], not arguments.no_commit)


if __name__ == "__main__":
    main()
