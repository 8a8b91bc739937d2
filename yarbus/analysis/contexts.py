"""What the context vector knows: clusters of contexts, their tasks, and how routing follows (methods.md 9.3 to 9.5).

The paper's letters (Fig. 3 and 6): ``c`` is a ``context``, ``t`` the ``text`` vector, ``g`` the ``routing_weights``.
Everything the paper shows of ``c`` stands here beside the same of ``t``: only what the contexts do better than the
bare question comes from looking. Ours are the silhouette, the mutual information with task labels, and every centred
figure: vectors that share a large common part are all alike by cosine, whatever they say.

Where a figure is undefined the record holds null, and ``reasons`` says why.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Int

from yarbus.analysis.clusters import (
    DRAWS,
    MIN_GROUPS,
    NUM_CLUSTERS,
    Clusters,
    adjusted_information,
    cluster,
    cosine_within_and_across,
    principal_plane,
    routing_similarity,
    silhouette,
)
from yarbus.analysis.looks import Look, Record, UndefinedError, array, looks_of
from yarbus.data.sample import Sample
from yarbus.models.observe import Observed

MAX_POINTS = 400
SMALL_COSINE = 0.01


class _Figures:
    """Figures of a record, with the reasons of those that are undefined."""

    def __init__(self) -> None:
        self.reasons: dict[str, str] = {}

    def get(self, name: str, make: Callable[[], Any], otherwise: Any) -> Any:
        try:
            return make()
        except UndefinedError as error:
            self.reasons[name] = str(error)
            return otherwise


def _codes(names: Sequence[str]) -> Int[np.ndarray, " names"]:
    return np.unique(names, return_inverse=True)[1].astype(np.int64)


def _cluster_record(
    name: str, points: np.ndarray, clusters: Clusters, looks: Sequence[Look], figures: _Figures, draws: int, seed: int
) -> Record:
    tasks, groups = _codes([look.task for look in looks]), _codes([look.group for look in looks])
    ids = [look.id for look in looks]
    unknown: Record = {"mean": None, "low": None, "high": None}
    information = figures.get(
        f"{name}.mutual_information",
        lambda: adjusted_information(clusters.labels, tasks, groups, draws, seed),
        unknown,
    )
    if information["mean"] is not None and information["low"] is None:
        figures.reasons[f"{name}.mutual_information.low"] = f"fewer than {MIN_GROUPS} different pictures or scenes"
    members = [
        [look for look, label in zip(looks, clusters.labels, strict=True) if label == number]
        for number in range(clusters.count)
    ]
    return {
        "k": clusters.count,
        "silhouette": figures.get(f"{name}.silhouette", lambda: float(silhouette(points, clusters)), None),
        "mutual_information": information,
        "clusters": [
            {
                "cluster": number,
                "size": len(own),
                "tasks": dict(Counter(look.task for look in own).most_common()),
                "nearest": clusters.nearest(points, number, ids),
            }
            for number, own in enumerate(members)
        ],
    }


def _similarity_record(name: str, points: np.ndarray, clusters: Clusters, figures: _Figures) -> Record:
    def measured(centred: bool) -> tuple[float | None, float | None]:
        place = f"similarity.{name}{'.centred' if centred else ''}"
        if not points.shape[1]:
            figures.reasons[place] = "nothing was read"
            return None, None
        return figures.get(place, lambda: cosine_within_and_across(points, clusters.labels, centred), (None, None))

    (intra, inter), (intra_centred, inter_centred) = measured(False), measured(True)
    relative = None
    if intra is not None and inter is not None:
        if inter > SMALL_COSINE:
            relative = (intra - inter) / inter
        else:
            figures.reasons[f"similarity.{name}.relative"] = "the cosine across clusters is too small to divide by"
    return {
        "intra": intra,
        "inter": inter,
        "relative": relative,
        "intra_centred": intra_centred,
        "inter_centred": inter_centred,
    }


def _routing_record(
    contexts: np.ndarray, routing_weights: Sequence[np.ndarray], figures: _Figures, seed: int
) -> Record:
    nothing = (None, None, np.zeros((0, 2)))
    found = {
        centred: figures.get(
            f"routing_similarity{'.centred' if centred else ''}",
            partial(routing_similarity, contexts, routing_weights, centred, seed=seed),
            nothing,
        )
        for centred in (False, True)
    }
    (pearson, spearman, both), (pearson_centred, spearman_centred, _) = found[False], found[True]
    shown = np.random.default_rng(seed).permutation(len(both))[:MAX_POINTS]
    return {
        "pearson": pearson,
        "spearman": spearman,
        "pearson_centred": pearson_centred,
        "spearman_centred": spearman_centred,
        "num_pairs": len(both),
        "points": both[shown].tolist(),
    }


def contexts_record(
    observed: Observed,
    samples: Mapping[str, Sample],
    labels: Mapping[str, str],
    *,
    by: str = "task",
    questions: Mapping[str, str] | None = None,
    k: int = NUM_CLUSTERS,
    draws: int = DRAWS,
    seed: int = 0,
) -> Record:
    """The record ``contexts.json`` of a run, from what was observed of a model with a router.

    ``samples`` and ``labels`` go by the row's id, ``by`` says what the labels are, ``questions`` what the eyes were
    told (see ``looks_of``). Contexts are those of the last mixture block, the layer that the features come from.
    """
    if not observed.contexts:
        raise ValueError("nothing was observed of a context: the model has no router")
    looks = looks_of(observed.sample_ids, samples, labels, questions)
    block = max(observed.contexts)
    figures = _Figures()
    points = {"context": array(observed.contexts[block]), "text": array(observed.text)}
    if not points["text"].shape[1]:  # no question reached the eyes: one and the same
        points["text"] = np.zeros((len(looks), 1))
    planes: dict[str, Any] = {}
    explained: dict[str, list[float] | None] = {}
    clusters = {name: cluster(own, k, seed) for name, own in points.items()}
    for name, own in points.items():
        flat = np.zeros((len(own), 2))
        planes[name], shares = figures.get(f"{name}.explained", partial(principal_plane, own), (flat, None))
        explained[name] = None if shares is None else shares.tolist()
    found = {
        name: _cluster_record(name, own, clusters[name], looks, figures, draws, seed) for name, own in points.items()
    }
    similarity = {
        "visual": _similarity_record("visual", array(observed.features), clusters["context"], figures),
        "text": _similarity_record("text", array(observed.text), clusters["context"], figures),
    }
    weights = [array(observed.routing_weights[each]) for each in sorted(observed.routing_weights)]
    routing = _routing_record(points["context"], weights, figures, seed)
    return {
        "block": block,
        "num_samples": len(looks),
        "by": by,
        "samples": [
            {
                "id": look.id,
                "task": look.task,
                "question": look.question,
                "image": None if look.picture is None else str(look.picture),
                "x": float(planes["context"][place, 0]),
                "y": float(planes["context"][place, 1]),
                "text_x": float(planes["text"][place, 0]),
                "text_y": float(planes["text"][place, 1]),
                "cluster": int(clusters["context"].labels[place]),
                "text_cluster": int(clusters["text"].labels[place]),
            }
            for place, look in enumerate(looks)
        ],
        "explained": explained["context"],
        "text_explained": explained["text"],
        "context": found["context"],
        "text": found["text"],
        "similarity": similarity,
        "routing_similarity": routing,
        "reasons": figures.reasons,
    }
