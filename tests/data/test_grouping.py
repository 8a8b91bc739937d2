"""Groups of rows: which of task, source and wording tells them apart, and which rows stand for a group."""

import subprocess
import sys
import warnings
from collections import Counter
from pathlib import Path
from random import Random

import pytest
from sklearn.metrics import adjusted_mutual_info_score

from yarbus.core.errors import DataError
from yarbus.data.grouping import choose, group_samples
from yarbus.data.sample import Sample, Turn


def row(
    number, question="what is this ?", *, task=None, file="train.json", image="images/{}.png", source="llava", **kw
):
    images = () if image is None else (Path(image.format(number)),)
    turns = (Turn("user", f"<image>\n{question}"), Turn("assistant", "4"))
    return Sample(f"{file}-{number}", images, turns, task, kw.get("group"), source, f"{file}:{number + 1}")


SUBJECTS = ["the cat", "a small dog", "that tree", "the red car", "my bicycle", "a boat", "the tall house", "one bird"]
TOPICS = {
    "where": "where in the picture is {} standing ?",
    "count": "count how many times {} occurs",
    "text": "read the letters written on {}",
}


def topical(num_each=40):
    """Rows of three kinds of questions that name no task, and the kind of each."""
    random, rows, kinds = Random(0), [], []
    for kind, template in TOPICS.items():
        for _ in range(num_each):
            text = template.format(f"{random.choice(SUBJECTS)} {random.choice(SUBJECTS)}")
            rows.append(row(len(rows), text))
            kinds.append(kind)
    return rows, kinds


def test_tasks_come_first_in_the_order_of_the_data():
    rows = [row(0, task="read"), row(1, task="locate", file="b.json"), row(2, task="read")]
    found = group_samples(rows)
    assert (found.by, found.labels, found.names) == ("task", ["read", "locate", "read"], ["read", "locate"])
    assert found.sizes() == {"read": 2, "locate": 1}


def test_rows_that_name_no_task_beside_others_that_do_go_by_their_file():
    found = group_samples([row(0, task="read"), row(1, task="locate"), row(2, file="extra.json")])
    assert found.by == "task"
    assert found.names == ["read", "locate", "extra.json (no task)"]


def test_one_task_alone_tells_nothing_apart_and_files_do():
    found = group_samples([row(0, task="read", file="a.json"), row(1, task="read", file="b.json")])
    assert (found.by, found.labels) == ("source", ["a.json", "b.json"])


@pytest.mark.parametrize(
    ("keys", "names"),
    [
        ([("llava", "a.json"), ("hub", "a.json")], ["llava", "hub"]),
        ([("llava", "a.json"), ("hub", "b.json")], ["llava", "hub"]),
        ([("llava", "a.json"), ("llava", "b.json"), ("hub", "c.json")], ["a.json", "b.json", "c.json"]),
        (
            [("llava", "a.json"), ("llava", "b.json"), ("hub", "a.json")],
            ["llava a.json", "llava b.json", "hub a.json"],
        ),
    ],
)
def test_a_source_is_named_in_as_few_words_as_tell_it_apart(keys, names):
    found = group_samples([row(number, source=source, file=file) for number, (source, file) in enumerate(keys)])
    assert (found.by, found.names) == ("source", names)


def test_one_file_with_pictures_of_several_data_sets_is_grouped_by_their_folders_as_llavas_mix():
    folders = ["coco/train2017", "gqa/images", "ocr_vqa/images", "vg/VG_100K", "vg/VG_100K_2"]
    rows = [row(number, image=f"/data/{folder}/{{}}.jpg") for number, folder in enumerate(folders)]
    found = group_samples(rows)
    assert (found.by, found.labels) == ("source", ["coco", "gqa", "ocr_vqa", "vg", "vg"])


@pytest.mark.parametrize(
    "folders",
    [["shard1", "shard2"], ["train2017", "val2017"], ["000", "001"], ["a", ""], [f"kind{'x' * n}" for n in range(13)]],
)
def test_shards_and_splits_are_no_sources(folders):
    rows, _ = topical()
    rows = [
        row(number, sample.turns[0].words, image=f"data/{folders[number % len(folders)]}/{{}}.jpg")
        for number, sample in enumerate(rows)
    ]
    assert group_samples(rows).by == "question cluster"


def test_questions_of_three_kinds_fall_into_clusters_named_by_their_words():
    rows, kinds = topical()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = group_samples(rows)
    assert found.by == "question cluster"
    assert 2 <= len(found.names) <= 8
    assert adjusted_mutual_info_score(kinds, found.labels) > 0.5
    of_kind = {kind: {label for label, own in zip(found.labels, kinds, strict=True) if own == kind} for kind in TOPICS}
    assert all(of_kind[a].isdisjoint(of_kind[b]) for a, b in [("where", "count"), ("count", "text"), ("where", "text")])
    assert set.union(*of_kind.values()) == {"count, how, many", "in, is, picture", "letters, on, read"}
    sizes = list(found.sizes().values())
    assert sizes == sorted(sizes, reverse=True) and sum(sizes) == len(rows)


def test_clusters_are_the_same_for_the_same_rows_in_another_order_and_for_more_rows_than_are_clustered(monkeypatch):
    monkeypatch.setattr("yarbus.data.grouping.CLUSTERED_ROWS", 60)
    rows, _ = topical()
    order = Random(1).sample(range(len(rows)), len(rows))
    straight, shuffled = group_samples(rows), group_samples([rows[place] for place in order])
    assert shuffled.names == straight.names
    assert shuffled.labels == [straight.labels[place] for place in order]
    assert "" not in straight.labels


@pytest.mark.parametrize("number", [2, 3, 8])
def test_a_few_different_questions_are_a_group_each(number):
    rows = [row(place, f"say {place % number} !") for place in range(20)]
    found = group_samples(rows)
    assert found.by == "question cluster"
    assert found.labels == [f"say {place % number} !" for place in range(20)]


def test_questions_that_are_cut_to_one_name_stay_apart():
    found = group_samples([row(0, "a " * 60 + "b"), row(1, "a " * 60 + "c")])
    assert len(set(found.names)) == 2


def test_rows_without_a_picture_are_left_out_and_counted():
    rows = [row(0, task="read"), row(1, task="chat", image=None), row(2, task="locate"), row(3, image=None)]
    found = group_samples(rows)
    assert found.labels == ["read", "", "locate", ""]
    assert (found.names, found.num_left_out) == (["read", "locate"], 2)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row(0), row(1)], "nothing to compare: train.json - 2 rows with a picture name no two tasks or sources"),
        ([row(0, task="read"), row(1, task="chat", image=None)], "all ask 'what is this ?'"),
        ([row(0, image=None), row(1, image=None)], "no pictures: train.json - none of 2 rows shows one"),
        ([], "no pictures"),
        ([row(0)], "nothing to compare"),
        ([row(place, "?" * (place + 1)) for place in range(12)], "nothing to compare"),
        ([row(place, "a" + "!" * place) for place in range(12)], "nothing to compare"),
    ],
)
def test_rows_that_nothing_tells_apart_are_refused_with_the_fix(rows, message):
    with pytest.raises(DataError) as caught:
        group_samples(rows)
    assert message in str(caught.value) and "fix: " in str(caught.value)


def by_task(samples):
    found = {}
    for sample in samples:
        found.setdefault(sample.task, []).append(sample)
    return found


def test_the_rows_chosen_are_those_of_the_group_and_more_begin_with_fewer():
    rows = [row(number, task="read" if number % 3 else "locate", group=str(number // 3)) for number in range(60)]
    grouping = group_samples(rows)
    some, more = by_task(choose(rows, grouping, 5)), by_task(choose(rows, grouping, 15))
    assert list(more) == ["locate", "read"]
    for name, found in more.items():
        assert found[:5] == some[name]
        assert len(found) == 15 and len({sample.id for sample in found}) == 15
    assert len(by_task(choose(rows, grouping, 999))["locate"]) == 20
    assert by_task(choose(rows, grouping, 5, seed=1)) != some


@pytest.mark.parametrize("share_pictures", [False, True])
def test_the_choice_does_not_depend_on_the_order_of_the_rows(share_pictures):
    rows = [row(number, task="read" if number % 3 else "locate", group=str(number // 3)) for number in range(60)]
    shuffled = [rows[0], *Random(2).sample(rows[1:], 59)]
    straight = choose(rows, group_samples(rows), 7, share_pictures=share_pictures)
    assert choose(shuffled, group_samples(shuffled), 7, share_pictures=share_pictures) == straight


def test_tasks_share_the_chosen_pictures_when_asked_to_and_see_each_once_first():
    tasks = ("read", "locate", "count", "count")
    rows = [row(number, f"{number} ?", task=tasks[number % 4], group=str(number // 4)) for number in range(160)]
    grouping = group_samples(rows)

    def pictures(per_group, **kw):
        found = by_task(choose(rows, grouping, per_group, **kw))
        return {name: [sample.group for sample in chosen] for name, chosen in found.items()}

    shared = pictures(10, share_pictures=True)
    assert shared["read"] == shared["locate"] == shared["count"] and len(set(shared["count"])) == 10
    twice = pictures(80, share_pictures=True)["count"]
    assert len(set(twice[:40])) == 40 and len(twice) == 80
    apart = pictures(10)
    assert set(apart["read"]) != set(apart["locate"])


def test_a_row_that_stands_twice_may_be_chosen_twice_and_rows_without_a_picture_never():
    rows = [row(0, task="read")] * 3 + [row(1, task="locate"), row(2, task="read", image=None)]
    chosen = choose(rows, group_samples(rows), 9)
    assert [sample.id for sample in chosen] == ["train.json-0"] * 3 + ["train.json-1"]


def test_chance_spreads_over_the_rows():
    rows = [row(number, task="ab"[number % 2]) for number in range(2000)]
    chosen = by_task(choose(rows, group_samples(rows), 300))["a"]
    thirds = Counter(int(sample.where.split(":")[1]) * 3 // 2001 for sample in chosen)
    assert all(70 < count < 130 for count in thirds.values())


def test_grouping_does_not_import_torch():
    program = "import sys, yarbus.data.grouping; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)
