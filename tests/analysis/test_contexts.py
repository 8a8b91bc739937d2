"""Contexts against slow loops, known answers and points that define nothing."""

import json
import warnings
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr
from sklearn.decomposition import PCA

from tests import tiny
from tests.analysis.seen import ASKED, observed_on, planted, rows_of
from yarbus.analysis.clusters import (
    adjusted_information,
    are_all_same,
    cluster,
    cosine_of_pairs,
    cosine_within_and_across,
    num_different,
    principal_plane,
    random_pairs,
    routing_similarity,
    silhouette,
)
from yarbus.analysis.contexts import contexts_record
from yarbus.analysis.looks import UndefinedError


@pytest.fixture(autouse=True)
def no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def blobs(number=60, dim=8, clusters=3, spread=0.05, seed=0):
    """Points around distant centres, and the centre of each."""
    random = np.random.default_rng(seed)
    centres = random.standard_normal((clusters, dim))
    owner = np.arange(number) % clusters
    return centres[owner] + spread * random.standard_normal((number, dim)), owner.astype(np.int64)


@pytest.mark.parametrize("shape", [(60, 8), (8, 60), (60, 2)])
def test_the_plane_is_that_of_scikit_learn_up_to_the_sign_of_an_axis(shape):
    points = np.random.default_rng(1).standard_normal(shape) * np.linspace(1, 3, shape[1])
    plane, explained = principal_plane(points)
    reference = PCA(2, svd_solver="full").fit(points)
    expected = reference.transform(points)
    np.testing.assert_allclose(explained, reference.explained_variance_ratio_, rtol=1e-9)
    np.testing.assert_allclose(np.abs(plane), np.abs(expected), atol=1e-9)
    assert (plane[np.abs(plane).argmax(axis=0), [0, 1]] > 0).all()


@pytest.mark.parametrize("dim", [1, 5, 90])
def test_points_on_a_line_have_one_axis(dim):
    line = np.linspace(-1, 1, 20)[:, None] * np.linspace(1, 2, dim)
    plane, explained = principal_plane(line)
    assert explained == pytest.approx([1.0, 0.0], abs=1e-9)
    assert np.abs(plane[:, 1]).max() < 1e-6 * np.abs(plane[:, 0]).max()


def test_rounding_makes_no_new_points():
    points = np.repeat(np.random.default_rng(0).standard_normal((3, 5)), 10, axis=0)
    points[5] *= 1 + 1e-7
    assert num_different(points) == 3 and not are_all_same(points)
    assert num_different(points[:10]) == 1 and are_all_same(points[:10])
    assert num_different(np.zeros((4, 2))) == 1


def test_separated_points_are_clustered_as_they_were_made_the_largest_first():
    points, owner = blobs(61)
    clusters = cluster(points, 3)
    assert np.bincount(clusters.labels).tolist() == [21, 20, 20]
    assert len(set(zip(clusters.labels.tolist(), owner.tolist(), strict=True))) == 3
    for number in range(3):
        own = points[clusters.labels == number]
        np.testing.assert_allclose(clusters.centroids[number], own.mean(axis=0))
        names = [str(place) for place in range(61)]
        distances = {place: np.linalg.norm(points[place] - own.mean(axis=0)) for place in range(61)}
        mine = [place for place in distances if clusters.labels[place] == number]
        expected = sorted(mine, key=distances.__getitem__)[:4]
        assert clusters.nearest(points, number, names) == [str(place) for place in expected]
    again = cluster(points, 3)
    assert np.array_equal(again.labels, clusters.labels)


def test_no_more_clusters_than_different_points():
    points = np.repeat(np.eye(4), 5, axis=0)
    clusters = cluster(points, 10)
    assert clusters.count == 4
    assert silhouette(points, clusters) == 1.0
    assert cluster(np.zeros((6, 3))).count == 1


def test_silhouette_equals_its_definition():
    points, _ = blobs(20, spread=0.5)
    clusters = cluster(points, 3)
    values = []
    for place, own in enumerate(clusters.labels):
        mean = {}
        for label in range(3):
            others = [i for i in range(20) if clusters.labels[i] == label and i != place]
            mean[label] = np.mean([np.linalg.norm(points[place] - points[i]) for i in others])
        a, b = mean.pop(own), min(mean.values())
        values.append((b - a) / max(a, b))
    assert silhouette(points, clusters) == pytest.approx(np.mean(values))
    with pytest.raises(UndefinedError, match="one cluster"):
        silhouette(np.zeros((4, 2)), cluster(np.zeros((4, 2))))
    with pytest.raises(UndefinedError, match="of its own"):
        silhouette(np.eye(3), cluster(np.eye(3)))


def test_two_separated_clusters_agree_fully_with_their_tasks():
    points, owner = blobs(clusters=2)
    found = adjusted_information(cluster(points, 2).labels, owner, np.arange(60))
    assert found == {"mean": pytest.approx(1.0), "low": pytest.approx(1.0), "high": pytest.approx(1.0)}


def unrelated(seed, number=200):
    random = np.random.default_rng(seed)
    return random.integers(8, size=number), random.integers(5, size=number)


def test_unrelated_labels_agree_by_chance_and_the_interval_says_so():
    """The plain bootstrap's interval holds 0 in 8 of 100 such cases."""
    found = [adjusted_information(*unrelated(seed), np.arange(200), draws=60, seed=seed) for seed in range(15)]
    assert abs(np.mean([one["mean"] for one in found])) < 0.02
    assert sum(one["low"] <= 0 <= one["high"] for one in found) >= 14


def test_the_interval_covers_what_endless_data_would_show():
    def drawn(seed, number):
        random = np.random.default_rng(seed)
        tasks = random.integers(6, size=number)
        return np.where(random.random(number) < 0.5, tasks, random.integers(6, size=number)), tasks

    truth = adjusted_information(*drawn(0, 30_000), np.zeros(30_000, dtype=np.int64))["mean"]
    found = [adjusted_information(*drawn(seed, 300), np.arange(300), draws=100, seed=seed) for seed in range(1, 21)]
    assert sum(one["low"] <= truth <= one["high"] for one in found) >= 16


def test_scenes_are_drawn_whole_and_too_few_give_no_interval():
    clusters, tasks = unrelated(0)
    few = adjusted_information(clusters, tasks, np.arange(200) % 7)
    assert (few["low"], few["high"]) == (None, None) and few["mean"] is not None
    once = adjusted_information(clusters[:50], tasks[:50], np.arange(50), draws=50)
    copied = adjusted_information(
        np.tile(clusters[:50], 4), np.tile(tasks[:50], 4), np.tile(np.arange(50), 4), draws=50
    )
    assert copied["high"] - copied["low"] > 0.5 * (once["high"] - once["low"])
    for labels in ((np.zeros(200, dtype=np.int64), tasks), (clusters, np.zeros(200, dtype=np.int64))):
        with pytest.raises(UndefinedError):
            adjusted_information(*labels, np.arange(200))


@pytest.mark.parametrize("centred", [False, True])
def test_cosine_within_and_across_equals_a_loop_over_pairs(centred):
    points, owner = blobs(30)
    moved = points - points.mean(axis=0) if centred else points
    units = [point / np.linalg.norm(point) for point in moved]
    cosines = {(i, j): units[i] @ units[j] for i, j in combinations(range(30), 2)}
    within = [value for (i, j), value in cosines.items() if owner[i] == owner[j]]
    across = [value for (i, j), value in cosines.items() if owner[i] != owner[j]]
    found = cosine_within_and_across(points, owner, centred)
    assert found == (pytest.approx(np.mean(within)), pytest.approx(np.mean(across)))


def test_points_without_a_direction_count_in_no_cosine():
    points, owner = blobs(30)
    points[4] = 0
    rest = np.arange(30) != 4
    assert cosine_within_and_across(points, owner) == cosine_within_and_across(points[rest], owner[rest])
    for same in (np.zeros((6, 3)), np.ones((6, 3))):
        with pytest.raises(UndefinedError):
            cosine_within_and_across(same, np.arange(6) % 2, centred=True)
    with pytest.raises(UndefinedError):
        cosine_within_and_across(points, np.zeros(30, dtype=np.int64))


def test_pairs_are_all_where_they_fit_and_random_different_ones_else():
    assert random_pairs(5).tolist() == [list(pair) for pair in combinations(range(5), 2)]
    assert random_pairs(1).shape == (0, 2)
    drawn = random_pairs(1000, limit=5000, seed=1)
    assert drawn.shape == (5000, 2) and (drawn[:, 0] != drawn[:, 1]).all()
    assert abs(drawn.mean() - 499.5) < 15 and len(np.unique(drawn)) > 990
    assert np.array_equal(drawn, random_pairs(1000, limit=5000, seed=1))
    assert not np.array_equal(drawn, random_pairs(1000, limit=5000, seed=2))


def softmax(logits):
    exponents = np.exp(logits)
    return exponents / exponents.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("centred", [False, True])
def test_routing_similarity_equals_equation_and_scipy_over_all_pairs(centred):
    points, _ = blobs(25)
    weights = [softmax(points @ np.random.default_rng(block).standard_normal((8, 4))) for block in range(3)]
    vectors = np.concatenate(weights, axis=1) - (0.25 if centred else 0)

    def cosine(a, b):
        return a @ b / np.linalg.norm(a) / np.linalg.norm(b)

    pairs = list(combinations(range(25), 2))
    x = [cosine(points[i], points[j]) for i, j in pairs]
    y = [cosine(vectors[i], vectors[j]) for i, j in pairs]
    pearson, spearman, both = routing_similarity(points, weights, centred)
    assert pearson == pytest.approx(pearsonr(x, y).statistic)
    assert spearman == pytest.approx(spearmanr(x, y).statistic)
    np.testing.assert_allclose(both, np.stack([x, y], axis=1), atol=1e-12)


def test_raw_routing_vectors_look_alike_and_centred_ones_do_not():
    """The common part 1/E hides where images are sent: why 9.5 is given centred too."""
    points, _ = blobs(40, clusters=4)
    weights = [softmax(0.05 * points @ np.random.default_rng(0).standard_normal((8, 4)))]
    raw, centred = (routing_similarity(points, weights, kind)[2][:, 1] for kind in (False, True))
    assert raw.min() > 0.98 and centred.min() < 0


def test_cosines_of_pairs_do_not_depend_on_the_chunks():
    points = np.random.default_rng(0).standard_normal((300, 4))
    pairs = random_pairs(300)
    expected = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in points[pairs]]
    np.testing.assert_allclose(cosine_of_pairs(points, pairs), expected)


def separated(number=64):
    """Contexts by task, routing by task, text and features that know nothing of it."""
    random = np.random.default_rng(0)
    contexts, owner = blobs(number, clusters=2)
    routing = np.where(owner[:, None] == 0, [0.7, 0.1, 0.1, 0.1], [0.1, 0.1, 0.1, 0.7])
    routing = routing + random.uniform(0, 0.01, routing.shape)
    seen = planted(
        {1: np.zeros((number, 3)), 2: contexts},
        text=random.standard_normal((number, 6)) + 3,
        features=np.eye(4)[np.arange(number) // 2 % 4] - 0.25,  # cosines across add up to less than nothing
        routing={1: np.full((number, 4), 0.25), 2: routing / routing.sum(axis=1, keepdims=True)},
    )
    rows, labels = rows_of(["ab"[task] for task in owner], groups=[str(place // 2) for place in range(number)])
    return seen, rows, labels


def test_planted_clusters_are_found_in_the_contexts_and_not_in_the_text():
    seen, rows, labels = separated()
    record = contexts_record(seen, rows, labels, by="source", k=2, draws=50)
    assert (record["block"], record["num_samples"], record["by"]) == (2, 64, "source")
    assert record["context"]["mutual_information"]["low"] == pytest.approx(1.0)
    assert record["context"]["silhouette"] > 0.8
    assert abs(record["text"]["mutual_information"]["mean"]) < 0.1
    assert [part["tasks"] for part in record["context"]["clusters"]] == [{"a": 32}, {"b": 32}]
    assert all(len(part["nearest"]) == 4 for part in record["context"]["clusters"])
    assert sum(part["size"] for part in record["text"]["clusters"]) == 64
    assert record["routing_similarity"]["pearson"] > 0.99
    assert record["routing_similarity"]["num_pairs"] == 64 * 63 // 2
    assert len(record["routing_similarity"]["points"]) == 400
    visual = record["similarity"]["visual"]
    assert abs(visual["intra"] - visual["inter"]) < 0.1
    text = record["similarity"]["text"]
    assert text["relative"] == pytest.approx((text["intra"] - text["inter"]) / text["inter"])
    assert text["inter"] > 0.5 > abs(text["inter_centred"])
    first = record["samples"][0]
    assert set(first) == {
        "id", "task", "question", "image", "x", "y", "text_x", "text_y", "cluster", "text_cluster",
    }  # fmt: skip
    assert (first["id"], first["task"], first["question"], first["image"]) == ("row-0", "a", "a 0 ?", "0.png")
    assert set(record["reasons"]) == {"similarity.visual.relative"} and visual["relative"] is None
    assert record["explained"][0] > 0.8
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert contexts_record(seen, rows, labels, by="source", k=2, draws=50) == record


@pytest.mark.parametrize("kind", ["frozen", "nearly frozen", "one sample", "two samples"])
def test_points_that_define_nothing_give_null_and_the_reason(kind):
    number = {"one sample": 1, "two samples": 2}.get(kind, 30)
    contexts = np.ones((number, 6))
    if kind == "nearly frozen":
        contexts *= 1 + 1e-7 * np.random.default_rng(0).standard_normal((number, 6))
    seen = planted(contexts, text=np.ones((number, 4)), routing=np.full((number, 4), 0.25))
    record = contexts_record(seen, *rows_of(["ab"[place % 2] for place in range(number)]))
    assert json.dumps(record, allow_nan=False)
    for name in ("context", "text"):
        assert record[name]["k"] == 1 and record[name]["silhouette"] is None
        assert record[name]["mutual_information"] == {"mean": None, "low": None, "high": None}
        assert f"{name}.silhouette" in record["reasons"] and f"{name}.mutual_information" in record["reasons"]
    assert record["explained"] is None and "context.explained" in record["reasons"]
    assert {(one["x"], one["y"], one["cluster"]) for one in record["samples"]} == {(0.0, 0.0, 0)}
    assert record["routing_similarity"] == {
        "pearson": None, "spearman": None, "pearson_centred": None, "spearman_centred": None,
        "num_pairs": 0, "points": [],
    }  # fmt: skip
    assert record["reasons"]["routing_similarity"] == "all contexts are the same"
    assert record["similarity"]["visual"]["intra"] is None


def test_routing_that_has_not_left_its_start_is_named():
    points, owner = blobs(30)
    even = planted(points, text=points, routing=np.full((30, 4), 0.25) + 1e-8 * points[:, :4])
    record = contexts_record(even, *rows_of(["abc"[task] for task in owner]))
    assert record["reasons"]["routing_similarity"] == "all images are routed alike"
    assert record["context"]["silhouette"] is not None


def test_a_few_different_questions_are_as_many_text_clusters():
    points, owner = blobs(40, clusters=4)
    questions = np.eye(4)[owner]
    record = contexts_record(planted(points, text=questions), *rows_of(["abcd"[task] for task in owner]), draws=20)
    assert record["text"]["k"] == 4 and record["text"]["silhouette"] == 1.0
    assert record["text"]["mutual_information"]["mean"] == pytest.approx(1.0)


def test_text_and_labels_may_be_missing_or_all_alike():
    points, _ = blobs(30)
    record = contexts_record(planted(points), *rows_of(["read"] * 30))
    assert record["context"]["mutual_information"]["mean"] is None
    assert record["reasons"]["context.mutual_information"] == "all samples have one label"
    assert record["text_explained"] is None and record["similarity"]["text"]["intra"] is None
    assert record["context"]["silhouette"] is not None


def test_a_model_without_a_router_has_no_contexts():
    unrouted = replace(planted(np.zeros((1, 2))), contexts={}, routing_weights={})
    with pytest.raises(ValueError, match="no router"):
        contexts_record(unrouted, {}, {})


@pytest.mark.parametrize("kind", ["cve-dense", "text-dense"])
@pytest.mark.parametrize("family", list(tiny.FAMILIES))
def test_a_real_model_of_every_family_gives_a_whole_record(family, kind, text_encoder, pictures, tmp_path):
    _, _, seen, rows, labels = observed_on(family, text_encoder, pictures[:4], tmp_path, kind)
    record = contexts_record(seen, rows, labels, draws=20)
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert record["num_samples"] == 24 and record["block"] == max(seen.contexts)
    assert {one["image"] for one in record["samples"]} == {str(tmp_path / f"{number}.png") for number in range(4)}
    num_questions = sum(map(len, ASKED.values()))
    assert record["text"]["k"] == num_questions, "each question is one point, whatever picture it is asked of"
    assert record["context"]["k"] == (10 if kind == "cve-dense" else num_questions)
    if kind == "text-dense":  # the context is the question: pictures add nothing
        of_question = {}
        for one in record["samples"]:
            of_question.setdefault(one["question"], set()).add(one["cluster"])
        assert all(len(found) == 1 for found in of_question.values())
    assert record["routing_similarity"]["pearson"] is not None
    assert contexts_record(seen, rows, labels, draws=20) == record
