"""Tensors by the official code's names: nothing is lost on the way, and the layer there computes what ours does."""

import pytest
import torch

import yarbus
from benchmarks.covft_block import LoopForm, Sizes
from tests import tiny
from tests.models.test_question_path import attached
from yarbus.core.errors import MismatchError
from yarbus.methods import CoVFT
from yarbus.methods.covft import mixtures_of
from yarbus.methods.official import OFFICIAL, OURS, from_official, to_official
from yarbus.models.attachment import adapter_tensors
from yarbus.models.context import Context
from yarbus.models.images import ImageMap
from yarbus.models.text_encoder import TextStates

METHOD = CoVFT.preset("official", num_experts=3, context_dim=16)
SIZES = Sizes(dim=32, hidden=64, tokens=5, experts=3, heads=4, context_dim=16)
FIRST = f"{OFFICIAL}encoder.layers.1.mlp."


@pytest.fixture
def model(text_encoder):
    """Two mixtures, blocks 1 and 2, whose tensors are all different."""
    model, _ = attached("llava", text_encoder, METHOD)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for mixture in mixtures_of(model).values():
            for parameter in mixture.parameters():
                parameter += torch.randn(parameter.shape, generator=generator) * 0.1
    return model


def tower_tensors(model):
    return {name: tensor for name, tensor in model.state_dict().items() if name.startswith(OURS)}


def test_there_and_back_every_bit_is_the_same(model):
    ours = tower_tensors(model)
    back = from_official(to_official(ours))
    assert back.keys() == ours.keys()
    assert all(torch.equal(back[name], ours[name]) for name in ours)
    half = {name: tensor.bfloat16() for name, tensor in ours.items()}
    assert all(torch.equal(tensor, half[name]) for name, tensor in from_official(to_official(half)).items())


def test_an_adapters_tensors_convert_as_a_whole_towers_do(model):
    adapter = {name: tensor for name, tensor in adapter_tensors(model).items() if name.startswith(OURS)}
    official = to_official(adapter)
    assert f"{OFFICIAL}encoder.layers.0.layer_norm1.weight" in official
    assert from_official(official).keys() == adapter.keys() < tower_tensors(model).keys()


def with_dead_weights(official):
    """As the official code trains them: where we have zeros, anything."""
    dirty = {name: tensor.clone() for name, tensor in official.items()}
    for name, tensor in dirty.items():
        if name.endswith("k_proj_weight"):
            assert not tensor[:, 32:].any()
            tensor[:, 32:] = torch.randn(16, 16)
        if name.endswith("in_proj_bias"):
            assert not tensor[16:32].any()
            tensor[16:32] = torch.randn(16)
    return dirty


def test_dead_key_weights_are_dropped_and_come_back_as_zeros(model):
    ours = tower_tensors(model)
    official = to_official(ours)
    back = from_official(with_dead_weights(official))
    assert all(torch.equal(back[name], ours[name]) for name in ours)
    dead = sum(tensor.numel() for tensor in official.values()) - sum(tensor.numel() for tensor in ours.values())
    assert dead == 2 * (16 * 16 + 16)


def test_the_official_forward_with_any_dead_weights_computes_what_ours_does(model):
    """The loop over experts, and PyTorch's own attention over keys and values of [token; question]."""
    torch.manual_seed(0)
    official = with_dead_weights(to_official(tower_tensors(model)))
    reference = LoopForm(SIZES)
    reference.load_state_dict({n.removeprefix(FIRST): t for n, t in official.items() if n.startswith(FIRST)})
    tokens, question = torch.randn(4, 5, 32), torch.randn(4, 16)
    text = TextStates([(one[None], one) for one in question], torch.ones(4, dtype=torch.bool))
    mixture = mixtures_of(model)[1]
    with mixture.slot.holding(Context(text, ImageMap(torch.arange(4)), None)):
        found = mixture(tokens)
    torch.testing.assert_close(found, reference(tokens, question), atol=1e-5, rtol=1e-4)


def test_what_was_converted_loads_into_a_model_of_the_official_preset(model, text_encoder, pictures):
    official = with_dead_weights(to_official(tower_tensors(model)))
    fresh, _ = tiny.llava()
    yarbus.attach(fresh, None, vision=METHOD, text_encoder=text_encoder)
    missing, unexpected = fresh.load_state_dict(from_official(official), strict=False)
    assert not unexpected and not [name for name in missing if name.startswith(OURS)]
    assert all(torch.equal(fresh.state_dict()[name], tensor) for name, tensor in tower_tensors(model).items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop(f"{FIRST}gate.bias"), "layers.1.mlp.gate.bias' is missing"),
        (lambda s: s.pop(f"{FIRST}experts.1.2.bias"), "layers.1.mlp.experts.1.2.bias' is missing"),
        (lambda s: s.pop(f"{FIRST}cross_attn.in_proj_bias"), "in_proj_bias' is missing"),
        (lambda s: s.update({f"{FIRST}cross_attn.bias_k": torch.zeros(1)}), "cross_attn.bias_k' is unknown"),
        (lambda s: s.update({f"{OFFICIAL}head.weight": torch.zeros(1)}), "head.weight' is unknown"),
        (lambda s: s.update({"model.mm_projector.0.weight": torch.zeros(1)}), "mm_projector.0.weight' is unknown"),
    ],
)
def test_a_missing_or_unknown_official_tensor_is_named(model, change, message):
    state = to_official(tower_tensors(model))
    change(state)
    with pytest.raises(MismatchError) as caught:
        from_official(state)
    assert message in str(caught.value) and "LLaVA-CLIP tower" in str(caught.value)


@pytest.mark.parametrize("options", [{"context": "text"}, {"context": "image"}, {"context_dim": 24}])
def test_a_mixture_that_the_official_code_does_not_have_is_refused(text_encoder, options):
    model, _ = tiny.llava()
    method = CoVFT(**{"num_experts": 3, "context_dim": 16, **options})
    yarbus.attach(model, None, vision=method, text_encoder=text_encoder)
    with pytest.raises(MismatchError, match="mlp.extractor"):
        to_official(tower_tensors(model))


def test_a_single_expert_is_no_mixture_there(text_encoder):
    model, _ = tiny.llava()
    yarbus.attach(model, None, vision=CoVFT(num_experts=1), text_encoder=text_encoder)
    with pytest.raises(MismatchError, match="is missing"):
        to_official(tower_tensors(model))
