"""Do the updates of one training pull the eyes in one direction? (methods.md 9.2, C Fig. 5)

From the gradients that ``record: {vision_gradient: ...}`` wrote, G [steps, dim], one row per recorded update:

- ``dominant``: cos(g_s, v) with v the first right singular vector of G as it is, not centred; its sign makes the mean
  cosine positive. Long gradients count more in v, and v has seen g_s itself.
- ``leave_one_out``: cos(g_s, mean of the others), which is 0 on average where updates have nothing in common.

Both follow from the Gram matrix G G^T [steps, steps] alone. A sketched G moves each cosine by about 1 / sqrt(dim).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from scipy.linalg import eigh

from yarbus.core.errors import CheckpointError, ConfigError

SETS = ("layernorm", "all")
EDGES = np.linspace(-1, 1, 41)
NUM_QUARTERS = 4
COLUMNS = 4096
"""Columns of G in double precision at a time."""
RULE = (
    "cosine of each recorded update's unclipped gradient with the dominant direction (first right singular vector, "
    "not centred) and with the mean of the other updates; updates without any gradient are left out; a quarter is "
    "measured as if it were the whole training"
)


def gram_matrix(gradients: Float[np.ndarray, "steps dim"]) -> Float[np.ndarray, "steps steps"]:
    """Inner products of every two rows, summed in double precision."""
    steps, dim = gradients.shape
    gram = np.zeros((steps, steps))
    for start in range(0, dim, COLUMNS):
        part = gradients[:, start : start + COLUMNS].astype(np.float64)
        gram += part @ part.T
    return gram


def dominant_cosines(gram: Float[np.ndarray, "steps steps"]) -> Float[np.ndarray, " steps"]:
    """cos(g_s, v) of every step: with G G^T u = l u and v = G^T u / sqrt(l), it is sqrt(l) u_s / |g_s|."""
    last = len(gram) - 1
    value, vector = eigh(gram, subset_by_index=[last, last])
    cosines = np.sqrt(value[0]) * vector[:, 0] / np.sqrt(np.diag(gram))
    return -cosines if cosines.mean() < 0 else cosines


def leave_one_out_cosines(gram: Float[np.ndarray, "steps steps"]) -> Float[np.ndarray, " steps"]:
    """cos(g_s, sum of the others) of every step; 0 where the others cancel out."""
    own, with_all = np.diag(gram), gram.sum(axis=1)
    others = np.sqrt(np.maximum(gram.sum() - 2 * with_all + own, 0))  # |sum of the others|
    # Where the others cancel, rounding leaves something about as long as this share of the longest gradient.
    is_something = others > 1e-7 * len(gram) * np.sqrt(own.max())
    scale = np.where(is_something, others * np.sqrt(own), 1)
    return np.where(is_something, (with_all - own) / scale, 0.0)


def _spread(cosines: Float[np.ndarray, " steps"]) -> dict[str, Any]:
    counts, _ = np.histogram(np.clip(cosines, -1, 1), EDGES)
    histogram = {"edges": [round(float(edge), 2) for edge in EDGES], "counts": counts.tolist()}
    return {"mean": float(cosines.mean()), "std": float(cosines.std()), "histogram": histogram}


def _by_quarter(gram: Float[np.ndarray, "steps steps"], steps: Sequence[int]) -> list[dict[str, Any]]:
    """Means of each quarter of the recorded steps, measured within it; none where a quarter would hold one step."""
    if len(steps) < 2 * NUM_QUARTERS:
        return []
    quarters = []
    for rows in np.array_split(np.arange(len(steps)), NUM_QUARTERS):
        within = gram[np.ix_(rows, rows)]
        quarters.append(
            {
                "first_step": steps[rows[0]],
                "last_step": steps[rows[-1]],
                "dominant": float(dominant_cosines(within).mean()),
                "leave_one_out": float(leave_one_out_cosines(within).mean()),
            }
        )
    return quarters


def agreement_of(gradients: Float[np.ndarray, "steps dim"], steps: Sequence[int]) -> dict[str, Any]:
    """The measures of one set of parameters; ``steps`` names the rows. Rows of zeros have no direction and go.

    Raises ``ConfigError`` where fewer than two rows are left.
    """
    has_direction = np.abs(gradients).max(axis=1, initial=0) > 0
    kept = [step for step, keep in zip(steps, has_direction, strict=True) if keep]
    if len(kept) < 2:
        raise ConfigError(
            f"{len(kept)} recorded gradients that are not zero", why="agreement is between two", fix=_more()
        )
    gram = gram_matrix(gradients[has_direction])
    return {
        "num_zero_steps": len(steps) - len(kept),
        "dominant": _spread(dominant_cosines(gram)),
        "leave_one_out": _spread(leave_one_out_cosines(gram)),
        "by_quarter": _by_quarter(gram, kept),
    }


def _more(every: int = 10) -> str:
    return f"train with record: {{vision_gradient: {{every: {every}}}}}, or a smaller number"


def _read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """One update's vectors and what its file says about them."""
    try:
        with safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
            vectors = {name: file.get_tensor(name) for name in SETS}
        int(metadata["step"])
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        why = f"{type(error).__name__}: {error}"
        raise CheckpointError("damaged record", where=path, why=why, fix="remove the file") from None
    return vectors, metadata


def _facts(metadata: dict[str, str]) -> dict[str, str]:
    """What all files of a stage must have in common."""
    return {key: value for key, value in metadata.items() if key != "step"}


def agreement(run: Path, stage: str) -> dict[str, Any]:
    """The agreement record (``analysis/agreement.json``) of a stage of a run that recorded its gradients.

    ``sets`` holds ``layernorm`` and ``all``; one in which no tensor trains is left out.

    Raises:
        ConfigError: the stage recorded fewer than two gradients, or gradients that cannot be compared.
        CheckpointError: a file is damaged.
    """
    folder = run / "stages" / stage / "gradients"
    files = sorted(folder.glob("step-*.safetensors"), key=lambda file: (len(file.name), file.name))
    if not files:
        why = "the stage recorded none: it was not asked to, or no tensor of the vision tower trains in it"
        raise ConfigError("no recorded gradients", where=folder, why=why, fix=_more())
    read = [_read(file) for file in files]
    facts = _facts(read[0][1])
    for file, (_, metadata) in zip(files, read, strict=True):
        if _facts(metadata) != facts:
            odd = next(key for key in {**facts, **metadata} if key != "step" and metadata.get(key) != facts.get(key))
            why = f"{odd} is {metadata.get(odd)}, in {files[0].name} {facts.get(odd)}"
            raise ConfigError("gradients that cannot be compared", where=file, why=why, fix="remove those of one kind")
    steps = [int(metadata["step"]) for _, metadata in read]
    sets: dict[str, Any] = {}
    for name in SETS:
        if int(facts[f"{name}_elements"]):
            measured = agreement_of(np.stack([vectors[name] for vectors, _ in read]), steps)
            sets[name] = {"kind": facts[f"{name}_kind"], "elements": int(facts[f"{name}_elements"]), **measured}
    return {"stage": stage, "num_steps": len(steps), "sets": sets, "rule": RULE}
