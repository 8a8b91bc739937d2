"""The base's card, written from the records of its pre-training and of its gates."""

from collections.abc import Mapping
from typing import Any

HEAD = """---
license: apache-2.0
library_name: transformers
pipeline_tag: image-text-to-text
---

# tinyworld base

A LLaVA of {parameters:,} parameters that sees 48 x 48 pictures of handwritten digits: an unmodified
`CLIPVisionModel` (7 blocks of width 96, patches of 8 px, features from `hidden_states[-2]`), a projector that has
seen nothing yet, and a `LlamaForCausalLM` (3 blocks of width 96). It is the base on which Yarbus shows and tests how
a vision tower should be tuned; it is good for nothing else.

Handwriting: scikit-learn's `load_digits` (UCI Optical Recognition of Handwritten Digits, E. Alpaydin and C. Kaynak,
CC BY 4.0). Scans 0 to 1,149 are train, 1,150 to 1,346 validation, 1,347 to 1,796 test; pre-training saw train scans
only, gates look at validation scans only.

## How it was made

`{command}`, one thread, seed {seed}; curves in `../pretraining.json`.

| part | learns | steps | batch | minutes |
| --- | --- | --- | --- | --- |
"""

LEARNS = {
    "tower": "image tags (digits, colours, pairs) without positions",
    "decoder": "the tasks, from symbolic slots in place of visual tokens",
    "text_encoder": "task, digit and colour that a question names",
}


def percent(value: float) -> str:
    """``0.9475`` as ``94.8``."""
    return f"{100 * value:.1f}"


def verdict(gate: Mapping[str, Any]) -> str:
    """Said in capitals where it is not as wished, so that nobody overlooks it."""
    return "met" if gate["met"] else "**UNMET**"


def card(pretraining: Mapping[str, Any], gates: Mapping[str, Any], parameters: int) -> str:
    """The card as Markdown."""
    parts = pretraining["parts"]
    seed = parts["tower"]["schedule"]["seed"]
    lines = [HEAD.format(parameters=parameters, command=pretraining["command"], seed=seed).rstrip()]
    for name, log in parts.items():
        schedule = log["schedule"]
        lines.append(
            f"| {name} | {LEARNS[name]} | {schedule['steps']} | {schedule['batch']} | {log['seconds'] / 60:.1f} |"
        )
    a, b, c = gates["a_probes"], gates["b_headroom"], gates["c_conflict"]
    long = gates["c_conflict_long"]
    lines += [
        "",
        "## Gates",
        "",
        "Percent of validation questions or scans, held-out phrasings; (b) and (c) are means over seeds "
        f"{' and '.join(map(str, gates['seeds']))}, (b) after {gates['steps']} steps of the shipped recipe.",
        "",
        f"(a) Linear probes of the frozen tower on single held-out digits: {verdict(a)} (wanted: digit 90, colour 98).",
        "",
        "| " + " | ".join(a["probe"]) + " | digit, 3-NN on the raw scans |",
        "| --- " * (len(a["probe"]) + 1) + "|",
        "| " + " | ".join(map(percent, a["probe"].values())) + f" | {percent(a['nearest_neighbours_on_raw_scans'])} |",
        "",
        f"(b) Frozen tower against chance and against the language model with perfect vision: {verdict(b)} "
        "(wanted: all above chance, four tasks 10 points or more below the ceiling).",
        "",
        "| task | chance | frozen | ceiling |",
        "| --- | --- | --- | --- |",
        *(
            f"| {task} | {percent(b['chance'][task])} | {percent(b['frozen'][task])} | {percent(b['ceiling'][task])} |"
            for task in b["frozen"]
        ),
        "",
        "(c) `full` on one task alone against `full` on the mix, equal numbers of that task's questions "
        f"(wanted: two tasks, 8 points or more): {verdict(c)} after {gates['steps']} steps of the mix, "
        f"{verdict(long)} after {gates['long_steps']}.",
        "",
        "| task | steps of the mix | mix | alone |",
        "| --- | --- | --- | --- |",
        *(
            f"| {task} | {steps} | {percent(gate['full_on_the_mix'][task])} "
            f"| {percent(gate['full_on_the_task_alone'][task])} |"
            for steps, gate in ((gates["steps"], c), (gates["long_steps"], long))
            for task in gate["full_on_the_mix"]
        ),
    ]
    return "\n".join(lines) + "\n"
