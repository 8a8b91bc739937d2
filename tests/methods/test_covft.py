"""CoVFT's equations against slow loops, its options, its start, and the counts of the paper's model."""

import pytest
import torch
from torch import nn

import yarbus
from tests import tiny
from tests.models.batches import QUESTIONS, ask
from tests.models.test_question_path import METHODS, attached
from yarbus.core.errors import ConfigError
from yarbus.methods import METHODS as TABLES
from yarbus.methods import CoVFT
from yarbus.methods.assemble import build
from yarbus.methods.contexts import ConcatContext, ContextVectorExtractor, ImageContext
from yarbus.methods.covft import draw, mixtures_of
from yarbus.models.attachment import declared_groups, is_attached, parameter_groups
from yarbus.models.images import ImageMap
from yarbus.models.load import base_on_meta
from yarbus.models.sketch import hashes
from yarbus.models.slot import Context
from yarbus.models.vlm import VLM

SPARSE = CoVFT(num_experts=3, context_dim=16, routing="sparse")
RANDOM = CoVFT(num_experts=4, routing="random")
EVERY = METHODS | {
    "image-dense": CoVFT(num_experts=3, context="image"),
    "concat-merged": CoVFT(num_experts=3, context_dim=24, context="concat", routing="merged"),
    "cve-sparse": SPARSE,
    "random": RANDOM,
}
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


@pytest.mark.parametrize("kind", PACKED)
def test_the_picture_alone_is_the_normalised_mean_of_all_its_tokens(kind):
    torch.manual_seed(0)
    extractor = ImageContext(12)
    with torch.no_grad():
        extractor.norm.weight.normal_()
    tokens = torch.randn(3, 5, 12)
    images, given = layout(kind, tokens)
    context, gaze = extractor(given, None, images)
    expected = torch.stack([extractor.norm(sum(token for token in image) / 5) for image in tokens])
    torch.testing.assert_close(context, expected)
    assert gaze is None and extractor.dim == 12


@pytest.mark.parametrize("kind", PACKED)
def test_picture_and_question_side_by_side_are_each_normalised_alone(kind):
    torch.manual_seed(0)
    extractor = ConcatContext(12, 8, 6)
    tokens, question = torch.randn(3, 5, 12), torch.randn(3, 8)
    images, given = layout(kind, tokens)
    context, gaze = extractor(given, question, images)
    words = nn.functional.layer_norm(extractor.text.projection(question), (6,))
    expected = torch.cat([nn.functional.layer_norm(tokens.mean(dim=1), (12,)), words], dim=1)
    torch.testing.assert_close(context, expected)
    assert gaze is None and extractor.dim == 18


@pytest.mark.parametrize("kind", EVERY)
@pytest.mark.parametrize("family", list(tiny.FAMILIES))
def test_the_mixture_equals_equation_10_written_as_a_loop(family, kind, text_encoder, pictures):
    model, processor = attached(family, text_encoder, EVERY[kind])
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
        if EVERY[kind].routing == "merged":
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


# ---- sparse ----


@pytest.mark.parametrize("family", list(tiny.FAMILIES))
def test_sparse_routing_among_all_experts_is_dense_routing(family, text_encoder, pictures):
    found = []
    for options in ({"routing": "dense"}, {"routing": "sparse", "top_k": 3}):
        model, processor = attached(family, text_encoder, CoVFT(num_experts=3, context_dim=16, **options))
        batch = ask(processor, pictures)
        output = model(**batch, labels=batch["input_ids"])
        output.loss.backward()
        found.append((output.logits, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}))
    (dense, dense_gradients), (sparse, sparse_gradients) = found
    torch.testing.assert_close(sparse, dense, atol=1e-5, rtol=1e-4)
    assert sparse_gradients.keys() == dense_gradients.keys()
    for name, gradient in dense_gradients.items():
        torch.testing.assert_close(sparse_gradients[name], gradient, atol=1e-5, rtol=1e-3, msg=name)


@pytest.mark.parametrize("family", list(tiny.FAMILIES))
@pytest.mark.parametrize("method", [SPARSE, RANDOM], ids=lambda method: method.routing)
def test_each_expert_runs_on_the_images_that_chose_it_and_no_others(family, method, text_encoder, pictures):
    model, processor = attached(family, text_encoder, method)
    mixture = mixtures_of(model)[2]
    ran, run = [], mixture._run
    mixture._run = lambda tokens, *rest: ran.append(tokens) or run(tokens, *rest)
    seen = {}
    mixture.register_forward_hook(
        lambda module, args, output: seen.update(tokens=args[0], images=model.model.context_slot.read().tower)
    )
    with model.model.context_slot.recording() as recorder, torch.no_grad():
        model(**ask(processor, pictures, QUESTIONS))
    weights = recorder.of("routing_weights")[2][0]
    assert ((weights > 0).sum(dim=1) == 2).all() and len(ran) == method.num_experts
    lengths = seen["images"].lengths
    by_image = seen["tokens"].unbind() if lengths is None else seen["tokens"].split(lengths.tolist())
    for expert, tokens in enumerate(ran):
        chose = [image for image, weight in zip(by_image, weights[:, expert], strict=True) if weight > 0]
        if lengths is None:
            assert torch.equal(tokens, torch.stack(chose) if chose else tokens[:0]) and len(tokens) == len(chose)
        else:
            assert torch.equal(tokens, torch.cat(chose) if chose else tokens[:0])


def test_sparse_weights_are_a_softmax_over_the_largest_logits_and_so_is_their_gradient(text_encoder, pictures):
    model, _ = attached("llava", text_encoder, CoVFT(num_experts=4, context_dim=16, routing="sparse"))
    mixture = mixtures_of(model)[2]
    logits = torch.tensor([[1.0, 3.0, 2.0, 0.0], [-1.0, -2.0, 5.0, -0.5]], requires_grad=True)
    weights = mixture._sparse_weights(logits, Context(None, None, None))
    assert torch.equal(weights != 0, torch.tensor([[False, True, True, False], [False, False, True, True]]))
    torch.testing.assert_close(weights[0, 1:3], torch.tensor([3.0, 2.0]).softmax(dim=0))
    (gradient,) = torch.autograd.grad((weights * torch.randn(2, 4)).sum(), logits)
    assert torch.equal(gradient != 0, weights != 0)


def test_an_expert_that_no_image_chose_gets_zeros_for_a_gradient(text_encoder, pictures):
    model, processor = attached("llava", text_encoder, CoVFT(num_experts=4, context_dim=16, routing="sparse", top_k=1))
    batch = ask(processor, pictures, QUESTIONS[:1])
    model(**batch, labels=batch["input_ids"]).loss.backward()
    for mixture in mixtures_of(model).values():
        for parameter, axis in ((mixture.up_weight, 0), (mixture.down_weight, 1), (mixture.down_bias, 0)):
            assert sum(bool(part.any()) for part in parameter.grad.unbind(axis)) == 1


def test_temperature_divides_the_logits(text_encoder, pictures):
    weights = []
    for temperature in (1.0, 0.5):
        method = CoVFT(num_experts=3, context_dim=16, temperature=temperature)
        model, processor = attached("llava", text_encoder, method)
        with model.model.context_slot.recording() as recorder, torch.no_grad():
            model(**ask(processor, pictures))
        weights.append(recorder.of("routing_weights")[1][0])
    plain, sharp = weights
    torch.testing.assert_close(sharp, plain**2 / (plain**2).sum(dim=1, keepdim=True))


def test_the_picture_alone_routes_without_text_encoder_or_question(pictures):
    model, processor = tiny.llava()
    method = CoVFT(num_experts=3, context="image")
    yarbus.attach(model, processor, vision=method)
    assert not method.reads_question and method.groups("vision") == ("vision", "vision_new", "router")
    batch = ask(processor, pictures, [QUESTIONS[0]] * 2)
    assert "context_input_ids" not in batch
    with model.model.context_slot.recording() as recorder, torch.no_grad():
        model(**batch)
        model.generate(**batch, max_new_tokens=2)
    first, _ = recorder.of("routing_weights")[2]
    assert not torch.equal(first[0], first[1])


# ---- random ----


def drawn(model, processor, pictures, keys=None):
    batch = ask(processor, pictures, QUESTIONS)
    if keys is not None:
        batch["context_row_key"] = torch.tensor(keys)
    with model.model.context_slot.recording() as recorder, torch.no_grad():
        model(**batch)
    return {block: values[0] for block, values in recorder.of("routing_weights").items()}


def test_random_routing_gives_two_experts_half_each_anew_for_image_block_visit_and_seed(pictures):
    model, processor = tiny.llava()
    yarbus.attach(model, processor, vision=RANDOM)
    assert RANDOM.draws_at_random and not RANDOM.reads_question and "router" not in RANDOM.groups("vision")
    assert "context_input_ids" not in ask(processor, pictures)
    keys = [11, 12, 13, 14]
    first = drawn(model, processor, pictures, keys)
    for weights in first.values():
        assert ((weights == 0.5).sum(dim=1) == 2).all() and ((weights == 0).sum(dim=1) == 2).all()
    assert not torch.equal(first[1], first[2])
    again = drawn(model, processor, pictures, keys)
    assert all(torch.equal(again[block], first[block]) for block in first)
    other_visit = drawn(model, processor, pictures, [21, 22, 23, 24])
    assert any(not torch.equal(other_visit[block], first[block]) for block in first)
    seeded, _ = tiny.llava()
    yarbus.attach(seeded, processor, vision=CoVFT(num_experts=4, routing="random", routing_seed=1))
    other_seed = drawn(seeded, processor, pictures, keys)
    assert any(not torch.equal(other_seed[block], first[block]) for block in first)
    model.train()
    assert torch.equal(drawn(model, processor, pictures, keys)[1], first[1])


def test_every_set_of_experts_is_drawn_equally_often():
    pairs = draw(hashes(3, 0, 12_000), 11, 4, 2).sort(dim=1).values
    counts = torch.zeros(4, 4).index_put((pairs[:, 0], pairs[:, 1]), torch.ones(()), accumulate=True)
    of_each = counts[counts > 0]
    assert len(of_each) == 6 and not counts.diagonal().any()
    assert ((of_each - 2000) ** 2 / 2000).sum() < 20.5  # chi squared of 5 degrees of freedom, p = 0.001


def test_at_test_all_experts_may_be_averaged(text_encoder, pictures):
    options = {"num_experts": 3, "context_dim": 16}
    average, processor = attached("llava", text_encoder, CoVFT(routing="random", test_average=True, **options))
    uniform, _ = attached("llava", text_encoder, METHODS["uniform"])
    uniform.load_state_dict(average.state_dict())
    batch = ask(processor, pictures)
    with torch.no_grad():
        assert torch.equal(average(**batch).logits, uniform(**batch).logits)
        average.train()
        assert not torch.equal(average(**batch).logits, uniform(**batch).logits)


# ---- options ----


def test_presets_differ_where_paper_code_and_we_do():
    assert CoVFT.preset("paper") == CoVFT()
    assert CoVFT.preset("official") == CoVFT(activation="quick_gelu")
    ours = CoVFT.preset("ours", routing="sparse")
    assert (ours.activation, ours.expert_jitter, ours.balance_loss, ours.z_loss) == (None, 1e-3, 0.01, 0.001)
    assert ours.has_losses and not CoVFT.preset("ours").has_losses and not CoVFT(routing="sparse").has_losses


def test_more_experts_cannot_be_chosen_than_there_are():
    for routing in ("sparse", "random"):
        with pytest.raises(ConfigError, match="top_k 3 of 2 experts"):
            CoVFT(num_experts=2, top_k=3, routing=routing)
        CoVFT(num_experts=1, routing=routing)
    CoVFT(num_experts=2, top_k=3)


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
        ({"method": "covft", "routing": "dens"}, "'dense', 'sparse', 'uniform', 'random' or 'merged'"),
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
    assert plan.total("declared", "vision_new") == 402_898_944
    assert plan.total("declared", "router") == 126_010_416
    assert plan.groups() == {
        "vision": 94_208,
        "vision_new": 402_898_944,
        # 12 x 590,592 fewer than declared: key weights of the question's half and key biases are dead.
        "router": 118_923_312,
        "projector": 20_979_712,
    }
    assert plan.to_json()["text_encoder"] == "bert-base-uncased"
    assert "vision_new" in str(plan)
