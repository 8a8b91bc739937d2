"""The model card of an exported model, written from the records of its run and from nothing else."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from yarbus.core.own_names import own_name
from yarbus.core.yaml import dump_yaml
from yarbus.report.costs import rate_text
from yarbus.report.runs import Run
from yarbus.studies.servers import Kind

SHOWN_PACKAGES = ("yarbus", "torch", "transformers", "peft")
PLAIN = """```python
from transformers import AutoModelForImageTextToText, AutoProcessor

model = AutoModelForImageTextToText.from_pretrained("{name}")
processor = AutoProcessor.from_pretrained("{name}")
```"""
FULL = """```python
import yarbus

model, processor = yarbus.load("{name}")
```

It needs `pip install yarbus`: modules that the library does not know are part of it. Plain `from_pretrained` finds no
weights here, which is meant: it would fill those modules with random numbers."""
REGISTERS = """```python
import yarbus

model, processor = yarbus.load("{name}")
```

It needs `pip install yarbus`, which takes the registers out of what the vision tower returns. Plain `from_pretrained`
loads these weights too, but fails at the first picture: with the registers it has more features than places."""
LOADING = {"plain": PLAIN, "registers": REGISTERS, "full": FULL}
LICENCE = (
    "Not stated by the run. The base model's licence, and those of the data, hold for this model too: "
    "write `license:` into the head of this file."
)


def without_folders(value: Any) -> Any:
    """A record with the last part alone of each path on the machine where it was made."""
    if isinstance(value, Mapping):
        return {key: without_folders(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [without_folders(inner) for inner in value]
    if not isinstance(value, str):
        return value
    kind, colon, path = value.partition(":")
    if colon and kind.isidentifier() and path.startswith(("/", "~", ".")):
        return f"{kind}:{Path(path).name}"
    return Path(value).name if value.startswith(("/", "~", "./", "../")) else value


def hub_name(base: str) -> str | None:
    """The base as ``base_model:`` of a card may name it; None where it is a folder or a plug-in's."""
    parts = base.split("/")
    is_name = len(parts) == 2 and all(parts) and not base.startswith((".", "~")) and ":" not in base
    is_name = is_name and not Path(base).exists()  # a folder below the current one looks the same
    return base if is_name else None


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows))


def _trained(places: Mapping[str, Mapping[str, Any]]) -> str:
    rows = []
    for place, spec in places.items():
        options = ", ".join(f"{key} {value}" for key, value in spec.items() if key != "method" and value is not None)
        rows.append((place, str(spec["method"]), options))
    return _table(("place", "method", "options"), rows)


def _stages(recipe: Mapping[str, Any]) -> str:
    rows = []
    for name, stage in recipe.get("stages", {}).items():
        trains = ", ".join(f"{place} {spec['method']}" for place, spec in stage["train"].items())
        length = f"{stage['steps']} steps" if stage.get("steps") else f"{stage.get('epochs') or 1:g} epochs"
        rates = ", ".join(f"{group} {rate_text(rate)}" for group, rate in stage["learning_rate"].items())
        rows.append((name, trains, f"{length} of {stage['batch']} rows", rates, stage.get("precision", "")))
    return _table(("stage", "trains", "length", "learning rates", "precision"), rows)


def _scores(run: Run) -> str:
    rows = []
    for evaluation in run.final_evaluations:
        own = own_name(evaluation.benchmark)
        name = evaluation.label if own is None else f"{own.kind}:{own.place.name}"
        for metric, score in evaluation.scores.get("metrics", {}).items():
            factor, unit = (100, " %") if score.get("interval") == "wilson" else (1, "")
            value, low, high = (f"{factor * score[key]:.4g}" for key in ("value", "low", "high"))
            rows.append((f"{name}/{metric}", f"{value}{unit}", f"{low} to {high}", str(score.get("n", ""))))
    if not rows:
        return "Not evaluated when it was exported."
    return _table(("metric", "score", "95 % interval", "questions"), rows)


def card(
    *,
    name: str,
    base: str,
    places: Mapping[str, Mapping[str, Any]],
    folded: Iterable[str],
    kind: Kind,
    dtype: str,
    servers: Iterable[Mapping[str, str]],
    run: Run | None,
) -> str:
    """The card as Markdown. ``name``: where it will be loaded from; ``places``: what each place held, as recipes say
    it; ``run``: None where an adapter or a model without its run was exported."""
    known = hub_name(base)
    head = ["---", *([f"base_model: {known}"] if known else []), "pipeline_tag: image-text-to-text"]
    head += [f"library_name: {'transformers' if kind == 'plain' else 'yarbus'}", "tags: [yarbus]", "---"]
    base = without_folders(base) or "a base without a name"
    called = "an ordinary Hugging Face model" if kind == "plain" else "a Yarbus model"
    parts = [
        "\n".join(head),
        f"# {name.rpartition('/')[2]}",
        f"{base}, tuned with [Yarbus](https://pypi.org/project/yarbus): {called} in {dtype}.",
        "## Load it",
        LOADING[kind].format(name=name),
        "## What was trained",
        _trained(places) if places else "Nothing: these are the base's own weights.",
    ]
    if folded := list(folded):
        parts.append(f"Low-rank updates are folded into the weights: {', '.join(folded)}.")
    if run is not None and run.recipe:
        parts += [_stages(run.recipe), "## Scores", _scores(run)]
        parts += ["## Recipe", f"```yaml\n{dump_yaml(without_folders(run.recipe)).strip()}\n```"]
        packages = run.environment.get("packages") or {}
        versions = ", ".join(f"{one} {packages[one]}" for one in SHOWN_PACKAGES if packages.get(one))
        parts += ["## Versions", f"Trained with {versions}." if versions else "Not recorded."]
    rows = [(one["server"], one["verdict"], one["why"]) for one in servers]
    parts += ["## Where it can be served", _table(("program", "verdict", "why"), rows), "## Licence", LICENCE]
    return "\n\n".join(parts) + "\n"
