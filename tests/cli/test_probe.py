import json

import numpy as np
import pytest
from PIL import Image

from tests import tiny
from tests.tiny.encoders import ENCODERS
from yarbus.cli.app import run


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working folder with encoders and two sets of classes."""
    monkeypatch.chdir(tmp_path)
    for name in ("siglip", "dino"):
        ENCODERS[name](tmp_path / name)
    for split, count in (("train", 6), ("test", 2)):
        for number, name in enumerate(("cat", "dog")):
            (tmp_path / split / name).mkdir(parents=True)
            for which in range(count):
                pixels = np.full((28, 28, 3), 30 + 190 * number + which, dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / split / name / f"{which}.png")
    return tmp_path


def test_without_a_train_set_it_classifies_by_names(place, capsys):
    assert run(["probe", "siglip", "--benchmarks", "classes:test"]) == 0
    shown = capsys.readouterr().out
    assert "zero-shot, one" in shown and "50.0" in shown
    assert list((place / "runs" / "siglip" / "evaluation").rglob("scores.json"))
    assert run(["probe", "siglip", "--benchmarks", "classes:test", "--prompts", "ensemble", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["classes:test"]["protocol"] == "zero_shot_ensemble"


def test_with_a_train_set_it_fits_a_probe(place, capsys):
    options = ["--benchmarks", "classes:test", "--train", "classes:train", "--epochs", "5", "--output", "out"]
    assert run(["probe", "dino", *options]) == 0
    shown = capsys.readouterr().out
    assert "lbfgs" in shown and "adam" in shown and "pooled" in shown
    assert run(["probe", "dino", *options, "--json", "--solvers", "lbfgs", "--features", "patches"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["feature"] == "patches" and list(record["tests"]["classes:test"]["solvers"]) == ["lbfgs"]
    assert len(list((place / "out" / "analysis" / "linear_probe").glob("*.json"))) == 2


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["dino", "--benchmarks", "classes:test"], "no text side"),
        (["siglip", "--benchmarks", "classes:test", "--features", "pooled"], "without --train"),
        (["siglip", "--benchmarks", "classes:test", "--seeds", "3"], "without --train"),
        (["siglip", "--benchmarks", "classes:test", "--train", "classes:train", "--prompts", "one"], "--prompts and"),
        (["siglip", "--benchmarks", ","], "no benchmarks named"),
        (["siglip", "--benchmarks", "tinyworld/read"], "has no classes"),
        (["nowhere", "--benchmarks", "classes:test"], "cannot load model"),
        (["siglip", "--benchmarks", "classes:test", "--prompts", "none.json"], "no such file of prompts"),
    ],
)
def test_what_cannot_be_is_told_before_anything_is_written(place, capsys, arguments, told):
    assert run(["probe", *arguments]) in (2, 65)
    assert told in " ".join(capsys.readouterr().err.split())
    assert not (place / "runs").exists()


def test_a_model_that_answers_is_sent_to_evaluate(place, capsys):
    model, processor = tiny.FAMILIES["llava"]()
    model.save_pretrained("llava")
    processor.save_pretrained("llava")
    assert run(["probe", "llava", "--benchmarks", "classes:test"]) == 2
    assert "yarbus evaluate" in capsys.readouterr().err
    assert run(["probe", "llava", "--benchmarks", "classes:test", "--train", "classes:train", "--epochs", "2"]) == 0
    assert list((place / "runs" / "llava" / "analysis").rglob("*-last-*.json"))
