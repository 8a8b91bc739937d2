"""CoVFT's equations against slow loops, its options, its start, and the counts of the paper's model."""

import pytest
import torch
from torch import nn

import yarbus
from tests import tiny
from tests.models.batches import ask
from tests.models.test_question_path import METHODS, attached
from yarbus.core.errors import ConfigError
from yarbus.methods import METHODS as TABLES
from yarbus.methods import CoVFT
from yarbus.methods.assemble import build
from yarbus.methods.covft import ContextVectorExtractor
from yarbus.models.attachment import declared_groups, is_attached, parameter_groups
from yarbus.models.images import ImageMap
from yarbus.models.load import base_on_meta
from yarbus.models.vlm import VLM

PACKED = {"images": None, "packed": torch.tensor([5, 5, 5])}


def layout(kind, tokens):
    lengths = PACKED[kind]
    images = ImageMap(torch.arange(3), lengths)
    return images, tokens if lengths is None else tokens.flatten(0, 1)


@pytest.mark.parametrize("kind", PACKED)
def test_the_extractor_equals_multi_head_attention_over_keys_with_the_question_beside_each_token(kind):
    """Eq. 6-8 as written: one query, keys and values [token; question], PyTorch's own attention."""
    torch.manual_seed(0)
    extractor = ContextVectorExtractor(12, 8, 8, num_heads=2, activation=nn.functional.gelu)
    reference = nn.MultiheadAttention(8, 2, kdim=20, vdim=20, batch_first=True)
    with torch.no_grad():
        reference.q_proj_weight.copy_(extractor.query.weight)
        # The text half of the key weight and the key bias are dead: any numbers give the same attention.
        reference.k_proj_weight.copy_(torch.cat([extractor.key_weight, torch.randn(8, 8)], dim=1))
        reference.v_proj_weight.copy_(extractor.value.weight)
        extractor.query.bias.normal_()
        extractor.value.bias.normal_()
        reference.in_proj_bias.copy_(torch.cat([extractor.query.bias, torch.randn(8), extractor.value.bias]))
        reference.out_proj.weight.copy_(extractor.output.weight)
        reference.out_proj.bias.copy_(extractor.output.bias)
    tokens, question = torch.randn(3, 5, 12), torch.randn(3, 8)
    seen, text = extractor.image_residual(tokens), extractor.text_residual(question)
    keys = torch.cat([seen, text[:, None].expand(-1, 5, -1)], dim=-1)
    expected, attention = reference(text[:, None], keys, keys, average_attn_weights=False)
    images, given = layout(kind, tokens)
    context, gaze = extractor(given, question, images)
    torch.testing.assert_close(context, expected[:, 0], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(gaze.reshape(3, 5, 2), attention[:, :, 0].transpose(1, 2), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", METHODS)
@pytest.mark.parametrize("family", list(tiny.FAMILIES))
def test_the_mixture_equals_equation_10_written_as_a_loop(family, kind, text_encoder, pictures):
    model, processor = attached(family, text_encoder, METHODS[kind])
    vlm = VLM.of(model)
    block = max(vlm.executed_blocks())
    mixture = vlm.blocks()[block].mlp
    seen = {}

    def compare(module, args, output):
        seen["tokens"], seen["output"] = args[0], output
        seen["images"] = model.model.context_slot.read().tower
        seen["weights"], _ = module.routing_weights(args[0])

    mixture.register_forward_hook(compare)
    with torch.no_grad():
        model(**ask(processor, pictures))
    images, weights, tokens = seen["images"], seen["weights"], seen["tokens"]
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(len(weights)))
    per_image = list(tokens) if images.lengths is None else tokens.split(images.lengths.tolist())
    number = mixture.num_experts
    biases = {name: getattr(mixture, name) for name in ("up_bias", "gate_bias", "down_bias")}

    def network(tokens, shares):
        """One feed-forward network whose tensors are the experts' by these shares."""

        def mean(parameter, axis=0):
            return None if parameter is None else sum(s * parameter.select(axis, e) for e, s in enumerate(shares))

        hidden = nn.functional.linear(tokens, mean(mixture.up_weight), mean(biases["up_bias"]))
        if mixture.gate_weight is None:
            hidden = mixture.activation(hidden)
        else:
            gate = nn.functional.linear(tokens, mean(mixture.gate_weight), mean(biases["gate_bias"]))
            hidden = mixture.activation(gate) * hidden
        return nn.functional.linear(hidden, mean(mixture.down_weight, 1), mean(biases["down_bias"]))

    expected = []
    for image, weight in zip(per_image, weights, strict=True):
        if METHODS[kind].routing == "merged":
            expected.append(network(image, weight))
        else:
            one_hot = torch.eye(number)
            expected.append(sum(weight[e] * network(image, one_hot[e]) for e in range(number)))
    expected = torch.stack(expected) if images.lengths is None else torch.cat(expected)
    torch.testing.assert_close(seen["output"], expected, atol=2e-5, rtol=1e-4)


def test_merged_is_another_function_than_dense_once_experts_differ(text_encoder, pictures):
    dense, processor = attached("llava", text_encoder, METHODS["cve-dense"])
    merged, _ = attached("llava", text_encoder, METHODS["cve-merged"])
    merged.load_state_dict(dense.state_dict())
    with torch.no_grad():
        for model in (dense, merged):
            for name, parameter in model.named_parameters():
                if name.endswith("up_weight"):
                    parameter += torch.linspace(-1, 1, parameter.numel()).reshape(parameter.shape).sin()
        batch = ask(processor, pictures)
        assert (dense(**batch).logits - merged(**batch).logits).abs().max() > 1e-3


def test_uniform_equals_dense_with_constant_routing(text_encoder, pictures):
    dense, processor = attached("llava", text_encoder, METHODS["cve-dense"])
    uniform, _ = attached("llava", text_encoder, METHODS["uniform"])
    state = {name: tensor for name, tensor in dense.state_dict().items() if name in uniform.state_dict()}
    uniform.load_state_dict(state)
    with torch.no_grad():
        for name, parameter in dense.named_parameters():
            if "router" in name:
                parameter.zero_()
        batch = ask(processor, pictures)
        torch.testing.assert_close(uniform(**batch).logits, dense(**batch).logits)


def router_gradients(text_encoder, pictures, jitter):
    method = CoVFT(num_experts=3, context_dim=16, expert_jitter=jitter)
    torch.manual_seed(5)
    model, processor = attached("llava", text_encoder, method, spread_experts=False)
    batch = ask(processor, pictures)
    model(**batch, labels=batch["input_ids"]).loss.backward()
    return [p.grad.abs().max().item() for p in parameter_groups(model)["router"].values()], model


def test_identical_experts_leave_the_router_without_gradient_and_jitter_wakes_it(text_encoder, pictures):
    still, _ = router_gradients(text_encoder, pictures, jitter=0.0)
    awake, model = router_gradients(text_encoder, pictures, jitter=1e-2)
    assert max(still) < 1e-8
    assert max(awake) > 1e-5
    mixture = model.model.vision_tower.encoder.layers[2].mlp
    pretrained = tiny.llava()[0].model.vision_tower.encoder.layers[2].mlp.fc2.weight
    torch.testing.assert_close(mixture.down_weight.mean(dim=1), pretrained, atol=1e-6, rtol=1e-5)
    spread = (mixture.down_weight - pretrained[:, None]).std() / pretrained.std()
    assert 0.5e-2 < spread < 1.5e-2


def test_one_expert_is_the_same_tensors_without_router_or_question(pictures):
    model, processor = tiny.llava()
    yarbus.attach(model, processor, vision=METHODS["one-expert"])
    assert declared_groups(model) == ["vision", "vision_new"]
    assert "context_input_ids" not in ask(processor, pictures)
    blocks = VLM.of(model).blocks()
    assert blocks[1].mlp.router is None
    plain = tiny.llava()[0].model.vision_tower.encoder.layers[1].mlp
    assert sum(p.numel() for p in blocks[1].mlp.parameters()) == sum(p.numel() for p in plain.parameters())


@pytest.mark.parametrize(("scope", "blocks"), [("all", [0, 1, 2]), ("from_start", [1, 2]), ("none", [])])
def test_layernorm_scope_says_which_norms_train(scope, blocks, text_encoder):
    model, processor = tiny.llava()
    yarbus.attach(model, processor, vision=CoVFT(context_dim=16, layernorm=scope), text_encoder=text_encoder)
    norms = parameter_groups(model).get("vision", {})
    assert sorted({int(name.split("layers.")[1].split(".")[0]) for name in norms}) == blocks
    assert len(norms) == 4 * len(blocks)
    assert ("vision" in declared_groups(model)) == bool(blocks)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("covtf", "unknown vision method 'covtf'; fix: use one of: covft"),
        (
            {"method": "covft", "num_expert": 2},
            "unknown option 'num_expert' of method 'covft'; fix: use one of: num_experts",
        ),
        ({"method": "covft", "num_experts": 0}, "option 'num_experts' of method 'covft' is 0"),
        ({"method": "covft", "num_experts": "4"}, "option 'num_experts' of method 'covft' is '4'"),
        ({"method": "covft", "routing": "dens"}, "'dense', 'uniform' or 'merged'"),
        ({"method": "full", "rank": 2}, "'full' has no options"),
        ({"num_experts": 2}, "names no method"),
    ],
)
def test_a_wrong_option_is_named_with_what_would_be_right(spec, message):
    with pytest.raises(ConfigError) as caught:
        build("vision", spec)
    assert message in str(caught.value)


def test_a_method_that_reads_the_question_needs_a_text_encoder_and_changes_nothing_without():
    model, processor = tiny.llava()
    with pytest.raises(ConfigError, match="no text encoder"):
        yarbus.attach(model, processor, vision="covft")
    with pytest.raises(ConfigError, match="cannot load text encoder"):
        yarbus.attach(model, processor, vision="covft", text_encoder="no/such-encoder-here")
    with pytest.raises(ConfigError, match="divisible"):
        yarbus.attach(model, processor, vision=CoVFT(context_dim=10), text_encoder="language_embeddings")
    assert not is_attached(model)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert type(model).__name__ == "LlavaForConditionalGeneration" and type(processor).__name__ == "LlavaProcessor"


def test_every_method_of_the_table_builds_by_its_name_and_back_from_its_spec():
    for place, table in TABLES.items():
        for name in table:
            method = build(place, name)
            assert build(place, method.spec()) == method
            assert place in method.places


LLAVA_7B = {
    "model_type": "llava",
    "vision_config": {
        "model_type": "clip_vision_model", "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
        "num_attention_heads": 16, "image_size": 336, "patch_size": 14, "projection_dim": 768,
    },
    "text_config": {"model_type": "llama", "vocab_size": 32064},
    "vision_feature_layer": -2,
}  # fmt: skip


def test_parameters_of_the_papers_model_are_counted_as_the_paper_counts_them():
    """methods.md 2 and 4.1; LLaVA-1.5-7B on the meta device."""
    full = base_on_meta(LLAVA_7B)
    yarbus.attach(full, None, vision="full")
    plan = yarbus.plan(full)
    assert plan.total("declared", "vision") == 303_507_456
    assert plan.total("trained", "vision") == 290_909_184
    model = base_on_meta(LLAVA_7B)
    yarbus.attach(model, None, vision=CoVFT(), projector="full", text_encoder="bert-base-uncased")
    plan = yarbus.plan(model)
    assert plan.total("declared", "vision") == 98_304
    assert plan.groups() == {
        "vision": 94_208,
        "vision_new": 402_898_944,
        # 12 x 590,592 fewer than the official code: key weights of the question's half and key biases are dead.
        "router": 126_010_416 - 12 * 590_592,
        "projector": 20_979_712,
    }
    assert plan.to_json()["text_encoder"] == "bert-base-uncased"
    assert "vision_new" in str(plan)
