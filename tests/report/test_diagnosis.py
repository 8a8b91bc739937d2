"""Sections stand where records are, and what is missing is named."""

import pytest

from tests.report.synthetic_diagnosis import diagnose, make_pictures, write
from yarbus.report.diagnosis import diagnosis_sections, missing_diagnosis, records_of
from yarbus.report.figure import Origin
from yarbus.report.look import Look
from yarbus.report.runs import read_run
from yarbus.report.thumbnails import Album

ORIGIN = Origin(name="c", command="yarbus study")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("diagnosed")
    pictures = make_pictures(folder / "pictures")
    for variant in ("full", "dense", "merged"):
        for seed in (0, 1):
            run = folder / f"{variant}-seed{seed}"
            diagnose(run, pictures, routed=variant != "full", seed=seed)
    return [read_run(path) for path in sorted(folder.glob("*-seed*"))]


def sections(runs) -> dict[str, str]:
    look = Look(list(dict.fromkeys(run.variant for run in runs)))
    found = diagnosis_sections(runs, look, ORIGIN, Album(runs[0].folder.parent))
    return {section.title: section.content for section in found}


def test_every_part_that_is_recorded_has_a_section(runs):
    found = sections(runs)
    assert list(found) == ["Swapped questions", "Routing", "Contexts", "Gaze", "Gradient agreement"]
    assert missing_diagnosis(runs) == []
    assert all("<code>yarbus study</code>" in content for content in found.values())


def test_records_are_grouped_by_variant_and_seed(runs):
    assert {variant: len(some) for variant, some in records_of(runs, "gaze").items()} == {"dense": 2, "merged": 2}
    assert list(records_of(runs, "agreement")) == ["dense", "full", "merged"]


def test_the_first_variant_is_open_and_the_others_one_click_away(runs):
    gaze = sections(runs)["Gaze"]
    assert gaze.index("Gaze of dense") < gaze.index("<details") < gaze.index("Gaze of merged")


def test_a_run_without_a_router_has_its_agreement_alone(runs):
    assert list(sections([run for run in runs if run.variant == "full"])) == ["Gradient agreement"]


def test_nothing_recorded_lists_what_each_part_needs():
    missing = missing_diagnosis([])
    assert len(missing) == 6
    assert "contexts: needs yarbus conflict RECIPE --run RUN, of a run whose tower takes the question" in missing


def test_a_reason_in_the_records_is_told_and_what_was_said_is_not_said_again(tmp_path):
    write(tmp_path / "analysis" / "index.json", {"made": [], "missing": {"gaze": "nothing looks at the picture"}})
    missing = missing_diagnosis([read_run(tmp_path)], ["contexts: needs --run"])
    assert "gaze: nothing looks at the picture" in missing
    assert not any(text.startswith("contexts") for text in missing)


def test_variants_that_lack_what_others_have_are_named_with_the_reason(runs, tmp_path):
    why = dict.fromkeys(("contexts", "gaze"), "the run has no router")
    found = []
    for variant in ("frozen", "full"):
        write(tmp_path / f"{variant}-seed0" / "analysis" / "index.json", {"made": [], "missing": why})
        found.append(read_run(tmp_path / f"{variant}-seed0"))
    routed = [run for run in runs if run.variant != "full"]
    assert missing_diagnosis([*found, *routed]) == ["contexts and gaze of frozen and full: the run has no router"]


def test_a_record_may_name_its_own_command(runs, tmp_path):
    write(tmp_path / "analysis" / "agreement.json", {**runs[0].analysis["agreement"], "command": "yarbus diagnose x"})
    assert "<code>yarbus diagnose x</code>" in sections([read_run(tmp_path)])["Gradient agreement"]
