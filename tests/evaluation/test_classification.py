import json
import re
import shutil
from collections import Counter
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from yarbus.core.errors import ConfigError, DataError
from yarbus.core.records import read_jsonl
from yarbus.data.sample import Sample, Turn
from yarbus.evaluation import runner
from yarbus.evaluation.classification import exact, inclusion, only, whole_words
from yarbus.evaluation.runner import benchmark_folder, evaluate, load_benchmark, rescore
from yarbus.evaluation.scoring import JudgedBy, Reply, accuracy, score

NAMES = ("ant", "elephant", "rose", "primrose", "tiger", "tiger shark", "great white shark", "white shark", "c++ book")
ANY, WHOLE, EXACT, ONLY = "any", "whole", "exact", "only"


@pytest.mark.parametrize(
    ("reply", "label", "right"),
    [
        ("ant", "ant", {ANY, WHOLE, EXACT, ONLY}),
        ("ANT", "ant", {ANY, WHOLE, EXACT, ONLY}),
        ("  ant\n", "ant", {ANY, WHOLE, EXACT, ONLY}),
        ("An elephant.", "ant", {ANY}),  # inside another class, inside a word
        ("An elephant.", "elephant", {ANY, WHOLE, ONLY}),
        ("ant.", "ant", {ANY, WHOLE, ONLY}),  # exact forgives nothing
        ("The photo shows an ant on a rose", "ant", {ANY, WHOLE}),  # two classes
        ("a primrose", "rose", {ANY}),
        ("a tiger shark", "tiger", {ANY, WHOLE}),  # a whole word, but the name of another class
        ("a tiger shark", "tiger shark", {ANY, WHOLE, ONLY}),
        ("a tiger, not a tiger shark", "tiger", {ANY, WHOLE}),
        ("great white shark", "white shark", {ANY, WHOLE}),
        ("great white shark", "great white shark", {ANY, WHOLE, EXACT, ONLY}),
        ("ant, elephant, rose, primrose, tiger", "rose", {ANY, WHOLE}),  # who repeats the list has chosen nothing
        ("ants", "ant", {ANY}),
        ("ant-eater", "ant", {ANY, WHOLE, ONLY}),  # a hyphen ends a word
        ("a C++ book!", "c++ book", {ANY, WHOLE, ONLY}),  # a label is no pattern
        ("a cxx book", "c++ book", set()),
        ("", "ant", set()),
        ("a dog", "ant", set()),
        ("tiger  shark", "tiger shark", set()),  # nothing is normalised
    ],
)
def test_known_replies_are_judged_as_by_hand(reply, label, right):
    judges = {ANY: inclusion, WHOLE: whole_words, EXACT: exact, ONLY: lambda text, name: only(text, name, NAMES)}
    assert {name for name, judge in judges.items() if judge(reply, label)} == right


def test_labels_of_several_scripts_and_cases_are_found():
    assert whole_words("Das ist ein Löwe.", "löwe") and not whole_words("Löwenzahn", "löwe")
    assert inclusion("C'est un CHÊNE", "Chêne") and exact("CHÊNE", "chêne")
    assert only("A Water Lilly", "Water Lilly", ("water lilly", "lilly"))


def replies(*said: tuple[str, str, str | None]) -> list[Reply]:
    return [
        Reply(
            sample=Sample(str(row), (), (Turn("user", "?"), Turn("assistant", label))),
            text=text,
            is_correct=error is None and inclusion(text, label),
            error=error,
        )
        for row, (text, label, error) in enumerate(said)
    ]


def test_metrics_are_counted_with_wilson_intervals_and_failures_are_wrong():
    found = replies(("an elephant", "ant", None), ("ant", "ant", None), ("rose", "ant", None), ("ant", "ant", "broken"))
    assert score(accuracy, found)["value"] == 0.5
    strict = score(JudgedBy(exact), found)
    assert strict["value"] == 0.25 and strict["n"] == 4 and strict["interval"] == "wilson"
    assert strict["low"] < 0.25 < strict["high"]


@pytest.fixture
def folder(tmp_path) -> Path:
    """Six classes; "ant" has two pictures."""
    for number, name in enumerate(("ant/1", "ant/2", "elephant/1", "rose/1", "primrose/1", "tiger/1", "tiger_shark/1")):
        path = tmp_path / "val" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (28, 28, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return tmp_path / "val"


def names_of(sample: Sample) -> list[str]:
    found = re.search(r'^What type of object is in this photo\? Choose one from "(.*)"\.$', sample.turns[0].words)
    return found[1].split(", ")


def test_an_open_question_is_the_held_out_one_for_every_picture(folder):
    benchmark = load_benchmark(f"classes:{folder}")
    samples = benchmark.samples()
    assert [sample.turns[0].text for sample in samples] == ["<image>\nWhat type of object is in this photo?"] * 7
    assert {sample.turns[1].text for sample in samples} == {
        "ant", "elephant", "rose", "primrose", "tiger", "tiger shark",
    }  # fmt: skip
    assert {sample.task for sample in samples} == {"classification"} and samples[0].asked(0, 1, 2) is samples[0]
    assert list(benchmark.metrics) == ["accuracy", "whole_words", "exact", "only"]
    assert benchmark.chance_of("accuracy") == pytest.approx(2 / 7)
    assert benchmark.protocol("official").max_new_tokens == 64


def test_a_closed_question_offers_so_many_names_among_them_the_right_one(folder):
    benchmark = load_benchmark(f"classes:{folder}#closed=3")
    lists = [names_of(sample) for sample in benchmark.samples()]
    for sample, names in zip(benchmark.samples(), lists, strict=True):
        assert len(set(names)) == 3 and sample.turns[-1].text in names
    assert len({tuple(names) for names in lists}) > 1
    assert benchmark.chance_of("only") == pytest.approx(1 / 3)
    everything = load_benchmark(f"classes:{folder}#closed=all")
    assert all(len(set(names_of(sample))) == 6 for sample in everything.samples())
    assert len({tuple(names_of(sample)) for sample in everything.samples()}) > 1  # shuffled for each picture
    assert everything.chance_of("accuracy") == pytest.approx(1 / 6)


def test_the_list_of_a_picture_depends_on_the_seed_and_on_no_other_picture(folder):
    first = {sample.id: names_of(sample) for sample in load_benchmark(f"classes:{folder}#closed=3").samples()}
    seeded = {
        sample.id: names_of(sample) for sample in load_benchmark(f"classes:{folder}#closed=3#seed=1234").samples()
    }
    other = {sample.id: names_of(sample) for sample in load_benchmark(f"classes:{folder}#closed=3#seed=1").samples()}
    assert first == seeded != other
    (folder / "ant" / "1.png").unlink()
    fewer = {sample.id: names_of(sample) for sample in load_benchmark(f"classes:{folder}#closed=3").samples()}
    assert fewer == {name: names for name, names in first.items() if name != "ant/1.png"}


def test_the_right_answer_stands_anywhere_in_the_list(tmp_path):
    for number in range(60):
        path = tmp_path / "many" / f"class{number}" / "1.png"
        path.parent.mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(path)
    samples = load_benchmark(f"classes:{tmp_path}/many#closed=4").samples()
    places = Counter(names_of(sample).index(sample.turns[-1].text) for sample in samples)
    assert set(places) == {0, 1, 2, 3} and max(places.values()) < 30


def test_more_names_than_classes_are_refused_with_the_number(folder):
    with pytest.raises(ConfigError, match=r"has 6 classes - closed=7; fix: use #closed=all, or fewer"):
        load_benchmark(f"classes:{folder}#closed=7")
    with pytest.raises(DataError, match="no such folder of classes"):
        load_benchmark(f"classes:{folder}x")


def test_names_may_come_from_a_file(folder, tmp_path):
    names = {"flower": ["rose", "primrose"]} | {key: key for key in ("ant", "elephant", "tiger", "tiger_shark")}
    (tmp_path / "names.json").write_text(json.dumps(names))
    samples = load_benchmark(f"classes:{folder}#closed=all#names={tmp_path}/names.json").samples()
    assert Counter(sample.turns[-1].text for sample in samples)["flower"] == 2
    assert len(names_of(samples[0])) == 5


def test_replies_are_scored_by_all_judges_and_again_without_the_folder(tiny, folder, tmp_path, monkeypatch):
    said = {"ant/1": "an elephant", "ant/2": "Ant", "rose/1": "a primrose and a rose", "tiger/1": "tiger shark"}

    def generate(model, processor, samples, protocol):
        assert protocol.max_new_tokens == 64
        return [said.get(sample.id.removesuffix(".png"), "") for sample in samples]

    monkeypatch.setattr(runner, "generate", generate)
    name = f"classes:{folder}#closed=all"
    scores = evaluate(*tiny, [name], tmp_path / "run", progress=False)[name]
    right = {metric: round(7 * found["value"]) for metric, found in scores["metrics"].items()}
    assert right == {"accuracy": 4, "whole_words": 3, "exact": 1, "only": 1}
    assert {found["n"] for found in scores["metrics"].values()} == {7}
    place = benchmark_folder(tmp_path / "run", name, "official")
    assert len(read_jsonl(place / "replies.jsonl")) == 7
    for path in folder.rglob("*.png"):
        path.unlink()
    assert rescore(place) == scores


def test_a_real_model_is_asked(tiny, folder, tmp_path):
    scores = evaluate(*tiny, [f"classes:{folder}"], tmp_path / "run", progress=False, batch=4)
    (record,) = scores.values()
    assert record["num_replies"] == 7 and 0 <= record["metrics"]["accuracy"]["value"] <= 1


def test_a_data_set_is_a_benchmark_too(tiny, tmp_path):
    datasets.disable_progress_bars()
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["ant", "dog"])})
    pictures = [Image.new("RGB", (28, 28), (100 * row, 0, 0)) for row in range(2)]
    data = datasets.Dataset.from_dict({"image": pictures, "label": [0, 1]}, features=features)
    datasets.DatasetDict({"train": data, "test": data}).save_to_disk(tmp_path / "pets")
    name = f"dataset:{tmp_path}/pets#split=test#closed=all"
    record = evaluate(*tiny, [name], tmp_path / "run", progress=False)[name]
    assert record["num_replies"] == 2 and record["num_errors"] == 0
    assert record["metrics"]["accuracy"]["chance"] == 0.5
    rows = read_jsonl(benchmark_folder(tmp_path / "run", name, "official") / "replies.jsonl")
    assert [row["images"] for row in rows] == [[f"{tmp_path}/pets/test:{row}"] for row in range(2)]


def test_classes_without_a_picture_are_names_to_choose_from_too(tiny, tmp_path, monkeypatch):
    datasets.disable_progress_bars()
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["ant", "dog", "cat"])})
    pictures = [Image.new("RGB", (28, 28), (100 * row, 0, 0)) for row in range(2)]
    datasets.Dataset.from_dict({"image": pictures, "label": [0, 1]}, features=features).save_to_disk(tmp_path / "pets")
    monkeypatch.setattr(
        runner, "generate", lambda model, processor, samples, protocol: ["an ant, a cat"] * len(samples)
    )
    name = f"dataset:{tmp_path}/pets#closed=all"
    scores = evaluate(*tiny, [name], tmp_path / "run", progress=False)[name]
    assert scores["metrics"]["accuracy"]["chance"] == pytest.approx(1 / 3)
    assert scores["metrics"]["whole_words"]["value"] == 0.5 and scores["metrics"]["only"]["value"] == 0.0
    shutil.rmtree(tmp_path / "pets")
    place = benchmark_folder(tmp_path / "run", name, "official")
    assert rescore(place) == scores
    identity = json.loads((place / "identity.json").read_text())
    del identity["classes"]  # as replies were kept before: only what was shown is known
    (place / "identity.json").write_text(json.dumps(identity))
    assert rescore(place)["metrics"]["accuracy"]["chance"] == 0.5
