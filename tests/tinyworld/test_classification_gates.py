import json

import pytest
import torch
from transformers import LlavaForConditionalGeneration

from yarbus.tinyworld import PLUGIN
from yarbus.tinyworld.classification_gates import NUM_HELD_OUT, USUAL, gate_d, gate_e, pictures_of, probes
from yarbus.tinyworld.probes import linear_probe, pooled_features
from yarbus.tinyworld.shifts import KINDS

SEEN = dict.fromkeys(KINDS, 0.9)
FALLEN = {USUAL: 0.97, **dict.fromkeys(KINDS, 0.6)}


def test_strange_pictures_must_be_readable_and_at_least_one_kind_far():
    assert gate_d(SEEN, FALLEN, 0.99)["met"] is True
    assert gate_d(SEEN, {**FALLEN, USUAL: 0.94}, 0.99)["met"] is False
    assert gate_d({**SEEN, "font": 0.79}, FALLEN, 0.99)["met"] is False
    assert gate_d(SEEN, {USUAL: 0.97, **SEEN}, 0.99)["met"] is False
    assert gate_d(SEEN, {**FALLEN, "tint": 0.9}, 0.99)["kinds_that_are_far"] == ["ground", "scale", "font"]


def replies(exact: float, strange_named: float) -> dict[str, dict[str, float]]:
    usual = {task: {"exact": exact, "names": 0.97} for task in ("classify", "classify-closed")}
    return usual | {kind: {"exact": 0.0, "names": strange_named} for kind in KINDS}


def test_a_base_that_already_classifies_misses_the_gate():
    low = replies(0.08, 0.8)
    assert gate_e(low, low)["met"] is True
    assert gate_e(low, replies(0.5, 0.8))["met"] is gate_e(replies(0.5, 0.8), low)["met"] is False


def test_a_base_that_sees_all_that_is_strange_misses_the_gate():
    assert gate_e(replies(0.08, 0.95), replies(0.0, 0.0))["met"] is False


@pytest.fixture(scope="module")
def record():
    return json.loads((PLUGIN.files / "classification.json").read_text())


def test_the_shipped_record_says_of_its_own_figures_whether_they_meet_the_gates(record):
    d, e = record["d_probes"], record["e_zero_shot"]
    assert gate_d(d["seen_probe"], d["usual_probe"], d["nearest_neighbours_on_raw_scans"]) == d
    assert gate_e(e["after_the_recipe"], e["as_shipped"]) == e
    assert record["split"] == "validation" and len(record["by_seed"]) == len(record["seeds"])


def test_the_shipped_base_still_reads_large_digits_as_the_record_says(record):
    torch.set_num_threads(1)
    base = LlavaForConditionalGeneration.from_pretrained(PLUGIN.files / "base", local_files_only=True).eval()
    features = pooled_features(base, pictures_of(USUAL, "train", range(600)))
    held_out = pooled_features(base, pictures_of(USUAL, "validation", range(200)))
    score = linear_probe().fit(features, [n % 10 for n in range(600)]).score(held_out, [n % 10 for n in range(200)])
    # A seventh of the pictures that the record's probe was fitted on.
    assert record["d_probes"]["usual_probe"][USUAL] - 0.08 <= score <= 1


def test_the_probes_cover_every_kind(monkeypatch):
    base = LlavaForConditionalGeneration.from_pretrained(PLUGIN.files / "base", local_files_only=True).eval()
    for kind in NUM_HELD_OUT:
        monkeypatch.setitem(NUM_HELD_OUT, kind, 20)
    seen, usual = probes(base, num_train=100)
    assert set(seen) == set(KINDS) and set(usual) == {USUAL, *KINDS}
    assert all(0 <= value <= 1 for value in (*seen.values(), *usual.values()))
