"""What the two further towers know: ``python -m yarbus.tinyworld.tower_gates`` writes ``files/tower_gates.json``.

Everything is measured on validation scans, by the shipped folders as anybody loads them; a gate that is not met is
recorded as unmet, with its figure, and both cards are written from this record.

(f) Linear probes of single digits read the digit from patches (their mean and maximum) of ``hidden_states[-2]``, as
they do from the base. (g) They say which digits a scene of one to four holds. (h) The tower with words names a large
digit without training, in prompts that it has never seen, with words that nobody knows among them.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.multiclass import OneVsRestClassifier
from transformers import AutoConfig, AutoModel

from yarbus.core.records import read_json, write_json, write_text
from yarbus.evaluation.zero_shot import class_vectors
from yarbus.models.bare_encoder import BareEncoder, load_bare_encoder
from yarbus.tinyworld.classification import large_digit
from yarbus.tinyworld.probes import ATTRIBUTES, linear_probe, nearest_neighbours_on_raw_scans, singles
from yarbus.tinyworld.scene import Scene, draw_scene, render
from yarbus.tinyworld.siglip import HELD_OUT, UNKNOWN
from yarbus.tinyworld.tower import digit_recall, normalise, tags_of
from yarbus.tinyworld.tower_card import card
from yarbus.tinyworld.towers import FILES, RECORD, TOWERS

GATES = "tower_gates.json"
SCENE_SEED = 2102
NUM_SCENES = {"train": 3000, "validation": 600}
NUM_LARGE = 400
MIN_DIGIT = {"siglip": 0.85, "dino": 0.70}
MIN_PRESENCE = {"siglip": 0.70, "dino": 0.50}
MIN_ZERO_SHOT = 0.80
"""Bounds of the gates, set before either tower was measured; towers of half as many steps did not meet all of them.
Chance is .10, about .28, and .10."""

Read = Callable[[Sequence[Scene]], dict[str, np.ndarray]]
"""Scenes -> features by name, a row per scene."""


def reader_of(folder: Path) -> Read:
    """The features of a shipped tower: ``patches`` as a VLM would get them, and its own summary, ``pooled``."""
    config = AutoConfig.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder, config=getattr(config, "vision_config", config)).eval()
    num_patches = (model.config.image_size // model.config.patch_size) ** 2

    @torch.no_grad()
    def read(scenes: Sequence[Scene]) -> dict[str, np.ndarray]:
        rows: dict[str, list[np.ndarray]] = {"patches": [], "pooled": []}
        for start in range(0, len(scenes), 100):
            pictures = normalise(np.stack([render(scene) for scene in scenes[start : start + 100]]))
            out = model(pictures, output_hidden_states=True)
            patches = out.hidden_states[-2][:, -num_patches:]
            rows["patches"].append(torch.cat([patches.mean(1), patches.amax(1)], dim=1).numpy())
            rows["pooled"].append(out.pooler_output.numpy())
        return {name: np.concatenate(parts) for name, parts in rows.items()}

    return read


def probes(read: Read) -> dict[str, dict[str, float]]:
    """Held-out accuracy of one linear probe per attribute of patches, and of the pooled feature for the digit."""
    train, held_out = singles("train"), singles("validation")
    features, held_features = read(train), read(held_out)
    found: dict[str, dict[str, float]] = {}
    for name, attributes in (("patches", list(ATTRIBUTES)), ("pooled", ["digit", "colour"])):
        found[name] = {}
        for attribute in attributes:
            labels, wanted = ([ATTRIBUTES[attribute](scene) for scene in some] for some in (train, held_out))
            classifier = linear_probe().fit(features[name], labels)
            found[name][attribute] = float(classifier.score(held_features[name], wanted))
    return found


def presence(read: Read) -> dict[str, float]:
    """Fraction of a scene's digits among the best-scored ones, by one linear probe per digit; and chance."""
    scenes = {
        split: [draw_scene(split, (SCENE_SEED, number)) for number in range(count)]
        for split, count in NUM_SCENES.items()
    }
    features = {split: read(some)["patches"] for split, some in scenes.items()}
    target = {split: tags_of(some)[:, :10] for split, some in scenes.items()}
    classifier = OneVsRestClassifier(linear_probe()).fit(features["train"], target["train"].numpy())
    scores = torch.from_numpy(classifier.predict_proba(features["validation"]))
    wanted = target["validation"]
    return {"recall": digit_recall(scores, wanted), "chance": float((wanted.sum(1) ** 2).sum() / wanted.sum() / 10)}


def zero_shot(encoder: BareEncoder) -> dict[str, float]:
    """Accuracy on large digits of each held-out prompt, and of one with unknown words, over all ten digits."""
    names = [str(digit) for digit in range(10)]
    scenes = [large_digit("validation", number) for number in range(NUM_LARGE)]
    pictures = [Image.fromarray(render(scene)) for scene in scenes]
    wanted = torch.tensor([scene.digits[0].digit for scene in scenes])
    vectors = torch.cat([encoder.image_features(pictures[start : start + 100]) for start in range(0, NUM_LARGE, 100)])
    found = {}
    for prompt in (*HELD_OUT, f"a {UNKNOWN} photo of {UNKNOWN} {{}}"):
        classes = class_vectors(encoder, [encoder.text_tokens([prompt.format(name) for name in names])])
        found[prompt] = float(((vectors @ classes.T).argmax(1) == wanted).float().mean())
    return found


def measure(name: str) -> dict[str, Any]:
    """Every gate of one tower with its figures."""
    read, encoder = reader_of(FILES / name), load_bare_encoder(f"tinyworld:{name}")
    probed, present = probes(read), presence(read)
    gates: dict[str, Any] = {
        "f_probes": {"met": probed["patches"]["digit"] >= MIN_DIGIT[name], "wanted": MIN_DIGIT[name], **probed},
        "g_presence": {"met": present["recall"] >= MIN_PRESENCE[name], "wanted": MIN_PRESENCE[name], **present},
    }
    if encoder.tokenizer is not None:
        accuracy = zero_shot(encoder)
        worst = min(accuracy.values())
        gates["h_zero_shot"] = {"met": worst >= MIN_ZERO_SHOT, "wanted": MIN_ZERO_SHOT, "accuracy": accuracy}
    return gates


def main() -> None:
    """The command line."""
    torch.set_num_threads(1)
    record = {
        "command": "python -m yarbus.tinyworld.tower_gates",
        "split": "validation",
        "nearest_neighbours_on_raw_scans": nearest_neighbours_on_raw_scans(),
        "towers": {name: measure(name) for name in TOWERS},
    }
    write_json(FILES / GATES, record)
    logs = read_json(FILES / RECORD)
    for name, gates in record["towers"].items():  # type: ignore[attr-defined]
        count = load_bare_encoder(f"tinyworld:{name}").model.num_parameters()
        write_text(FILES / name / "README.md", card(name, logs["parts"][name], gates, count))


if __name__ == "__main__":
    main()
