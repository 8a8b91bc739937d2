"""BitFit: which tensors it takes, and how many of them the paper's model has."""

import pytest

import yarbus
from tests import tiny
from tests.methods.test_covft import LLAVA_7B
from yarbus.core.errors import ConfigError
from yarbus.methods import BitFit
from yarbus.models.attachment import is_attached, parameter_groups
from yarbus.models.load import base_on_meta


def test_parameters_of_the_papers_model_are_counted_as_the_paper_counts_them():
    model = base_on_meta(LLAVA_7B)
    yarbus.attach(model, None, vision="bitfit")
    plan = yarbus.plan(model)
    assert plan.total("declared", "vision") == 272_384
    assert plan.groups() == {"vision": 260_096}  # without the dead last block and the norm behind it


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_every_bias_of_the_tower_trains_and_none_of_the_projector(family):
    model, processor = tiny.FAMILIES[family]()
    tower = "model.visual." if family.startswith("qwen") else "model.vision_tower."
    apart = ("merger", "encoder.layers.3.", "post_layernorm")  # Qwen's projector lies in its tower; LLaVA's end is dead
    expected = {
        name
        for name, _ in model.named_parameters()
        if name.startswith(tower) and name.endswith(".bias") and not any(part in name for part in apart)
    }
    yarbus.attach(model, processor, vision=BitFit())
    assert parameter_groups(model).keys() == {"vision"}
    assert parameter_groups(model)["vision"].keys() == expected and expected


def test_a_tower_without_biases_is_refused_by_name_and_stays_as_it_was():
    model, processor = tiny.llava()
    for module in model.model.vision_tower.modules():
        if getattr(module, "bias", None) is not None:
            module.bias = None
    with pytest.raises(ConfigError, match="nothing to train in CLIPVisionConfig - this vision tower has no biases"):
        yarbus.attach(model, processor, vision=BitFit())
    assert not is_attached(model)
