"""Rows told apart by what they ask for: by task, else by source, else by the words of their questions.

A comparison of tasks needs groups of rows. Most data do not name tasks; what comes next best is where the rows came
from, and last the wording of the questions. Only rows with a picture count: the eyes see nothing of the others.
"""

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from textwrap import shorten
from typing import Literal

import numpy as np
from sklearn.cluster import KMeans
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics import silhouette_score

from yarbus.core.errors import DataError
from yarbus.data.sample import Sample

MAX_CLUSTERS = 8
MAX_FOLDERS = 12
"""More folders than this are shards, not sources."""
CLUSTERED_ROWS = 2000
"""Rows that clusters are found on; the others join the nearest."""
WORDS_KEPT = 5000
NAMING_WORDS = 3
_AT_ONCE = 20_000
_SPLITS = {"train", "val", "valid", "validation", "test", "dev"}


@dataclass(frozen=True, kw_only=True)
class Grouping:
    """Which group each sample belongs to."""

    by: Literal["task", "source", "question cluster"]
    """What tells the groups apart."""
    labels: list[str]
    """Name of each sample's group; empty where the sample shows no picture and is left out."""
    names: list[str]
    """The groups, at least two: tasks and sources in the order of the data, clusters by size."""

    @property
    def num_left_out(self) -> int:
        """Samples without a picture."""
        return self.labels.count("")

    def sizes(self) -> dict[str, int]:
        """Samples in each group."""
        counts = Counter(self.labels)
        return {name: counts[name] for name in self.names}


def _asked(sample: Sample) -> str:
    """All that the user says."""
    return " ".join(filter(None, (turn.words for turn in sample.turns if turn.role == "user")))


def _drawn(seed: int, *parts: object) -> bytes:
    """A random number that belongs to these parts, wherever they stand in the data."""
    return sha256("\0".join(map(str, (seed, *parts))).encode("utf-8", "surrogatepass")).digest()


def _row_key(sample: Sample, seed: int) -> bytes:
    return _drawn(seed, sample.id, _asked(sample), *(path.name for path in sample.images))


def _file(sample: Sample) -> str:
    return sample.where.rpartition(":")[0]


def _tasks(samples: Sequence[Sample]) -> list[str] | None:
    """The rows' tasks; rows that name none go by their file. None unless at least two tasks are named."""
    if len({sample.task for sample in samples} - {None, ""}) < 2:
        return None
    return [sample.task or f"{_file(sample)} (no task)".strip() for sample in samples]


def _files(samples: Sequence[Sample]) -> list[str] | None:
    """Reader and file of each row, in as few words as tell them apart; None if all rows come from one."""
    keys = [(sample.source or "no source", _file(sample) or "no file") for sample in samples]
    distinct = set(keys)
    if len(distinct) < 2:
        return None
    if len({source for source, _ in distinct}) == len(distinct):
        return [source for source, _ in keys]
    if len({file for _, file in distinct}) == len(distinct):
        return [file for _, file in keys]
    return [f"{source} {file}" for source, file in keys]


def _folders(samples: Sequence[Sample]) -> list[str] | None:
    """The folder of each row's picture below what all pictures share, as in LLaVA's mix: coco, gqa, ocr_vqa, ...

    None if these are no sources: one folder, too many, or names that differ in no more than a number or a split.
    """
    parents = [sample.images[0].parent for sample in samples]
    if len({parent.is_absolute() for parent in parents}) > 1:
        return None
    shared = Path(os.path.commonpath(set(parents)))
    tops = [next(iter(parent.relative_to(shared).parts), "") for parent in parents]
    folders = set(tops)
    words = {re.sub(r"[\W\d_]+", "", folder).lower() for folder in folders}
    if not 2 <= len(folders) <= MAX_FOLDERS or len(words) < len(folders) or words & {"", *_SPLITS}:
        return None
    return tops


def _best_clusters(points: object, limit: int, seed: int) -> KMeans:
    """k-means with the k of the highest mean silhouette, the smallest such k."""
    found = [KMeans(k, n_init=4, random_state=seed).fit(points) for k in range(2, limit + 1)]
    return max(found, key=lambda clusters: silhouette_score(points, clusters.labels_))


def _unique(names: list[str]) -> list[str]:
    """The same names, with a number where one stands again."""
    times = [names[: place + 1].count(name) for place, name in enumerate(names)]
    return [name if count == 1 else f"{name} ({count})" for name, count in zip(names, times, strict=True)]


def _clusters(samples: Sequence[Sample], seed: int) -> list[str] | None:
    """Groups of questions with similar words; None if all say the same.

    Up to eight different questions are a group each, which is what the silhouette over all rows would choose.
    """
    texts = [_asked(sample) for sample in samples]
    counts = Counter(texts)
    distinct = sorted(counts)
    if len(distinct) < 2:
        return None
    if len(distinct) <= MAX_CLUSTERS:
        names = _unique([shorten(text, 60) or "no words" for text in distinct])
        return [names[distinct.index(text)] for text in texts]
    if not any(re.search(r"\w", text) for text in distinct):
        return None

    keys = [_row_key(sample, seed) for sample in samples]
    chosen = [texts[row] for row in sorted(range(len(texts)), key=keys.__getitem__)[:CLUSTERED_ROWS]]
    # No stop words: "where", "which" and "how many" are what tells questions apart.
    vectorizer = TfidfVectorizer(token_pattern=r"(?u)\b\w+\b", sublinear_tf=True, max_features=WORDS_KEPT)
    points = vectorizer.fit_transform(chosen)
    num_different = len({(row.indices.tobytes(), row.data.tobytes()) for row in points})
    if num_different < 2:
        return None
    clusters = _best_clusters(points, min(MAX_CLUSTERS, num_different, len(chosen) - 1), seed)

    words = vectorizer.get_feature_names_out()
    total = np.asarray(points.sum(axis=0)).ravel()
    names = []
    for cluster in range(clusters.n_clusters):
        mine = np.flatnonzero(clusters.labels_ == cluster)
        inside = np.asarray(points[mine].sum(axis=0)).ravel()
        elsewhere = (total - inside) / max(1, len(chosen) - len(mine))
        distinctive = np.argsort(elsewhere - inside / max(1, len(mine)), kind="stable")[:NAMING_WORDS]
        names.append(", ".join(words[word] for word in distinctive if inside[word] > 0) or "no words")
    names = _unique(names)
    nearest = [
        clusters.predict(vectorizer.transform(distinct[start : start + _AT_ONCE]))
        for start in range(0, len(distinct), _AT_ONCE)
    ]
    name_of = dict(zip(distinct, (names[cluster] for cluster in np.concatenate(nearest)), strict=True))
    return [name_of[text] for text in texts]


def group_samples(samples: Sequence[Sample], seed: int = 0) -> Grouping:
    """Groups of the rows with a picture: their tasks, else their files or picture folders, else their questions' words.

    Tasks count where the rows name at least two; rows beside them that name none go by their file. The same rows in
    another order give the same groups. ``DataError`` where there are not two of anything.
    """
    shown = [row for row, sample in enumerate(samples) if sample.images]
    seen = [samples[row] for row in shown]
    where = ", ".join(dict.fromkeys(map(_file, samples))) or None
    if not seen:
        raise DataError(
            "no pictures",
            where=where,
            why=f"none of {len(samples)} rows shows one, so the eyes have nothing to disagree about",
            fix="name data with pictures",
        )
    by: Literal["task", "source", "question cluster"]
    if (found := _tasks(seen)) is not None:
        by = "task"
    elif (found := _files(seen) or _folders(seen)) is not None:
        by = "source"
    elif (found := _clusters(seen, seed)) is not None:
        by = "question cluster"
    else:
        question = shorten(_asked(seen[0]), 40) or "nothing"
        raise DataError(
            "nothing to compare",
            where=where,
            why=f"{len(seen)} rows with a picture name no two tasks or sources and all ask '{question}'",
            fix='write "task" into the rows, or give the recipe one data section per task with task: NAME',
        )
    labels = [""] * len(samples)
    for row, label in zip(shown, found, strict=True):
        labels[row] = label
    names = list(dict.fromkeys(found))
    if by == "question cluster":
        counts = Counter(found)
        names.sort(key=lambda name: (-counts[name], name))
    return Grouping(by=by, labels=labels, names=names)


def choose(
    samples: Sequence[Sample], grouping: Grouping, per_group: int, seed: int = 0, *, share_pictures: bool = False
) -> list[Sample]:
    """Up to ``per_group`` rows of each group, group after group; fewer where a group has no more.

    Each row has a fixed random place that its own content decides, so that order, number and company of the rows
    change nothing, and fewer rows are the beginning of more. With ``share_pictures`` the picture decides first: groups
    that ask about the same pictures then get the same ones, and a picture's second question comes after all first ones.
    """
    of_group: dict[str, list[Sample]] = {name: [] for name in grouping.names}
    for sample, label in zip(samples, grouping.labels, strict=True):
        if label:
            of_group[label].append(sample)
    chosen = []
    for rows in of_group.values():
        rows.sort(key=lambda sample: _row_key(sample, seed))
        if share_pictures:
            pictures = [_drawn(seed, sample.group or sample.images[0].name) for sample in rows]
            times = Counter[bytes]()
            order = []
            for place, picture in enumerate(pictures):
                order.append((times[picture], picture, place))
                times[picture] += 1
            rows = [rows[place] for *_, place in sorted(order)]
        chosen += rows[:per_group]
    return chosen
