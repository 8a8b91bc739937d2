"""The record of the behaviour matrix says nothing of what does not exist, and nothing that fails."""

from tests import tiny
from tests.matrix.run import failures
from tests.methods.cases import CASES
from yarbus.models import tested as record
from yarbus.models.vlm import FAMILIES, TOWERS


def test_the_record_names_models_methods_families_and_towers_that_there_are():
    found = record.tested()
    assert found and set(found) <= set(tiny.EVERY)
    for model in found.values():
        assert model["config"] in FAMILIES and model["tower"] in TOWERS
        assert set(model["methods"]) <= set(CASES)
        assert all("refused" in cell or cell["holds"] > 0 for cell in model["methods"].values())


def test_nothing_is_recorded_that_fails_where_the_base_does_not():
    assert failures(record.tested()) == []


def test_a_familys_lines_sum_up_its_models():
    lines = {line["model"]: line for line in record.tested_of("LlavaConfig")}
    assert lines["llava"]["tower"] == "CLIPVisionConfig" and record.tested_of("NoConfig") == []
    cells = record.tested()["llava"]["methods"].values()
    assert lines["llava"]["holds"] == sum(cell.get("holds", 0) for cell in cells)
    assert lines["llava"]["methods"] + lines["llava"]["refused"] == len(cells)
