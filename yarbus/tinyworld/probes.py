"""What the frozen tower knows of a single digit: linear probes on its features, with validation scans held out."""

from collections.abc import Callable

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from transformers import LlavaForConditionalGeneration

from yarbus.tinyworld.base import features_of
from yarbus.tinyworld.scene import SCANS, Scene, draw_scene, load_scans, render
from yarbus.tinyworld.tower import normalise

PROBE_SEED = 2101
NUM_SINGLES = {"train": 4000, "validation": 1000}
ATTRIBUTES: dict[str, Callable[[Scene], str]] = {
    "digit": lambda scene: str(scene.digits[0].digit),
    "colour": lambda scene: scene.digits[0].colour,
    "size": lambda scene: scene.digits[0].size,
    "lean": lambda scene: scene.digits[0].lean,
    "cell": lambda scene: scene.digits[0].cell,
    "ground": lambda scene: scene.ground,
}


def singles(split: str) -> list[Scene]:
    """Scenes of one digit, of every size, tilt and place."""
    return [draw_scene(split, (PROBE_SEED, number), num_digits=(1, 1)) for number in range(NUM_SINGLES[split])]


def pooled_features(model: LlavaForConditionalGeneration, pictures: list[np.ndarray]) -> np.ndarray:
    """Mean and maximum over patches of what the projector would get, ``[pictures, 192]``."""
    rows = []
    for start in range(0, len(pictures), 200):
        features = features_of(model, normalise(np.stack(pictures[start : start + 200])))
        rows.append(torch.cat([features.mean(1), features.amax(1)], dim=1).numpy())
    return np.concatenate(rows)


def linear_probe() -> Pipeline:
    """Logistic regression, not yet fitted."""
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=300, C=0.1))


def probe(model: LlavaForConditionalGeneration) -> dict[str, float]:
    """Held-out accuracy of one linear probe per attribute."""
    train, held_out = singles("train"), singles("validation")
    features, held_out_features = (pooled_features(model, list(map(render, some))) for some in (train, held_out))
    accuracy = {}
    for name, attribute in ATTRIBUTES.items():
        classifier = linear_probe().fit(features, [attribute(scene) for scene in train])
        accuracy[name] = float(classifier.score(held_out_features, [attribute(scene) for scene in held_out]))
    return accuracy


def nearest_neighbours_on_raw_scans() -> float:
    """Held-out digit accuracy of 3-NN on the 8 x 8 scans themselves: how hard the handwriting is."""
    ink, digits = load_scans()
    train, held_out = slice(*SCANS["train"]), slice(*SCANS["validation"])
    classifier = KNeighborsClassifier(3).fit(ink[train].reshape(-1, 64), digits[train])
    return float(classifier.score(ink[held_out].reshape(-1, 64), digits[held_out]))
