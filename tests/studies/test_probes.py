"""Short runs as they are planned: equal questions, rows that no run trains on, one start, nothing found out late."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.studies.mixtures import TASKS, rows_of, write_mixture
from yarbus.core.errors import ConfigError, DataError
from yarbus.core.recipe import load_recipe
from yarbus.data.grouping import group_samples
from yarbus.data.mixture import read_mixture
from yarbus.studies.probes import MAX_HELD_OUT, Probes, equal_questions, plan_probes, sections_by_task


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    return write_mixture(tmp_path_factory.mktemp("experiment"))


def planned(recipe, folder, *, stage="instruct", steps=40, start=None) -> Probes:
    grouping = group_samples(read_mixture(recipe.stages[stage].used_data))
    return plan_probes(recipe, stage, grouping, steps, folder, start)


def rows_trained_on(probe):
    (stage,) = probe.work.stages
    return read_mixture(load_recipe(probe.work.recipe).stages[stage].used_data)


def steps_of(probe):
    return probe.work.recipe["stages"][probe.work.stages[-1]]["steps"]


def data_file(folder, name, rows):
    """A data entry whose pictures are the experiment's."""
    path = folder / "pictures" / name
    path.write_text(json.dumps(rows))
    return {"source": "llava", "path": str(path)}


def with_data(experiment, *files, **more):
    """The recipe with these files ``(name, rows)`` as the data of its last stage."""
    data = [data_file(experiment.parent, name, rows) for name, rows in files]
    return load_recipe(experiment, {"stages.instruct.data": data, **more})


def test_each_task_alone_the_mixture_tuned_and_frozen_under_two_seeds(experiment, tmp_path):
    runs = planned(load_recipe(experiment, {"seed": 3}), tmp_path, start=tmp_path / "adapter").runs
    assert sorted((probe.kind, probe.task or "", probe.seed) for probe in runs) == sorted(
        (kind, task, seed)
        for seed in (3, 4)
        for kind, task in [("mix", ""), ("frozen", ""), *(("only", task) for task in TASKS)]
    )
    assert {probe.work.start for probe in runs} == {tmp_path / "adapter"}
    assert len({probe.work.run for probe in runs}) == len(runs)
    assert all(probe.work.run.parent == tmp_path / "probes" for probe in runs)
    for probe in runs:
        recipe = load_recipe(probe.work.recipe)
        assert recipe.seed == probe.seed and not recipe.evaluation
        train = recipe.stages["instruct"].train
        assert train.get("vision") == (None if probe.kind == "frozen" else {"method": "full"})
        assert {"projector", "language"} <= set(train)
    assert not (tmp_path / "probes").exists()  # nothing is trained yet


def test_no_run_trains_on_a_held_out_row_and_no_row_is_lost(experiment, tmp_path):
    recipe = load_recipe(experiment)
    plan = planned(recipe, tmp_path)
    rest = {row.id for rows in plan.held_out.values() for row in rows}
    everything = {row.id for row in read_mixture(recipe.stages["instruct"].data)}
    assert {task: len(rows) for task, rows in plan.held_out.items()} == {"read": 10, "colour": 10}
    for probe in plan.runs:
        trained = {row.id for row in rows_trained_on(probe)}
        assert trained and not trained & rest
        if probe.task is None:
            assert trained | rest == everything
        else:
            assert {row.task for row in rows_trained_on(probe)} == {probe.task}
            assert all(row.task == probe.task for row in plan.held_out[probe.task])


@pytest.mark.parametrize("change", [{"stages.instruct.data.0.fraction": 0.5}, {"stages.instruct.fraction": 0.5}])
def test_a_fraction_of_the_data_keeps_its_held_out_rows_out_too(experiment, tmp_path, change):
    recipe = load_recipe(experiment, change)
    plan = planned(recipe, tmp_path)
    for probe in plan.runs:
        trained = {row.id for row in rows_trained_on(probe)}
        assert not trained & {row.id for rows in plan.held_out.values() for row in rows}
        one = load_recipe(probe.work.recipe).stages["instruct"]
        assert one.used_data == one.data and probe.work.steps == one.steps  # the fraction counts once
    assert {len(rows) for rows in plan.held_out.values()} == {5}


def test_many_held_out_rows_are_thinned_evenly(experiment, tmp_path):
    recipe = with_data(experiment, ("many.json", rows_of("read", 3000)), ("few.json", rows_of("colour", 60)))
    held = planned(recipe, tmp_path).held_out
    assert len(held["read"]) == MAX_HELD_OUT and len(held["colour"]) == 6
    places = [int(row.id.split("-")[1]) for row in held["read"]]
    assert places == sorted(places) and len(set(places)) == MAX_HELD_OUT
    assert places[0] < 100 and places[-1] > 2900


@given(counts=st.dictionaries(st.text(max_size=3), st.integers(1, 9999), min_size=2), steps=st.integers(1, 999))
def test_a_task_alone_sees_as_many_of_its_questions_as_the_mixture(counts, steps):
    for task, alone in equal_questions(counts, steps).items():
        shown = steps * counts[task] / sum(counts.values())
        assert abs(alone - shown) <= 0.5 or alone == 1 > shown


def test_unequal_tasks_have_runs_of_unequal_length(experiment, tmp_path):
    recipe = with_data(experiment, ("many.json", rows_of("read", 60)), ("few.json", rows_of("colour", 20)))
    runs = planned(recipe, tmp_path).runs
    assert {probe.task: steps_of(probe) for probe in runs} == {None: 40, "read": 30, "colour": 10}


def sections_of(experiment, *files):
    sections = list(with_data(experiment, *files).stages["instruct"].data)
    return sections, sections_by_task(sections, group_samples(read_mixture(sections)))


def named(found):
    return {name: [(one.path.rpartition("/")[2], one.task) for one in some] for name, some in found.items()}


def without(key, rows):
    return [{name: value for name, value in row.items() if name != key} for row in rows]


READ, COLOUR = rows_of("read", 8), rows_of("colour", 8)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (
            [("both.json", READ + COLOUR)],
            {"read": [("both.json", "read")], "colour": [("both.json", "colour")]},
        ),
        (
            [("a.json", READ), ("b.json", COLOUR), ("c.json", READ + COLOUR)],
            {"read": [("a.json", None), ("c.json", "read")], "colour": [("b.json", None), ("c.json", "colour")]},
        ),
        (
            [("a.json", without("task", READ)), ("b.json", without("task", COLOUR))],
            {"a.json": [("a.json", None)], "b.json": [("b.json", None)]},
        ),
        (  # one task named in half of a file: told apart by file, and that file counts once
            [("a.json", READ + without("task", COLOUR)), ("b.json", without("task", COLOUR))],
            {"a.json": [("a.json", None)], "b.json": [("b.json", None)]},
        ),
        (  # rows without a picture go with the others of their entry
            [("a.json", [*READ, {"id": "text", "conversations": [{"from": "human", "value": "what ?"}, {"from": "gpt", "value": "one"}]}]), ("b.json", COLOUR)],  # noqa: E501
            {"read": [("a.json", None)], "colour": [("b.json", None)]},
        ),
    ],
)  # fmt: skip
def test_each_data_entry_gives_a_task_its_rows_once(files, expected, experiment):
    sections, found = sections_of(experiment, *files)
    assert {name.rpartition("/")[2]: some for name, some in named(found).items()} == expected
    grouping = group_samples(read_mixture(sections))
    for name, some in found.items():
        shown = [row for row in read_mixture(some) if row.images]
        assert len(shown) == grouping.sizes()[name]


@pytest.mark.parametrize(
    "files",
    [
        [("one.json", without("task", READ + COLOUR))],  # question clusters
        [("some.json", READ[:4] + COLOUR + without("task", READ[4:]))],  # rows without a task beside others
    ],
)
def test_rows_that_no_data_entry_can_select_are_refused(files, experiment):
    with pytest.raises(ConfigError, match="short runs need rows that can be told apart.*'task'"):
        sections_of(experiment, *files)


def test_tasks_of_any_name_have_runs_of_their_own(experiment, tmp_path):
    names = ["mix", "frozen", "read a", "read:a", "READ_A", "ö", "x" * 90, "x" * 90 + "y"]
    rows = [{**row, "task": name, "id": f"{name}-{row['id']}"} for name in names for row in rows_of("read", 10)]
    plan = planned(with_data(experiment, ("names.json", rows)), tmp_path)
    assert [probe.task for probe in plan.runs if probe.task and probe.seed == 0] == names
    folders = [probe.work.run.name.lower() for probe in plan.runs]
    assert len(set(folders)) == len(folders) == 2 * (len(names) + 2)
    for probe in plan.runs:
        tasks = {row.task for row in rows_trained_on(probe)}
        assert tasks == ({probe.task} if probe.task else set(names))
        assert steps_of(probe) == (5 if probe.task else 40)


def changed(experiment, stage, **settings):
    """The recipe with whole settings of a stage replaced, where an override would merge them."""
    values = load_recipe(experiment).resolved()
    values["stages"][stage] |= settings
    return load_recipe(values)


FULL, RATES = {"method": "full"}, dict.fromkeys(("vision", "vision_new", "router", "projector", "language"), 0.001)


@pytest.mark.parametrize(
    ("stage", "settings", "message"),
    [
        ("instruct", {"learning_rate": {"projector": 0.001, "language": 0.001}}, "no learning rate for vision"),
        ("instruct", {"train": {"vision": FULL}}, "trains the tower alone"),
        ("instruct", {"learning_rate": {"vision": 0.001, "projector": 0.001}}, "learning_rate.language"),
        (
            "align",
            {"train": {"vision": {"method": "covft", "num_experts": 2}}, "learning_rate": RATES},
            "holds 'covft' already",
        ),
    ],
)
def test_what_would_stop_a_short_run_is_told_before_any(stage, settings, message, experiment, tmp_path):
    with pytest.raises(ConfigError, match=message):
        planned(changed(experiment, stage, **settings), tmp_path)


def test_a_tower_that_an_earlier_stage_tuned_can_be_frozen_and_tuned_on(experiment, tmp_path):
    change = {"stages.align.train.vision": "full", "stages.align.learning_rate.vision": 0.001}
    runs = planned(load_recipe(experiment, change), tmp_path).runs
    assert {probe.kind for probe in runs} == {"mix", "frozen", "only"}


def test_stages_after_the_one_in_question_are_left_out(experiment, tmp_path):
    covft = {"method": "covft", "num_experts": 2}
    change = {"stages.align.learning_rate.vision": 0.001, "stages.instruct.train.vision": covft}
    plan = planned(load_recipe(experiment, change), tmp_path, stage="align")
    assert {tuple(probe.work.recipe["stages"]) for probe in plan.runs} == {("align",)}


def test_a_task_with_no_row_to_hold_out_is_refused_by_name(experiment, tmp_path):
    recipe = with_data(experiment, ("few.json", rows_of("read", 20) + rows_of("colour", 4)))
    with pytest.raises(DataError, match=r"task 'colour' has too few rows for short runs.*few\.json.*without steps"):
        planned(recipe, tmp_path)


def test_a_share_counts_as_what_the_mixture_shows_and_a_task_alone_needs_none(experiment, tmp_path):
    many = data_file(experiment.parent, "many.json", rows_of("read", 60))
    few = {**data_file(experiment.parent, "few.json", rows_of("colour", 20)), "share": 0.5}
    recipe = load_recipe(experiment, {"stages.instruct.data": [many, few]})
    runs = planned(recipe, tmp_path).runs
    assert {probe.task: steps_of(probe) for probe in runs} == {None: 40, "read": 20, "colour": 20}
    for probe in runs:
        shares = [entry.share for entry in load_recipe(probe.work.recipe).stages["instruct"].data]
        assert shares == ([None, 0.5] if probe.task is None else [None])


def test_a_share_of_several_tasks_cannot_be_taken_apart(experiment, tmp_path):
    plain = data_file(experiment.parent, "plain.json", rows_of("size", 20))
    both = data_file(experiment.parent, "both.json", rows_of("read", 20) + rows_of("colour", 20))
    recipe = load_recipe(experiment, {"stages.instruct.data": [plain, {**both, "share": 0.5}]})
    with pytest.raises(ConfigError, match="one task in a data entry with a share.*both.json - it holds"):
        planned(recipe, tmp_path)
