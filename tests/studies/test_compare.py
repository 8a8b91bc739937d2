"""A comparison starts every variant from one checkpoint, repeats nothing, and goes on where it stopped."""

import json
from dataclasses import replace

import pytest
import yaml
from safetensors.torch import load_file, save_file

import yarbus
from tests.experiments import write_experiment
from tests.studies.hands import work
from tests.studies.mixtures import done_here, write_mixture
from yarbus.core.errors import ConfigError, DataError, LockedError, MismatchError
from yarbus.core.lock import locked
from yarbus.core.recipe import load_recipe
from yarbus.core.records import read_json, write_json
from yarbus.report.runs import read_comparison
from yarbus.studies import compare as comparing
from yarbus.studies import workers
from yarbus.studies.work import note_sharing


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    path = write_experiment(tmp_path_factory.mktemp("experiment"))
    values = yaml.safe_load(path.read_text())
    values["stages"]["instruct"]["steps"] = 4  # fewer have no step time
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


@pytest.fixture(scope="module")
def comparison(experiment, tmp_path_factory):
    folder = tmp_path_factory.mktemp("comparisons") / "tiny"
    return yarbus.compare(experiment, seeds=2, folder=folder, jobs=2, progress=False)


def empty_row(folder):
    """A data file that is there, and turns out to be wrong when it is read."""
    path = folder / "rows.json"
    path.write_text("[{}]")
    return str(path)


def test_every_variant_and_seed_has_a_run_that_began_from_the_same_adapter(comparison):
    record = read_json(comparison / "comparison.json")
    assert record["variants"] == ["frozen", "covft"] and record["seeds"] == [0, 1]
    (align,) = comparison.glob("align-*")
    start = read_json(align / "adapter" / "adapter.json")["sha256"]
    assert set(record["runs"]) == {"frozen-seed0", "frozen-seed1", "covft-seed0", "covft-seed1"}
    for run in record["runs"].values():
        folder = comparison / run["folder"]
        assert read_json(folder / "environment.json")["start"] == start
        assert load_recipe(folder / "recipe.yaml").seed == run["seed"]
        assert list((folder / "evaluation").rglob("scores.json"))
    shas = {read_json(comparison / run / "adapter" / "adapter.json")["sha256"] for run in record["runs"]}
    assert len(shas) == 4


def test_the_record_holds_what_was_found_and_how_many_runs_shared_the_machine(comparison):
    record = read_json(comparison / "comparison.json")
    results = record["results"]
    assert {one["reference"] for one in results["differences"]} == {"frozen"}
    shared = {"jobs": [2], "threads": [1]}
    assert all(read_json(comparison / name / "sharing.json") == shared for name in record["runs"])
    full = {one["variant"]: one for one in results["costs"]}["covft"]
    assert full["vision_trained"] and full["step_seconds"] and (full["jobs"], full["threads"]) == ([2], [1])
    page = (comparison / "report" / "index.html").read_text()
    assert "Measured while 2 runs shared the machine, with 1 thread each." in page


def test_the_report_and_its_record_name_the_command(comparison):
    page = (comparison / "report" / "index.html").read_text()
    assert "covft" in page and "yarbus.compare" in page


@pytest.fixture
def no_work(monkeypatch):
    """No worker may begin: what is asked for is there already."""

    def begun(*arguments, **options):
        raise AssertionError("a worker was started")

    monkeypatch.setattr(workers, "ProcessPoolExecutor", begun)


@pytest.mark.parametrize("free", [{}, {"stages.instruct.checkpoint_every": 1, "stages.align.log_every": 2}])
def test_a_second_call_repeats_nothing(free, comparison, experiment, no_work):
    before = {path: path.read_bytes() for path in comparison.rglob("*") if path.is_file() and path.parent != comparison}
    yarbus.compare(load_recipe(experiment, free), seeds=2, folder=comparison, jobs=1, progress=False)
    changed = {path for path, content in before.items() if path.read_bytes() != content}
    assert changed <= {comparison / "report" / "index.html"}


def test_lost_replies_are_asked_again_and_finished_training_is_kept(comparison, experiment):
    (replies,) = (comparison / "covft-seed1").rglob("replies.jsonl")
    lines = replies.read_text().splitlines(keepends=True)
    replies.write_text("".join(lines[:3]))
    scores = replies.with_name("scores.json")
    before = json.loads(scores.read_text())["metrics"]
    scores.unlink()
    adapter = comparison / "covft-seed1" / "adapter" / "adapter.safetensors"
    written = adapter.stat().st_mtime_ns
    yarbus.compare(experiment, seeds=2, folder=comparison, jobs=1, progress=False)
    assert len(replies.read_text().splitlines()) == len(lines)
    assert json.loads(scores.read_text())["metrics"] == before
    assert adapter.stat().st_mtime_ns == written


@pytest.mark.parametrize("change", [{"stages.instruct.steps": 3}, {"seed": 4}])
def test_another_comparison_in_the_folder_is_refused_and_its_record_kept(change, comparison, experiment):
    before = (comparison / "comparison.json").read_bytes()
    with pytest.raises(ConfigError, match="another folder"):
        yarbus.compare(load_recipe(experiment, change), folder=comparison, progress=False)
    assert (comparison / "comparison.json").read_bytes() == before


def test_a_run_is_never_shown_under_another_definition_of_its_variant(comparison, experiment, no_work):
    own = load_recipe(experiment).compare.variants
    yarbus.compare(experiment, {"covft": own["covft"]}, folder=comparison, progress=False)
    before = (comparison / "comparison.json").read_bytes()
    with pytest.raises(ConfigError, match=r"frozen-seed0 .* frozen -> full"):
        yarbus.compare(
            experiment, {"frozen": {"stages.instruct.train.vision": "full"}}, folder=comparison, progress=False
        )
    assert (comparison / "comparison.json").read_bytes() == before


@pytest.mark.parametrize(("part", "message"), [("base", "another base"), ("encoder", "another text encoder")])
def test_runs_of_a_base_or_encoder_that_changed_since_are_not_reused(part, message, comparison, experiment, no_work):
    path = experiment.parent / part / "model.safetensors"
    before = path.read_bytes()
    tensors = {name: tensor + 1 if tensor.is_floating_point() else tensor for name, tensor in load_file(path).items()}
    try:
        save_file(tensors, path, metadata={"format": "pt"})
        with pytest.raises(MismatchError, match=message):
            yarbus.compare(experiment, seeds=2, folder=comparison, progress=False)
    finally:
        path.write_bytes(before)


def test_a_comparison_that_never_trained_may_be_mended(experiment, tmp_path):
    values = load_recipe(experiment, {"stages.align.data.0.path": empty_row(tmp_path)}).resolved()
    folder = tmp_path / "c"
    with pytest.raises(DataError, match=r"rows\.json"):
        yarbus.compare(values, ["frozen"], folder=folder, progress=False)
    yarbus.compare(experiment, ["frozen"], folder=folder, progress=False)
    assert read_json(folder / "comparison.json")["variants"] == ["frozen"]


def test_an_error_in_a_worker_arrives_as_the_error_it_is(experiment, tmp_path):
    values = load_recipe(experiment, {"stages.align.data.0.path": empty_row(tmp_path)}).resolved()
    with pytest.raises(DataError, match=r"rows\.json"):
        yarbus.compare(values, folder=tmp_path / "c", jobs=1, progress=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"variants": ["frozn"]}, "unknown variant 'frozn'; fix: use one of: frozen"),
        ({"variants": []}, "no variant"),
        ({"seeds": 0}, "seeds is 0"),
        ({"variants": {"a": {"stages.instruct.train.visoin": "full"}}}, "visoin"),
        (
            {"variants": {"a": {"stages.instruct.steps": 3}, "b": {}}},
            r"differ in stages.instruct.steps - .* 3 \(a\)",
        ),
        ({"variants": {"a": {"stages.instruct.train.head": "carpet"}}}, r"'a-seed0': stage 'instruct': .*carpet"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_any_work(arguments, message, experiment, tmp_path):
    with pytest.raises(ConfigError, match=message):
        yarbus.compare(experiment, folder=tmp_path / "c", progress=False, **arguments)
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"evaluation": ["tinyworld/reed"]}, ConfigError, "tinyworld/read"),
        ({"stages.instruct.data.0.source": "lava"}, ConfigError, "llava"),
        ({"stages.instruct.data.0.path": "gone.json"}, DataError, "gone.json"),
        ({"compare.variants.covft": {"stages.instruct.train.vision": "covtf"}}, ConfigError, "covft"),
    ],
)
def test_what_would_stop_it_at_the_end_is_told_before_any_work(change, error, message, experiment, tmp_path, no_work):
    with pytest.raises(error, match=message):
        yarbus.compare(load_recipe(experiment, change), folder=tmp_path / "c", progress=False)
    assert not (tmp_path / "c").exists()


@pytest.fixture
def here(monkeypatch):
    """Runs are done in this process: a worker would spend seconds on imports."""
    monkeypatch.setattr(comparing, "work_off", done_here)


def mixture_with_checkpoints(folder):
    """Two variants whose last stage keeps a checkpoint after each of its two steps."""
    return load_recipe(
        write_mixture(folder),
        {
            "stages.align.train.vision": "frozen",
            "stages.instruct.checkpoint_every": 1,
            "record.vision_gradient": {"every": 1},
            "evaluation": [f"file:{folder / 'pictures' / 'test.json'}"],
        },
    )


def test_benchmarks_are_asked_at_checkpoints_and_runs_diagnosed_and_only_what_is_missing_is_made(tmp_path, here):
    recipe, folder = mixture_with_checkpoints(tmp_path), tmp_path / "c"
    more = {"folder": folder, "checkpoints": [1], "diagnose": {"samples": 8, "questions": 2}, "progress": False}
    yarbus.compare(recipe, ["covft"], **more)
    run = folder / "covft-seed0"
    scores = {path.relative_to(run / "evaluation").parts[0]: read_json(path) for path in run.rglob("scores.json")}
    assert set(scores) == {"final", "step-000001"}
    assert scores["final"]["model"] != scores["step-000001"]["model"]
    index = read_json(run / "analysis" / "index.json")
    assert (index["samples"], index["questions"]) == (8, 2)
    assert set(index["made"]) == {"agreement", "contexts", "routing", "gaze", "swapped"}
    assert not (next(folder.glob("align-*")) / "analysis").exists()

    def made():
        kept = {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")}
        return kept, {path: path.read_bytes() for path in folder.rglob("replies.jsonl")}

    before = made()
    (run / "analysis" / "index.json").unlink()
    yarbus.compare(recipe, ["covft"], **more)
    assert (run / "analysis" / "index.json").is_file() and made() == before


def test_a_comparison_that_was_made_without_checkpoints_or_diagnoses_gets_them_later(tmp_path, here, monkeypatch):
    recipe, folder = mixture_with_checkpoints(tmp_path), tmp_path / "c"
    yarbus.compare(recipe, ["frozen"], folder=folder, progress=False)
    trained = []
    monkeypatch.setattr("yarbus.training.stages._run_stage", lambda *arguments: trained.append(arguments))
    yarbus.compare(recipe, ["frozen"], folder=folder, checkpoints=[1], diagnose={"samples": 8}, progress=False)
    assert not trained and (folder / "frozen-seed0" / "analysis" / "index.json").is_file()
    assert (folder / "frozen-seed0" / "evaluation" / "step-000001").is_dir()


@pytest.mark.parametrize(
    ("settings", "step", "kept"),
    [
        ({"steps": 9, "checkpoint_every": 3}, 3, "6, 9"),
        ({"steps": 9, "checkpoint_every": 3, "keep_checkpoints": 3}, 4, "3, 6, 9"),
        ({"steps": 9, "checkpoint_every": None}, 3, "9"),
        ({"steps": 8, "checkpoint_every": 3, "keep_checkpoints": 2}, 3, "6, 8"),
        ({"steps": 9, "checkpoint_every": 100}, 100, "9"),
    ],
)
def test_a_checkpoint_that_would_not_be_there_is_told_before_any_work(
    settings, step, kept, experiment, tmp_path, no_work
):
    recipe = load_recipe(experiment, {f"stages.instruct.{key}": value for key, value in settings.items()})
    with pytest.raises(ConfigError, match=rf"no checkpoint of step {step} - of its \d steps it keeps {kept}; fix"):
        yarbus.compare(recipe, folder=tmp_path / "c", checkpoints=[step], progress=False)
    assert not (tmp_path / "c").exists()


def test_how_the_machine_was_shared_stays_with_a_run_whatever_is_compared_later(experiment, tmp_path, here):
    folder = tmp_path / "c"
    yarbus.compare(experiment, folder=folder, jobs=2, progress=False)
    record = read_json(folder / "comparison.json")
    for name, run in record["runs"].items():  # as comparisons were recorded once
        (folder / name / "sharing.json").unlink()
        run["jobs"] = 2
    write_json(folder / "comparison.json", record)
    yarbus.compare(experiment, ["frozen"], seeds=2, folder=folder, jobs=1, progress=False)
    yarbus.compare(experiment, seeds=2, folder=folder, jobs=1, progress=False)
    jobs = {run.folder.name: run.jobs for run in read_comparison(folder).runs}
    assert jobs == {"frozen-seed0": [2], "covft-seed0": [2], "frozen-seed1": [1], "covft-seed1": [1]}


def test_a_run_that_was_interrupted_adds_how_it_goes_on_and_a_new_one_forgets(tmp_path):
    one = work(tmp_path, "frozen-seed0")
    one.run.mkdir()
    note_sharing(one)
    assert not list(one.run.iterdir())  # nobody knows
    for jobs, threads, expected in ((2, 1, [2]), (3, 1, [3])):
        note_sharing(replace(one, jobs=jobs, threads=threads))
        assert read_json(one.run / "sharing.json") == {"jobs": expected, "threads": [1]}
    (one.run / "stages" / "instruct" / "checkpoints" / "step-000001").mkdir(parents=True)
    note_sharing(replace(one, jobs=1, threads=2))
    assert read_json(one.run / "sharing.json") == {"jobs": [1, 3], "threads": [1, 2]}
    (one.run / "adapter").mkdir()
    write_json(one.run / "adapter" / "adapter.json", {})
    note_sharing(replace(one, jobs=7))
    assert read_json(one.run / "sharing.json")["jobs"] == [1, 3]


def test_a_run_that_another_call_is_at_is_left_to_it(experiment, tmp_path, here):
    with locked(tmp_path / "c" / "frozen-seed0"), pytest.raises(LockedError, match="locked by another .*frozen-seed0"):
        yarbus.compare(experiment, ["frozen"], folder=tmp_path / "c", progress=False)
    assert not (tmp_path / "c" / "frozen-seed0" / "stages").exists()
    yarbus.compare(experiment, ["frozen"], folder=tmp_path / "c", progress=False)


def test_heads_stand_beside_each_other_though_their_batches_hold_more(experiment, tmp_path, monkeypatch):
    monkeypatch.setattr(comparing, "work_off", done_here)
    rates = {f"stages.instruct.learning_rate.{group}": 1e-3 for group in ("head", "router")}
    variants = {
        name: {**rates, "stages.instruct.train.vision": "frozen", "stages.instruct.train.head": method}
        for name, method in (("none", "none"), ("carpe", {"method": "carpe", "num_heads": 4}), ("levi", "levi"))
    }
    folder = yarbus.compare(experiment, variants, folder=tmp_path / "c", progress=False)
    record = read_json(folder / "comparison.json")
    assert set(record["results"]["mean"]["variants"]) == {"none", "carpe", "levi"}
