"""Which experts the images of a task are sent to, block by block, and how far the experts have come apart.

The paper's ``g`` (Eq. 9) is ``routing_weights``. A router that has not left its start sends every image everywhere:
entropy near ln E. One that reads the question differs between tasks: eta squared above what chance gives.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from scipy.special import entr
from torch import nn

from yarbus.analysis.looks import Record, array, estimate, looks_of
from yarbus.data.sample import Sample
from yarbus.methods.covft import mixtures_of
from yarbus.models.observe import Observed

SAME = 1e-6
"""Routing weights that differ by less are equal: they are softmax outputs in fp32."""


def entropies(weights: Float[np.ndarray, "images experts"]) -> Float[np.ndarray, " images"]:
    """-sum w ln w of each image's weights, in nats: 0 for one expert, ln E for all alike."""
    return entr(weights).sum(axis=1)


def between_tasks(weights: Float[np.ndarray, "images experts"], tasks: Sequence[str]) -> float:
    """Eta squared: the share of the variance of routing weights, summed over experts, that lies between tasks.

    1 where a task's images are all routed alike and tasks differ, 0 where nothing varies. Labels without meaning reach
    (tasks - 1) / (images - 1) on average.
    """
    if not weights.size or np.ptp(weights, axis=0).max() <= SAME:
        return 0.0
    mean = weights.mean(axis=0)
    names = np.asarray(tasks)
    between = 0.0
    for name in np.unique(names):
        own = weights[names == name]
        between += len(own) * float(np.square(own.mean(axis=0) - mean).sum())
    return between / float(np.square(weights - mean).sum())


def _block_record(
    block: int,
    weights: Float[np.ndarray, "images experts"],
    tasks: Sequence[str],
    groups: Sequence[str],
    seed: int,
) -> Record:
    entropy, names = entropies(weights), np.asarray(tasks)
    by_task = {}
    for name in dict.fromkeys(tasks):
        own = np.flatnonzero(names == name)
        by_task[name] = {
            "weights": weights[own].mean(axis=0).tolist(),
            "entropy": estimate(entropy[own], [groups[int(place)] for place in own], seed),
        }
    return {
        "block": block,
        "entropy": estimate(entropy, groups, seed),
        "max_entropy": float(np.log(weights.shape[1])),
        "by_task": by_task,
        "between_tasks": between_tasks(weights, tasks),
        "between_tasks_by_chance": (len(by_task) - 1) / max(1, len(weights) - 1),
    }


def routing_record(
    model: nn.Module,
    observed: Observed,
    samples: Mapping[str, Sample],
    labels: Mapping[str, str],
    *,
    untrained: Observed | None = None,
    seed: int = 0,
) -> Record:
    """The record ``routing.json`` of a run, from its model and what was observed of it.

    ``samples`` and ``labels`` go by the row's id; intervals draw scenes or pictures. A mixture without a router
    (uniform routing) has an expert distance alone, the rest is null. ``untrained``: the same rows seen by the same
    method before training, the control for what tasks' words alone do to a random router.
    """
    mixtures = mixtures_of(model)
    if not mixtures:
        raise ValueError("the model has no mixture of experts")
    looks = looks_of(observed.sample_ids, samples, labels)
    tasks, groups = [look.task for look in looks], [look.group for look in looks]
    by_block = []
    for block, mixture in sorted(mixtures.items()):
        record: Record = {
            "block": block,
            "entropy": None,
            "max_entropy": float(np.log(mixture.num_experts)),
            "by_task": {},
            "between_tasks": None,
            "between_tasks_by_chance": None,
        }
        if block in observed.routing_weights:
            record = _block_record(block, array(observed.routing_weights[block]), tasks, groups, seed)
        if untrained is not None and block in untrained.routing_weights:
            fresh = array(untrained.routing_weights[block])
            record["untrained"] = {
                "entropy": float(entropies(fresh).mean()), "between_tasks": between_tasks(fresh, tasks)
            }  # fmt: skip
        by_block.append({**record, "expert_distance": mixture.expert_distance()})
    return {
        "blocks": sorted(mixtures),
        "num_experts": max(mixture.num_experts for mixture in mixtures.values()),
        "tasks": dict(Counter(tasks)),
        "by_block": by_block,
    }
