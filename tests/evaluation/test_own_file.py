"""A user's LLaVA-format file as a benchmark."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from yarbus.core.errors import DataError
from yarbus.core.own_names import own_name
from yarbus.evaluation.runner import benchmark_folder, evaluate, load_benchmark, rescore


def turn(role: str, text: str) -> dict[str, str]:
    return {"from": role, "value": text}


@pytest.fixture
def own_file(tmp_path) -> Path:
    """Two tasks, and one conversation of two questions."""
    rows = []
    for number, task in enumerate(["where", "where", "what"]):
        Image.fromarray(np.full((28, 28, 3), 40 * number, dtype=np.uint8)).save(tmp_path / f"{number}.png")
        talk = [turn("human", "<image>\nwhat digit is red ?"), turn("gpt", ["left", "Left.", "three"][number])]
        rows.append({"id": f"r{number}", "image": f"{number}.png", "task": task, "conversations": talk})
    talk = [*rows[2]["conversations"], turn("human", "which colour ?"), turn("gpt", "red")]
    rows.append({**rows[2], "id": "long", "conversations": talk})
    path = tmp_path / "test.json"
    path.write_text(json.dumps(rows))
    return path


def test_each_task_of_the_file_has_its_accuracy_and_the_commonest_answer_as_chance(own_file):
    benchmark = load_benchmark(f"file:{own_file}")
    assert set(benchmark.metrics) == {"accuracy", "where", "what"}
    assert benchmark.chance_of("where") == 1.0
    assert benchmark.chance_of("what") == pytest.approx(2 / 3)


def test_every_answered_turn_is_a_question_with_the_turns_before_it(own_file):
    samples = load_benchmark(f"file:{own_file}").samples()
    assert [sample.id for sample in samples] == ["r0", "r1", "r2", "long#0", "long#1"]
    assert [turn.text for turn in samples[-1].turns][-2:] == ["which colour ?", "red"]
    assert len(samples[-1].turns) == 4 and len(samples[-2].turns) == 2
    assert samples[-1].group == samples[-2].group == "long"


def test_a_file_is_evaluated_and_scored_again_without_it(tiny, own_file, tmp_path):
    name = f"file:{own_file}"
    scores = evaluate(*tiny, [name], tmp_path / "run", progress=False)[name]
    assert {metric: score["n"] for metric, score in scores["metrics"].items()} == {"accuracy": 5, "where": 2, "what": 3}
    folder = benchmark_folder(tmp_path / "run", name, "official")
    assert folder.parent == tmp_path / "run" / "evaluation" / "final" / "file"
    own_file.unlink()
    assert rescore(folder) == scores


def test_files_of_one_name_in_two_folders_have_two_places():
    assert own_name("file:a/test.json").folder != own_name("file:b/test.json").folder
    assert own_name("file:../../x/test.json").folder.startswith("file/test-")


def test_a_missing_file_is_refused_by_name(tmp_path):
    with pytest.raises(DataError, match="no such benchmark file"):
        load_benchmark(f"file:{tmp_path}/none.json")
