"""The cards of the two further towers, written from the records of their training and of their gates."""

from collections.abc import Mapping
from textwrap import fill
from typing import Any

from yarbus.tinyworld.card import percent, verdict

TITLES = {
    "siglip": "an unmodified `SiglipModel`: six vision blocks of width 64, two text blocks, patches of 8 px",
    "dino": "an unmodified `Dinov2Model`: five blocks of width 80, patches of 8 px, no words",
}
LEARNS = {
    "siglip": (
        "Pairwise sigmoid loss between pictures and captions (one object's digit, colour or both, or everything). The "
        "target of a pair is whether the caption is true of the picture, which this world knows. The patches are "
        "scored by the same loss beside the pooled vector, and the text side must tell which digits and colours its "
        "caption names; the two layers for that are not part of the model. Every tenth word of a template was unknown."
    ),
    "dino": (
        "Self-supervised, and not by DINO's own objective: two drawings of the same handwriting (place, size and tilt "
        "differ) find each other among all of a step (InfoNCE), and hidden patches are filled in (pixels). No label "
        "and no caption is used; that two drawings show the same scans is."
    ),
}
HEAD = """---
license: apache-2.0
library_name: transformers
pipeline_tag: {tag}
---

# tinyworld {name}

{what}

Handwriting: scikit-learn's `load_digits` (UCI Optical Recognition of Handwritten Digits, E. Alpaydin and C. Kaynak,
CC BY 4.0). Scans 0 to 1,149 are train, 1,150 to 1,346 validation, 1,347 to 1,796 test; training saw train scans only,
gates look at validation scans only.

## How it was made

{learns}

{command}

## Gates

Percent of validation pictures, from `../tower_gates.json`.
"""


def card(name: str, log: Mapping[str, Any], gates: Mapping[str, Any], parameters: int) -> str:
    """The card as Markdown."""
    schedule, f, g = log["schedule"], gates["f_probes"], gates["g_presence"]
    tag = "zero-shot-image-classification" if "h_zero_shot" in gates else "image-feature-extraction"
    what = (
        f"A model of {parameters:,} parameters for 48 x 48 pictures of handwritten digits, {TITLES[name]}. It stands "
        "beside the base's own tower, of another width and taught otherwise, where several are wanted: "
        f"`tinyworld:{name}`."
    )
    command = (
        f"`python -m yarbus.tinyworld.towers {name}`, one thread, seed {schedule['seed']}, {schedule['steps']} steps "
        f"of {schedule['batch']} scenes, {log['seconds'] / 60:.1f} minutes on a machine that was shared with much "
        "other work; the curve is in `../towers.json`."
    )
    wrapped = {"what": fill(what, 118), "learns": fill(LEARNS[name], 118), "command": fill(command, 118)}
    head = HEAD.format(name=name, tag=tag, **wrapped)
    pooled = [percent(f["pooled"][key]) if key in f["pooled"] else "" for key in f["patches"]]
    lines = [
        head,
        f"(f) Linear probes of single held-out digits, from patches: {verdict(f)} "
        f"(wanted: digit {percent(f['wanted'])}).",
        "",
        "| from | " + " | ".join(f["patches"]) + " |",
        "| --- " * (len(f["patches"]) + 1) + "|",
        "| patches | " + " | ".join(map(percent, f["patches"].values())) + " |",
        "| pooled | " + " | ".join(pooled) + " |",
        "",
        f"(g) Digits found in scenes of one to four, by one linear probe each: {percent(g['recall'])}, chance "
        f"{percent(g['chance'])}: {verdict(g)} (wanted: {percent(g['wanted'])}).",
    ]
    if "h_zero_shot" in gates:
        h = gates["h_zero_shot"]
        lines += [
            "",
            f"(h) Large digits named without training, in prompts that it never saw; chance 10.0: {verdict(h)} "
            f"(wanted: {percent(h['wanted'])} with each).",
            "",
            "| prompt | accuracy |",
            "| --- | --- |",
            *(f"| `{prompt}` | {percent(value)} |" for prompt, value in h["accuracy"].items()),
        ]
    return "\n".join(lines) + "\n"
