"""A study in numbers says the same as the study."""

import shutil

import pytest

from tests.report.synthetic import write_comparison
from yarbus.core.errors import CheckpointError
from yarbus.core.records import read_json, write_json
from yarbus.report.digest import beside, digest_of, read_digest, stored_digest
from yarbus.report.html import write_report
from yarbus.report.look import Look
from yarbus.report.runs import read_comparison
from yarbus.report.summary import summarise


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study committed without its replies, with what it said when it had them."""
    folder = write_comparison(tmp_path_factory.mktemp("study"), seeds=(0, 1), num_scenes=20, note="Rates were tuned.")
    for path in folder.glob("*-seed*/environment.json"):
        commit = "0123456789abcdef" if "seed0" in path.parent.name else "fedcba9876543210+changes"
        machine = {"machine": {"cpus": 2, "accelerators": ["NVIDIA H200"]}, "commit": commit}
        write_json(path, {**read_json(path), **machine})
    summary = summarise(read_comparison(folder))
    write_json(folder / "digest.json", digest_of(read_comparison(folder)))
    for evaluation in folder.glob("*-seed*/evaluation"):
        shutil.rmtree(evaluation)
    return folder, summary


def test_a_summary_survives_its_digest(study):
    folder, summary = study
    assert read_digest(folder).summary == summary


def test_a_digest_says_which_study_it_is(study):
    digest = stored_digest(study[0])
    assert (digest.seeds, digest.steps) == ([0, 1], {"align": 250, "instruct": 600})
    assert digest.commit == "0123456789abcdef, fedcba9876543210+changes"
    assert digest.machine == "2 CPU cores, NVIDIA H200"
    shown = beside(digest, Look(digest.variants))
    for text in ("Not this run", digest.name, "2 training seeds", "600 steps of instruct", "NVIDIA H200",
                 "commit 0123456789, fedcba9876+changes",
                 "Rates were tuned.", "Its finding:", "minus frozen", "task by task"):  # fmt: skip
        assert text in shown


def test_a_study_without_replies_draws_its_page_from_the_digest(study):
    page = write_report(study[0]).read_text()
    assert study[1].headline.split(":")[0].split(" %")[0] in page
    assert "minus full" in page and "without its replies" in page
    assert "Not finished" not in page


def test_a_study_with_replies_needs_no_stored_digest(comparison_folder, tmp_path):
    assert stored_digest(comparison_folder) is None
    assert read_digest(comparison_folder).summary == summarise(read_comparison(comparison_folder))
    assert read_digest(tmp_path) is None


def test_a_page_shows_the_study_that_its_comparison_names(study, tmp_path):
    folder = write_comparison(tmp_path / "short", skills={"frozen": 0.0, "full": 0.1}, num_scenes=5)
    record = read_json(folder / "comparison.json")
    write_json(folder / "comparison.json", {**record, "beside": str(study[0])})
    page = write_report(folder).read_text()
    assert 'id="a-longer-study-for-comparison"' in page and "covft-dense" in page
    write_json(folder / "comparison.json", {**record, "beside": "nowhere"})
    page = write_report(folder).read_text()
    assert "a-longer-study" not in page
    assert "the longer study beside this one: nowhere holds none" in page


@pytest.mark.parametrize("damage", [{"name": "x"}, {"summary": None}, {"summary": {"lines": [1]}}])
def test_a_damaged_digest_is_named(study, tmp_path, damage):
    record = {} if "name" in damage else read_json(study[0] / "digest.json")
    write_json(tmp_path / "digest.json", {**record, **damage})
    with pytest.raises(CheckpointError, match=r"digest\.json"):
        read_digest(tmp_path)


def test_a_digest_that_knows_no_p_no_costs_and_no_alignment_is_still_read_and_drawn(study, tmp_path):
    record = read_json(study[0] / "digest.json")
    for one in record["summary"]["contrasts"]:
        del one["p_holm"], one["difference"]["p"]
    del record["costs"], record["alignment"]
    folder = tmp_path / "old"
    shutil.copytree(study[0], folder)
    write_json(folder / "digest.json", record)
    digest = stored_digest(folder)
    assert digest.costs == [] and digest.summary.contrasts[0].p_holm is None
    page = write_report(folder).read_text()
    assert "minus full" in page and "p, corrected" not in page and "without-one-task" in page
    assert 'id="costs"' not in page and "p values are two-sided" not in page


def test_costs_and_what_was_checked_go_with_a_digest(study):
    digest = stored_digest(study[0])
    assert [one.variant for one in digest.costs] == digest.variants and digest.alignment == {}
    assert 'id="costs"' in write_report(study[0]).read_text()
