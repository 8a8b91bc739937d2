"""Tensors by the official code's names: nothing is lost on the way, and the layer there computes what ours does."""

import pytest
import torch

import yarbus
from benchmarks.covft_block import LoopForm, Sizes
from tests import tiny
from tests.models.test_question_path import attached
from yarbus.core.errors import ConfigError, MismatchError
from yarbus.methods import CoVFT
from yarbus.methods.covft import mixtures_of
from yarbus.methods.official import OFFICIAL, OURS, from_official, load_official, to_official
from yarbus.models.attachment import adapter_tensors
from yarbus.models.images import ImageMap
from yarbus.models.slot import Context
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


def fresh(text_encoder, method=METHOD):
    """A model of the same base, with a method and its first values."""
    model, _ = tiny.llava()
    torch.manual_seed(5)
    yarbus.attach(model, None, vision=method, text_encoder=text_encoder)
    return model


def adapter_of(model):
    return {name: tensor for name, tensor in adapter_tensors(model).items() if name.startswith(OURS)}


@pytest.mark.parametrize("part", [tower_tensors, adapter_of])
def test_a_whole_tower_or_what_covft_trains_of_it_loads(model, text_encoder, part):
    with torch.no_grad():
        model.get_parameter(f"{OURS}encoder.layers.0.layer_norm1.weight").mul_(1.5)
    other = fresh(text_encoder)
    load_official(other, with_dead_weights(to_official(part(model))))
    assert all(torch.equal(other.state_dict()[name], tensor) for name, tensor in tower_tensors(model).items())


def test_a_tower_in_bf16_loads_on_its_base_in_fp32(model, text_encoder):
    other = fresh(text_encoder)
    load_official(other, to_official({name: tensor.bfloat16() for name, tensor in tower_tensors(model).items()}))
    found, expected = other.state_dict(), adapter_of(model)
    assert all(torch.equal(found[name], tensor.bfloat16().float()) for name, tensor in expected.items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"first_block": 0}, "layers.0.mlp.* is not in the official tensors"),
        ({"first_block": 2}, "layers.1.mlp.* is not in the model"),
        ({"last_block": 1}, "layers.2.mlp.* is not in the model"),
        ({"num_experts": 4}, r"layers.1.mlp.down_bias' does not fit - official \(3, 32\), the model's \(4, 32\)"),
        ({"context_dim": 24}, r"layers.1.mlp.extractor.* does not fit"),
    ],
)
def test_a_model_with_other_blocks_or_sizes_is_refused_with_what_to_attach_and_unchanged(
    model, text_encoder, options, message
):
    method = CoVFT.preset("official", **{"num_experts": 3, "context_dim": 16, **options})
    other = fresh(text_encoder, method)
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    fix = r".*'official', first_block=1, last_block=2, num_experts=3, context_dim=16\)"
    with pytest.raises(MismatchError, match=message + fix):
        load_official(other, to_official(tower_tensors(model)))
    assert all(torch.equal(tensor, before[name]) for name, tensor in other.state_dict().items())


def test_a_missing_norm_that_covft_trains_is_named(model, text_encoder):
    official = to_official(adapter_of(model))
    del official[f"{OFFICIAL}encoder.layers.2.layer_norm2.bias"]
    with pytest.raises(MismatchError, match="layers.2.layer_norm2.bias' is not in the official tensors"):
        load_official(fresh(text_encoder), official)


def test_a_tower_of_another_base_or_with_norms_that_the_method_leaves_is_refused(model, text_encoder):
    ours = tower_tensors(model)
    name = f"{OURS}encoder.layers.0.self_attn.q_proj.weight"
    with pytest.raises(MismatchError, match="q_proj.weight' is not the base's"):
        load_official(fresh(text_encoder), to_official({**ours, name: ours[name] * 1.1}))
    name = f"{OURS}encoder.layers.0.layer_norm1.weight"
    method = CoVFT.preset("official", num_experts=3, context_dim=16, layernorm="none")
    with pytest.raises(MismatchError, match="layer_norm1.weight' is not the base's.*layernorm='all'"):
        load_official(fresh(text_encoder, method), to_official({**ours, name: ours[name] * 1.1}))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"activation": "gelu"}, "'activation' .* 'gelu' .* 'quick_gelu'"),
        ({"routing": "sparse"}, "'routing' .* 'sparse' .* 'dense'"),
        ({"routing": "merged"}, "'routing' .* 'merged' .* 'dense'"),
        ({"context": "text"}, "'context' .* 'text' .* 'cve'"),
        ({"num_heads": 2}, "'num_heads' .* 2 .* 4"),
        ({"temperature": 0.5}, "'temperature' .* 0.5 .* 1.0"),
    ],
)
def test_a_method_that_computes_something_else_than_the_official_layer_is_refused(
    model, text_encoder, options, message
):
    method = CoVFT.preset("official", **{"num_experts": 3, "context_dim": 16, **options})
    with pytest.raises(ConfigError, match=message):
        load_official(fresh(text_encoder, method), to_official(tower_tensors(model)))


def test_the_towers_own_activation_is_the_official_one_where_it_is_quick_gelu(model, text_encoder):
    method = CoVFT(activation=None, num_experts=3, context_dim=16)
    load_official(fresh(text_encoder, method), to_official(tower_tensors(model)))


def test_a_model_without_covft_is_told_to_attach_it(model, text_encoder):
    with pytest.raises(ConfigError, match="vision method 'full' is not covft"):
        load_official(fresh(text_encoder, "full"), to_official(tower_tensors(model)))


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
