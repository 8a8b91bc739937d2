"""A curve between two models: asked once, gone on with, and never of two other models."""

import json
import shutil

import pytest

from tests.models.blends import write_adapter, write_base
from tests.studies.mixtures import rows_of, write_mixture
from yarbus.core.errors import ConfigError, DataError, LockedError, MismatchError
from yarbus.core.lock import locked
from yarbus.core.recipe import load_recipe
from yarbus.core.records import read_json, read_jsonl
from yarbus.evaluation.runner import evaluate
from yarbus.report.sweeps import read_sweep
from yarbus.studies import sweep as room
from yarbus.studies.sweep import sweep
from yarbus.training.run import load_run
from yarbus.training.stages import train

ALPHAS = (0, 0.5, 1)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A base, an adapter of it, and two files of questions."""
    folder = tmp_path_factory.mktemp("sweeps")
    write_mixture(folder / "data")
    pictures = folder / "data" / "pictures"
    for name, task in (("classify", "colour"), ("look", "read")):
        (pictures / f"{name}.json").write_text(json.dumps(rows_of(task, 4)))
    base = write_base(folder / "base")
    write_adapter(folder / "tuned", base, 1, projector="full")
    return folder


@pytest.fixture
def questions(place):
    return [f"file:{place / 'data' / 'pictures' / name}.json" for name in ("classify", "look")]


def run(place, questions, folder, **options):
    return sweep(
        place / "base", place / "tuned", questions, **{"alphas": ALPHAS, "folder": folder, "progress": False, **options}
    )


@pytest.fixture(scope="module")
def finished(place):
    pictures = place / "data" / "pictures"
    return run(place, [f"file:{pictures / name}.json" for name in ("classify", "look")], place / "wise-ft-seed3")


def test_every_blend_is_asked_and_recorded(finished, place, questions):
    record = read_json(finished / "sweep.json")
    assert [point["alpha"] for point in record["points"]] == [0.0, 0.5, 1.0]
    assert all(list(point["scores"]) == questions for point in record["points"])
    assert record["a"]["kind"] == "model" and record["b"]["kind"] == "adapter"
    for point in record["points"]:
        assert len(list((finished / point["folder"]).rglob("replies.jsonl"))) == 2
    assert (finished / "report" / "index.html").is_file()
    assert not list(finished.glob(".blend*"))


def test_both_ends_say_what_the_two_models_say(finished, place, questions, tmp_path):
    for alpha, name in ((0, "base"), (1, "tuned")):
        model, processor = load_run(place / name)
        evaluate(model, processor, questions, tmp_path / name, progress=False)
        for path in sorted((tmp_path / name).rglob("replies.jsonl")):
            mine = finished / f"alpha-{alpha}" / path.relative_to(tmp_path / name)
            assert [row["reply"] for row in read_jsonl(mine)] == [row["reply"] for row in read_jsonl(path)]


def test_the_page_reads_it_as_one_seed_of_a_curve(finished):
    found = read_sweep(finished)
    assert (found.name, found.seed, list(found.runs)) == ("wise-ft", 3, [0.0, 0.5, 1.0])
    page = (finished / "report" / "index.html").read_text()
    assert "Gained and forgotten" in page and "blends, alpha from 0 to 1" in page


def test_what_is_finished_is_not_repeated_and_more_may_be_named(finished, place, questions, tmp_path, monkeypatch):
    folder = shutil.copytree(finished, tmp_path / "again")
    asked = []
    monkeypatch.setattr(room, "_ask", lambda pair, alpha, *rest: asked.append(alpha))
    monkeypatch.setattr(room, "_keep", lambda *arguments: None)
    run(place, questions, folder)
    assert asked == []
    run(place, questions, folder, alphas=(0.25, 0.5))
    assert asked == [0.25]
    run(place, [f"file:{place / 'data' / 'pictures' / 'test.json'}"], folder)
    assert asked[1:] == [0.0, 0.5, 1.0]


def test_a_killed_sweep_goes_on(place, questions, tmp_path, monkeypatch):
    asked, real = [], room.evaluate

    def killed(model, processor, names, folder, **options):
        asked.append(folder.name)
        if len(asked) == 2:
            real(model, processor, names[:1], folder, **options)
            raise KeyboardInterrupt
        return real(model, processor, names, folder, **options)

    monkeypatch.setattr(room, "evaluate", killed)
    with pytest.raises(KeyboardInterrupt):
        run(place, questions, tmp_path / "x")
    assert [point["alpha"] for point in read_json(tmp_path / "x" / "sweep.json")["points"]] == [0.0]
    (tmp_path / "x" / ".blend").mkdir()  # as a kill that nothing can catch would leave it
    run(place, questions, tmp_path / "x")
    assert asked == ["alpha-0", "alpha-0.5", "alpha-0.5", "alpha-1"]
    assert len(read_json(tmp_path / "x" / "sweep.json")["points"]) == 3


def test_other_models_are_refused(finished, place, questions, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "again")
    write_adapter(tmp_path / "other", str(place / "base"), 2, projector="full")
    before = (folder / "sweep.json").read_text()
    with pytest.raises(MismatchError, match="second model changed") as error:
        sweep(place / "base", tmp_path / "other", questions, folder=folder, progress=False)
    assert error.value.exit_code == 78 and (folder / "sweep.json").read_text() == before
    with pytest.raises(MismatchError, match="first model changed"):
        sweep(place / "tuned", place / "base", questions, folder=folder, progress=False)


def test_other_questions_are_refused(finished, place, questions, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "again")
    path = place / "data" / "pictures" / "classify.json"
    before = path.read_text()
    try:
        rows = json.loads(before)
        rows[0]["conversations"][1]["value"] = "five"
        path.write_text(json.dumps(rows))
        with pytest.raises(DataError, match="changed since"):
            run(place, questions, folder, alphas=(0, 0.75))
    finally:
        path.write_text(before)


@pytest.mark.parametrize(("options", "what"), [({"alphas": (0, 2)}, "alpha is 2"), ({"alphas": ()}, "no alpha"),
                                               ({"protocol": "lmms"}, "protocol")])  # fmt: skip
def test_what_cannot_be_meant_is_told_before_any_work(options, what, place, questions, tmp_path):
    with pytest.raises(ConfigError, match=what):
        run(place, questions, tmp_path / "x", **options)
    assert not (tmp_path / "x").exists()


def test_a_folder_of_something_else_and_a_locked_one_are_left_alone(place, questions, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "note.txt").write_text("x")
    with pytest.raises(ConfigError, match="no sweep"):
        run(place, questions, tmp_path / "mine")
    with locked(tmp_path / "held"), pytest.raises(LockedError):
        run(place, questions, tmp_path / "held")


def test_without_names_the_recipe_of_a_run_says_what_to_ask(place, tmp_path):
    with pytest.raises(ConfigError, match="no benchmarks"):
        sweep(place / "base", place / "tuned", folder=tmp_path / "x", progress=False)
    changes = {"stages.align.train.vision": "frozen", "compare": None, "stages.align.steps": 1}
    recipe = load_recipe(place / "data" / "tiny.yaml", changes)
    trained = train(recipe, tmp_path / "run", stages=["align"], progress=False)
    folder = sweep(recipe.model.base, trained, alphas=(0.5,), folder=tmp_path / "x", progress=False)
    (point,) = read_json(folder / "sweep.json")["points"]
    assert list(point["scores"]) == recipe.evaluation
