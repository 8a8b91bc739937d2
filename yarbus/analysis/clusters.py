"""How points lie to each other: clusters, what those know of labels, and cosines (methods.md 9.3 to 9.5).

Points that lie on each other (contexts of an untrained router, few different questions) define less: then
``UndefinedError`` says why.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.stats import rankdata
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import adjusted_mutual_info_score, silhouette_score

from yarbus.analysis.looks import Record, UndefinedError

NUM_CLUSTERS = 10
"""Fig. 6 discusses clusters 0 to 9."""
RESTARTS = 10
NEAREST = 4
"""Samples shown per cluster (Fig. 6)."""
MAX_PAIRS = 200_000
DRAWS = 400
MIN_GROUPS = 8
"""Fewer groups than this give no interval."""
SAME = 1e-5
"""Numbers that differ by less than this part of the largest one are equal: fp32, another batch size."""


def _scale(points: Float[np.ndarray, "points dim"]) -> float:
    return float(np.abs(points).max(initial=0.0)) or 1.0


def are_all_same(points: Float[np.ndarray, "points dim"]) -> bool:
    """Whether the points lie on each other, rounding aside."""
    return not points.size or bool(np.ptp(points, axis=0).max() <= SAME * _scale(points))


def num_different(points: Float[np.ndarray, "points dim"]) -> int:
    """Points that do not lie on an earlier one, rounding aside."""
    if are_all_same(points):
        return min(1, len(points))
    return len({row.tobytes() for row in np.round(points / (SAME * _scale(points))) + 0.0})


def principal_plane(
    points: Float[np.ndarray, "points dim"],
) -> tuple[Float[np.ndarray, "points 2"], Float[np.ndarray, " 2"]]:
    """Coordinates on the two axes of largest variance (PCA), and the share of the variance on each.

    On each axis the outermost point lies on the positive side, so that the same points give the same picture.
    """
    if are_all_same(points):
        raise UndefinedError("all points lie on each other")
    centred = points - points.mean(axis=0)
    is_wide = points.shape[1] > len(points)  # the smaller of the two Gram matrices has the same spectrum
    values, vectors = np.linalg.eigh(centred @ centred.T if is_wide else centred.T @ centred)
    values, vectors = np.clip(values[::-1][:2], 0, None), vectors[:, ::-1][:, :2]
    found = vectors * np.sqrt(values) if is_wide else centred @ vectors
    found = found * np.where(found[np.abs(found).argmax(axis=0), range(found.shape[1])] < 0, -1.0, 1.0)
    plane, explained = np.zeros((len(points), 2)), np.zeros(2)
    plane[:, : len(values)] = found
    explained[: len(values)] = values / np.square(centred).sum()
    return plane, explained


@dataclass(frozen=True)
class Clusters:
    """Points and the cluster each belongs to; cluster 0 is the largest."""

    labels: Int[np.ndarray, " points"]
    centroids: Float[np.ndarray, "clusters dim"]

    @property
    def count(self) -> int:
        return len(self.centroids)

    def nearest(self, points: Float[np.ndarray, "points dim"], cluster: int, names: Sequence[str]) -> list[str]:
        """The different names of the members nearest to the centroid, nearest first."""
        members = np.flatnonzero(self.labels == cluster)
        distances = np.linalg.norm(points[members] - self.centroids[cluster], axis=1)
        ordered = members[np.argsort(distances, kind="stable")]
        return list(dict.fromkeys(names[member] for member in ordered))[:NEAREST]


def cluster(points: Float[np.ndarray, "points dim"], k: int = NUM_CLUSTERS, seed: int = 0) -> Clusters:
    """k-means with 10 restarts, Euclidean on the raw points (9.3); no more clusters than different points."""
    k = min(k, num_different(points))
    with warnings.catch_warnings():
        # Points that differ by rounding alone may leave a cluster empty: it is dropped below, not reported missing.
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = KMeans(k, n_init=RESTARTS, random_state=seed).fit(points)
    sizes = np.bincount(found.labels_, minlength=k)
    first = [int(np.argmax(found.labels_ == label)) for label in range(k)]
    order = sorted((label for label in range(k) if sizes[label]), key=lambda label: (-sizes[label], first[label]))
    rank = np.zeros(k, dtype=np.int64)
    rank[order] = np.arange(len(order))
    return Clusters(rank[found.labels_], found.cluster_centers_[order].astype(np.float64))


def silhouette(points: Float[np.ndarray, "points dim"], clusters: Clusters) -> float:
    """Mean silhouette (Rousseeuw 1987): 1 is far apart, 0 touching, below 0 in the wrong cluster."""
    if clusters.count < 2:
        raise UndefinedError("one cluster: all points lie on each other")
    if clusters.count >= len(points):
        raise UndefinedError("every point is a cluster of its own")
    return float(silhouette_score(points, clusters.labels))


def _adjusted_information(a: np.ndarray, b: np.ndarray) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # "more classes than half of the samples": they are classes
        return float(adjusted_mutual_info_score(a, b))


def adjusted_information(
    clusters: Int[np.ndarray, " points"],
    labels: Int[np.ndarray, " points"],
    groups: Int[np.ndarray, " points"],
    draws: int = DRAWS,
    seed: int = 0,
) -> Record:
    """Adjusted mutual information of clusters and labels (Vinh et al. 2010): 0 is chance, 1 is agreement.

    The interval is that of random halves of the groups, drawn without replacement. Half-samples vary as the whole
    sample does, and a group that is drawn twice, as in the bootstrap, would be agreement that the adjustment for
    chance does not expect: the interval of unrelated labels would lie above 0.
    """
    if len(np.unique(clusters)) < 2:
        raise UndefinedError("one cluster: all points lie on each other")
    if len(np.unique(labels)) < 2:
        raise UndefinedError("all samples have one label")
    record: Record = {"mean": _adjusted_information(clusters, labels), "low": None, "high": None}
    names, members = np.unique(groups, return_inverse=True)
    if len(names) < MIN_GROUPS:
        return record
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(draws):
        half = np.zeros(len(names), dtype=bool)
        half[generator.permutation(len(names))[: len(names) // 2]] = True
        kept = half[members]
        found.append(_adjusted_information(clusters[kept], labels[kept]))
    low, high = np.quantile(found, (0.025, 0.975))
    return {**record, "low": float(low), "high": float(high)}


def _units(points: Float[np.ndarray, "points dim"], smallest: float) -> Float[np.ndarray, "points dim"]:
    """Points as unit vectors; NaN for one that is no longer than ``smallest``, which has no direction."""
    lengths = np.linalg.norm(points, axis=1, keepdims=True)
    return np.divide(points, lengths, out=np.full_like(points, np.nan), where=lengths > smallest)


def cosine_within_and_across(
    points: Float[np.ndarray, "points dim"], clusters: Int[np.ndarray, " points"], centred: bool = False
) -> tuple[float, float]:
    """Mean cosine over all pairs of one cluster, and over all pairs of two clusters (9.4).

    From sums of unit vectors: the sum over a set's pairs is (||sum||^2 - n) / 2. ``centred``: around the mean of all.
    """
    smallest = SAME * _scale(points)
    if centred:
        points = points - points.mean(axis=0)
    units = _units(points, smallest)
    known = ~np.isnan(units[:, 0]) if units.size else np.zeros(len(points), dtype=bool)
    units, clusters = units[known], clusters[known]

    def pairs(members: Float[np.ndarray, "members dim"]) -> tuple[float, int]:
        total = members.sum(axis=0)
        return (float(total @ total) - len(members)) / 2, len(members) * (len(members) - 1) // 2

    inside = [pairs(units[clusters == label]) for label in np.unique(clusters)]
    inner, num_inner = sum(total for total, _ in inside), sum(count for _, count in inside)
    whole, num_whole = pairs(units)
    if not num_inner or num_whole == num_inner:
        raise UndefinedError("there are not both pairs within clusters and pairs across")
    return inner / num_inner, (whole - inner) / (num_whole - num_inner)


def random_pairs(count: int, limit: int = MAX_PAIRS, seed: int = 0) -> Int[np.ndarray, "pairs 2"]:
    """All pairs of ``count`` things, or ``limit`` random ones where there are more."""
    if count * (count - 1) // 2 <= limit:
        return np.stack(np.triu_indices(count, k=1), axis=1)
    generator = np.random.default_rng(seed)
    first = generator.integers(count, size=limit)
    second = generator.integers(count - 1, size=limit)
    return np.stack([first, second + (second >= first)], axis=1)


def cosine_of_pairs(
    points: Float[np.ndarray, "points dim"], pairs: Int[np.ndarray, "pairs 2"], smallest: float = 0.0
) -> Float[np.ndarray, " pairs"]:
    """Cosine of each pair; NaN where one of the two is no longer than ``smallest`` and has no direction."""
    units = _units(points, smallest)
    found = np.empty(len(pairs))
    for start in range(0, len(pairs), 20_000):  # bounds memory at wide contexts
        left, right = pairs[start : start + 20_000].T
        found[start : start + 20_000] = np.einsum("pd,pd->p", units[left], units[right])
    return found


def correlations(x: Float[np.ndarray, " pairs"], y: Float[np.ndarray, " pairs"]) -> tuple[float, float]:
    """Pearson's and Spearman's correlation; pairs without a cosine are left out."""
    known = np.isfinite(x) & np.isfinite(y)
    x, y = x[known], y[known]
    if len(x) < 3:
        raise UndefinedError("fewer than three pairs")
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        raise UndefinedError("one of the two similarities is the same for every pair")
    pearson, spearman = (np.corrcoef(a, b)[0, 1] for a, b in ((x, y), (rankdata(x), rankdata(y))))
    return float(pearson), float(spearman)


def routing_similarity(
    contexts: Float[np.ndarray, "images dim"],
    routing_weights: Sequence[Float[np.ndarray, "images experts"]],
    centred: bool = False,
    limit: int = MAX_PAIRS,
    seed: int = 0,
) -> tuple[float, float, Float[np.ndarray, "pairs 2"]]:
    """Do similar contexts route alike (9.5)? Pearson, Spearman, and both cosines of each pair of images.

    An image's routing vector is its weights of all blocks, one after the other; ``centred`` takes 1/E off each weight,
    which all softmax vectors have in common.
    """
    if are_all_same(contexts):
        raise UndefinedError("all contexts are the same")
    if all(are_all_same(weights) for weights in routing_weights):
        raise UndefinedError("all images are routed alike")
    shift = 1.0 if centred else 0.0
    routing = np.concatenate([weights - shift / weights.shape[1] for weights in routing_weights], axis=1)
    pairs = random_pairs(len(contexts), limit, seed)
    both = np.stack([cosine_of_pairs(contexts, pairs), cosine_of_pairs(routing, pairs, smallest=SAME)], axis=1)
    return *correlations(both[:, 0], both[:, 1]), both
