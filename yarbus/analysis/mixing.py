"""How much each task's answers rely on the image's branch: the weights ``w_v`` of a head that mixes (CARPE Table 4).

A weight that depends on the question should differ between tasks; one that only the wording of a task decides could be
a constant of that task, so the spread within tasks stands beside the difference between them.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from yarbus.analysis.looks import Record, array, estimate
from yarbus.analysis.routing import between_tasks
from yarbus.models.slot import Recorder

BINS = 40
"""Of the histogram of weights between 0 and 1."""


def answer_weights(recorder: Recorder) -> Float[np.ndarray, " rows"]:
    """``w_v`` at each row's last position of text, where a prompt's answer begins, in the order of the forwards."""
    found = []
    for weight, is_text in zip(recorder.of("vision_weight")[0], recorder.of("is_text")[0], strict=True):
        values = array(weight).reshape(len(weight), -1)
        last = is_text.shape[1] - 1 - is_text.flip(1).int().argmax(dim=1)
        found.append(values[np.arange(len(values)), last.numpy()])
    return np.concatenate(found)


def mixing_record(
    weights: Float[np.ndarray, " rows"], tasks: Sequence[str], groups: Sequence[str], seed: int = 0
) -> Record:
    """Mean, spread and distribution of ``w_v`` by task, and the share of its variance that lies between tasks.

    ``groups``: what must not count twice in an interval, a scene or picture per row. ``sd`` is the spread over the
    questions of a task, not the error of its mean.
    """
    names, by_task = np.asarray(tasks), {}
    for name in dict.fromkeys(tasks):
        own = np.flatnonzero(names == name)
        counts, _ = np.histogram(weights[own], bins=BINS, range=(0.0, 1.0))
        by_task[name] = {
            "n": len(own),
            "vision_weight": estimate(weights[own], [groups[int(place)] for place in own], seed),
            "sd": float(weights[own].std()),
            "distinct": len(np.unique(weights[own].round(6))),
            "histogram": counts.tolist(),
        }
    return {
        "tasks": by_task,
        "between_tasks": between_tasks(weights[:, None], tasks),
        "between_tasks_by_chance": (len(by_task) - 1) / max(1, len(weights) - 1),
    }
