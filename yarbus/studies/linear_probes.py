"""Linear probes on folders of classes: features of train and test from a frozen model, a probe fitted, test scored.

Records go below ``folder/analysis/linear_probe``: one JSON with what was chosen and every accuracy, and beside it a
line per test question. Their name ends in a hash of all that the numbers hang on (model, sets, solvers, seeds, epochs),
so that no record is lost to one of something else. What is chosen never depends on a test label: a probe is fitted
before the answers of test are looked at. Features are kept in ``folder/features``, so that another solver, seed or test
set costs seconds.
"""

import json
import os
from collections import Counter
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from yarbus.analysis.linear_probe import ADAM_EPOCHS, HELD_OUT, SOLVERS, LinearProbe, fit, numbers_of
from yarbus.core.errors import ConfigError, DataError
from yarbus.core.own_names import OwnName
from yarbus.core.plugins import resolve
from yarbus.core.records import JsonlWriter, make_folder, write_json
from yarbus.data.sample import Sample
from yarbus.evaluation.classification import read_questions
from yarbus.evaluation.identity import SampleHashes, questions_hash
from yarbus.evaluation.replies import answer_of, check_unique
from yarbus.evaluation.scoring import commonest_answer
from yarbus.evaluation.zero_shot import class_benchmark_name
from yarbus.models.bare_encoder import load_bare_encoder
from yarbus.models.pretrained import read_config
from yarbus.report.intervals import bootstrap_mean, wilson
from yarbus.studies.features import Eyes, eyes_of_encoder, eyes_of_model, features_of
from yarbus.studies.measuring import on_device

Record = dict[str, Any]


def is_vision_language_model(source: str) -> bool:
    """Whether the name is that of a run, an adapter, or a model that answers questions; else it is an encoder's."""
    from yarbus.models.vlm import FAMILIES

    folder = Path(resolve(source))
    if any((folder / name).is_file() for name in ("recipe.yaml", "adapter.json")):
        return True
    return type(read_config(resolve(source), "model", source)).__name__ in FAMILIES


def eyes_of(source: str, feature: str | None = None) -> Eyes:
    """The features of an encoder, of a vision-language model or of a run, by name or folder."""
    if not is_vision_language_model(source):
        encoder = load_bare_encoder(source)
        on_device(encoder.model)
        return eyes_of_encoder(encoder, feature)
    from yarbus.training.run import load_run

    model, processor = load_run(source)
    return eyes_of_model(on_device(model), processor, feature, source)


def linear_probe(
    eyes: Eyes,
    train: str,
    tests: Sequence[str],
    folder: Path,
    *,
    solvers: Sequence[str] = SOLVERS,
    seeds: Sequence[int] = (0,),
    epochs: int = ADAM_EPOCHS,
    batch: int = 32,
    progress: bool = True,
) -> Record:
    """Accuracy of linear probes of one model's features, fitted on ``train`` and scored on each of ``tests``.

    Args:
        train: ``classes:PATH`` or ``dataset:PATH``, an open question; a tenth of it chooses.
        tests: other sets of the same classes.
        seeds: what is held out of train and how Adam starts; accuracies are means over them.
        epochs: of Adam at most.

    Raises:
        ConfigError: a set whose questions offer some of the names alone.
        DataError: a class of test that train lacks, or a train set that leaves nothing to choose with.
    """
    _check_options(solvers, seeds, epochs, batch)
    named = {name: _open(class_benchmark_name(name)) for name in (train, *tests)}
    if train in tests:
        raise ConfigError("train and test are the same", where=train, fix="name a test set of other pictures")
    samples = {name: read_questions(own) for name, own in named.items()}
    classes = _classes(samples[train], train)
    for name in tests:
        _check_test(samples[name], set(classes), name)
    shared = _shared(samples, train, tests)
    kept = folder / "features"
    seen = {
        name: features_of(eyes, rows, kept, name=name, batch=batch, progress=progress) for name, rows in samples.items()
    }
    labels = numbers_of([answer_of(sample) for sample in samples[train]], classes)
    data = {name: questions_hash(rows) for name, rows in samples.items()}
    facts = (eyes.identity, data, list(solvers), list(seeds), epochs)
    place = _place(folder, named[train], eyes.feature, facts)
    make_folder(place.parent)
    beside = place.with_suffix(".jsonl.new")
    beside.unlink(missing_ok=True)
    found: Record = {name: {} for name in tests}
    with JsonlWriter(beside) as writer:
        for solver in solvers:
            probes = {seed: fit(seen[train], labels, solver, seed, epochs=epochs) for seed in seeds}
            for name in tests:
                found[name][solver] = _score(probes, solver, seen[name], samples[name], classes, name, writer)
    record = {
        "train": train,
        "feature": eyes.feature,
        "name": eyes.name,
        "model": eyes.identity,
        "dim": seen[train].shape[1],
        "num_train": len(labels),
        "num_classes": len(classes),
        "held_out": HELD_OUT,
        "epochs": epochs,
        "seeds": list(seeds),
        "data": data,
        "tests": {
            name: {
                "num_samples": len(samples[name]),
                "num_in_train": shared[name],
                "chance": commonest_answer([answer_of(sample) for sample in samples[name]]),
                "solvers": found[name],
            }
            for name in tests
        },
    }
    os.replace(beside, place.with_suffix(".jsonl"))
    write_json(place, record)
    return record


def _open(own: OwnName) -> OwnName:
    """A set whose questions offer no names; any other is refused."""
    if own.closed is not None:
        why = "its chance would be another one than the record's"
        raise ConfigError("a probe chooses among all classes", where=own.name, why=why, fix="leave #closed out")
    return own


def _check_options(solvers: Sequence[str], seeds: Sequence[int], epochs: int, batch: int) -> None:
    for solver in solvers:
        if solver not in SOLVERS:
            raise ConfigError(f"no solver '{solver}'", fix=f"use one of: {', '.join(SOLVERS)}")
    for what, count in (("solvers", len(solvers)), ("seeds", len(seeds)), ("epochs", epochs), ("batch", batch)):
        if count < 1:
            raise ConfigError(f"{what} must be 1 or more, found {count}", fix="choose 1 or more")


def _classes(samples: Sequence[Sample], train: str) -> list[str]:
    counts = Counter(map(answer_of, samples))
    if len(counts) < 2 or max(counts.values()) < 2:
        why = "it has one class" if len(counts) < 2 else "no class has two pictures, so none can be held out to choose"
        raise DataError("cannot fit a probe", where=train, why=why, fix="give a train set of several pictures a class")
    check_unique(list(samples))
    return sorted(counts)


def _check_test(samples: Sequence[Sample], classes: set[str], name: str) -> None:
    check_unique(list(samples))
    for sample in samples:
        if answer_of(sample) not in classes:
            why = "no picture of it to learn from"
            fix = "name both sets' classes alike (#names=FILE), or leave the class out"
            raise DataError(f"train has no class '{answer_of(sample)}'", where=sample.where or name, why=why, fix=fix)


def _shared(samples: dict[str, list[Sample]], train: str, tests: Sequence[str]) -> dict[str, int]:
    """How many questions of each test set train has too, picture and answer; said aloud, since they inflate a score."""
    hashed = SampleHashes()
    known = {hashed(sample) for sample in samples[train]}
    shared = {name: sum(hashed(sample) in known for sample in samples[name]) for name in tests}
    for name, count in shared.items():
        if count:
            told = f"{name}: {count} of {len(samples[name])} pictures are in {train} too, and their score means little"
            Console(stderr=True).print(told, markup=False, highlight=False, emoji=False, soft_wrap=True)
    return shared


def _place(folder: Path, train: OwnName, feature: str, facts: tuple[Any, ...]) -> Path:
    """Where a record of these facts lies."""
    digest = sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:8]
    return folder / "analysis" / "linear_probe" / f"{train.folder.replace('/', '-')}-{feature}-{digest}.json"


def _score(
    probes: dict[int, LinearProbe],
    solver: str,
    features: np.ndarray,
    samples: Sequence[Sample],
    classes: Sequence[str],
    name: str,
    writer: JsonlWriter,
) -> Record:
    """One solver's accuracy on one test set with its 95 % interval over questions (and seeds, where several)."""
    answers = [answer_of(sample) for sample in samples]
    by_seed, right = list[Record](), dict[int, np.ndarray]()
    for seed, probe in probes.items():
        replies = [classes[number] for number in probe.predict(features)]
        right[seed] = np.array([reply == answer for reply, answer in zip(replies, answers, strict=True)])
        for sample, reply, answer in zip(samples, replies, answers, strict=True):
            line = {"test": name, "solver": solver, "seed": seed, "sample_id": sample.id}
            writer.write({**line, "reply": reply, "answer": answer, "is_correct": reply == answer})
        by_seed.append(
            {
                "seed": seed,
                "chosen": probe.chosen,
                "held_out_accuracy": probe.held_out_accuracy,
                "converged": probe.converged,
                "value": float(right[seed].mean()),
            }
        )
    groups = [sample.group or sample.id for sample in samples]
    if len(probes) == 1 and len(set(groups)) == len(groups):
        (only,) = right.values()
        interval, way = wilson(int(only.sum()), len(samples)), "wilson"
        value, low, high = float(only.mean()), interval.low, interval.high
    else:
        values = np.concatenate(list(right.values())).astype(float).tolist()
        runs = np.repeat(list(right), len(samples)).tolist()
        drawn = bootstrap_mean(values, groups * len(right), seeds=runs if len(right) > 1 else None)
        value, low, high, way = drawn.mean, drawn.low, drawn.high, "bootstrap by question and seed"
    return {"value": value, "low": low, "high": high, "n": len(samples), "interval": way, "by_seed": by_seed}
