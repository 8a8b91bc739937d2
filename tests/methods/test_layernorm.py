"""LayerNorm tuning: which tensors it takes, and how many of them the paper's model has."""

import pytest

import yarbus
from tests import tiny
from tests.methods.test_covft import LLAVA_7B
from yarbus.methods import CoVFT, LayerNorm
from yarbus.models.attachment import attachment_of, parameter_groups
from yarbus.models.load import base_on_meta


def test_parameters_of_the_papers_model_are_counted_as_covft_counts_them():
    model = base_on_meta(LLAVA_7B)
    yarbus.attach(model, None, vision="layernorm")
    plan = yarbus.plan(model)
    assert plan.total("declared", "vision") == 98_304
    assert plan.groups() == {"vision": 94_208}


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_it_trains_what_covft_trains_beside_its_experts(family, text_encoder):
    ours, processor = tiny.FAMILIES[family]()
    yarbus.attach(ours, processor, vision=LayerNorm())
    theirs, processor = tiny.FAMILIES[family]()
    yarbus.attach(theirs, processor, vision=CoVFT(context_dim=16), text_encoder=text_encoder)
    beside = {name: one for name, one in attachment_of(theirs).parameters.items() if one.group == "vision"}
    assert attachment_of(ours).parameters == beside
    assert parameter_groups(ours)["vision"].keys() == parameter_groups(theirs)["vision"].keys()


def test_norms_without_a_bias_train_too():
    model, processor = tiny.qwen()
    yarbus.attach(model, processor, vision=LayerNorm())
    names = parameter_groups(model)["vision"]
    assert len(names) == 2 * 4 and all(name.endswith(".weight") for name in names)
    assert type(model.model.visual.blocks[0].norm1).__name__ == "Qwen2_5_VLRMSNorm"
