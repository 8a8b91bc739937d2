"""Q-MoE's equations against slow loops, the search for paths, and prompts with another number of image tokens."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import yarbus
from tests import tiny
from tests.methods.test_covft import LLAVA_7B
from tests.models.batches import QUESTIONS, ask
from tests.training.conftest import data  # noqa: F401 - a fixture
from tests.training.test_trainer import trainer_of
from yarbus.core.errors import ConfigError
from yarbus.data.sources.llava import read_llava
from yarbus.methods import QMoE
from yarbus.methods.assemble import build_all
from yarbus.methods.qmoe import PreparedPath
from yarbus.models.attach import set_stage
from yarbus.models.attachment import adapter_tensors, attachment_of, is_attached, parameter_groups
from yarbus.models.context import context_of
from yarbus.models.load import base_on_meta
from yarbus.models.observe import observe
from yarbus.models.recompute import bind
from yarbus.training.facts import tensors_hash

WORDS = "language_embeddings"
"""Text encoder of tests in which the router must tell questions apart: to a random BERT's first token all are alike."""
SMALL = {"num_queries": 3, "width": 16, "num_layers": 2, "num_heads": 2, "num_experts": 3}


def attached(text_encoder, *, spread=True, others=None, **options):
    """A small connector; experts and router are pushed apart, so that a path matters as it does after training."""
    model, processor = tiny.llava()
    torch.manual_seed(1)
    yarbus.attach(model, processor, projector=QMoE(**SMALL | options), text_encoder=text_encoder, **(others or {}))
    if spread:
        generator = torch.Generator().manual_seed(11)
        with torch.no_grad():
            for name, tensor in connector_of(model).named_parameters():
                if name.startswith(("router", "queries")) or "weight" in name:
                    tensor += torch.randn(tensor.shape, generator=generator) * 0.3
    return model, processor


def connector_of(model):
    return model.model.multi_modal_projector


def context_of_batch(model, batch):
    return context_of(model.model, batch["input_ids"], batch, batch)


def answered(processor, pictures, questions=QUESTIONS[:3], context=None):
    """A batch with labels on the answers alone, of different lengths."""
    answers = ["one", "left top and right", "red ."][: len(questions)]
    batch = dict(ask(processor, pictures, questions, answers=answers, context=context))
    is_answer = torch.zeros_like(batch["input_ids"], dtype=torch.bool)
    for row, answer in enumerate(answers):
        is_answer[row, -1 - len(answer.split()) :] = True
    return {**batch, "labels": batch["input_ids"].where(is_answer, -100)}


# ---- the connector ----


def attend_by_hand(attention, queries, source):
    q, k, v = attention.query(queries), source @ attention.key.weight.T, attention.value(source)
    head_dim = q.shape[-1] // attention.num_heads
    heads = []
    for head in range(attention.num_heads):
        part = slice(head * head_dim, (head + 1) * head_dim)
        rows = []
        for query in q[:, part]:
            logits = torch.stack([query @ key for key in k[:, part]]) * head_dim**-0.5
            rows.append((logits.softmax(0)[:, None] * v[:, part]).sum(dim=0))
        heads.append(torch.stack(rows))
    return attention.output(torch.cat(heads, dim=-1))


def test_the_connector_equals_its_layers_written_out_image_by_image(pictures):
    model, processor = attached(WORDS)
    connector = connector_of(model)
    batch = ask(processor, pictures, [QUESTIONS[0]] * 4, context=QUESTIONS)
    context = context_of_batch(model, batch)
    features = torch.randn(4, 4, 32)
    paths = set()
    with model.model.context_slot.holding(context), torch.no_grad():
        got = connector(features)
        for image, row in enumerate(context.projector.rows.tolist()):
            question = context.text.encoded[row][1]
            queries, seen = connector.queries, connector.feature_norm(features[image])
            path = []
            for layer, block in enumerate(connector.blocks):
                weights = (connector.router.weight[layer * 3 : layer * 3 + 3] @ question).softmax(dim=0)
                expert = int(weights.argmax())
                normed = block.norms[0](queries)
                queries = queries + attend_by_hand(block.self_attention, normed, normed)
                queries = queries + attend_by_hand(block.cross_attention, block.norms[1](queries), seen)
                network = block.feed_forward
                hidden = block.norms[2](queries) @ network.up_weight[expert].T + network.up_bias[expert]
                hidden = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))  # GELU
                queries = queries + hidden @ network.down_weight[expert].T + network.down_bias[expert]
                path.append(expert)
            paths.add(tuple(path))
            torch.testing.assert_close(got[image], connector.norm(connector.output(queries)), atol=2e-5, rtol=1e-4)
    assert len(paths) > 1  # the questions take different ways, or the loop would show little


def test_experts_start_as_copies_with_noise_that_cancels(text_encoder):
    model, _ = attached(text_encoder, spread=False)
    network = connector_of(model).blocks[0].feed_forward
    assert torch.equal(network.up_weight[0], network.up_weight[2])
    distance = (network.down_weight[0] - network.down_weight[1]).std() / network.down_weight.std()
    assert 5e-4 < distance < 3e-3
    model, _ = attached(text_encoder, spread=False, expert_jitter=0.0)
    exact = connector_of(model).blocks[0].feed_forward.down_weight
    assert torch.equal(exact[0], exact[1])
    torch.testing.assert_close(network.down_weight.mean(dim=0), exact[0], atol=1e-6, rtol=1e-4)


def test_several_pictures_of_a_row_take_the_same_path(pictures):
    model, processor = attached(WORDS)
    taken = []
    network = connector_of(model).blocks[0].feed_forward
    network.register_forward_pre_hook(lambda module, args: taken.append(args[1]))
    batch = ask(processor, pictures, [QUESTIONS[0]] * 2, context=[QUESTIONS[0], QUESTIONS[1]], images_per_row=2)
    with torch.no_grad():
        model(**batch)
    path = connector_of(model).routing_logits(context_of_batch(model, batch).text.pooled).argmax(dim=-1)[:, 0].tolist()
    assert taken == [[path[0], path[0], path[1], path[1]]]


# ---- the search for paths ----


def test_paths_are_random_at_first_and_uniform(text_encoder, pictures, monkeypatch):
    model, processor = attached(text_encoder)
    connector, batch = connector_of(model), answered(processor, pictures)
    monkeypatch.setattr(model, "forward", None)  # the first phase runs no forward of its own
    torch.manual_seed(5)
    drawn = []
    for step in range(200):
        connector.prepare(model, batch, 0.299 * step / 200)
        assert not connector.prepared.pull.any()
        drawn.append(connector.prepared.path)
    drawn = torch.stack(drawn)
    assert drawn.shape == (200, 3, 2)
    shares = F.one_hot(drawn, 3).float().mean(dim=0)  # [rows, layers, experts]
    assert (shares - 1 / 3).abs().max() < 0.12  # 3.6 standard deviations
    torch.manual_seed(5)
    connector.prepare(model, batch, 0.0)
    assert torch.equal(connector.prepared.path, drawn[0])


def test_later_each_row_trains_on_the_better_of_two_paths(pictures, monkeypatch):
    model, processor = attached(WORDS)
    connector, batch = connector_of(model), answered(processor, pictures)
    routed = connector.routing_logits(context_of_batch(model, batch).text.pooled).argmax(dim=-1)
    tried = []

    def landscape(model, inputs, path):
        tried.append(path)
        # Row 0 likes the first path it is shown, row 1 the second, row 2 cannot tell.
        return torch.tensor([[1.0, 2.0, 3.0], [2.0, 1.0, 3.0]][len(tried) - 1])

    monkeypatch.setattr(connector, "_losses", landscape)
    with torch.no_grad():
        connector.router.weight *= 1e-3  # the draw is from the router's weights: nearly uniform now
    torch.manual_seed(0)
    connector.prepare(model, batch, 0.3)
    assert torch.equal(tried[0], routed) and not torch.equal(tried[1][1], routed[1])
    path = connector.prepared.path
    assert torch.equal(path[0], routed[0]) and torch.equal(path[1], tried[1][1]) and torch.equal(path[2], routed[2])
    torch.testing.assert_close(connector.prepared.pull, torch.tensor([0.0, 0.1, 0.0]))
    assert connector.num_searches == 1


def test_in_a_fake_landscape_the_router_finds_the_path_of_lowest_loss(pictures, monkeypatch):
    model, processor = attached(WORDS, spread=False)
    connector, batch = connector_of(model), answered(processor, pictures)
    goal = torch.tensor([[2, 0], [1, 1], [0, 2]])
    monkeypatch.setattr(connector, "_losses", lambda model, inputs, path: (path != goal).sum(dim=1).float())
    optimizer = torch.optim.AdamW([connector.router.weight], lr=5e-2, weight_decay=0.0)
    model.train()
    torch.manual_seed(0)
    for _ in range(150):
        connector.prepare(model, batch, 0.5)
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()
    assert torch.equal(connector.routing_logits(context_of_batch(model, batch).text.pooled).argmax(dim=-1), goal)


def test_the_loss_of_a_path_is_each_rows_mean_over_its_answer_tokens(text_encoder, pictures):
    model, processor = attached(text_encoder)
    connector, batch = connector_of(model), answered(processor, pictures)
    model.train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.5  # off while paths are compared
    path = torch.tensor([[0, 1], [2, 2], [1, 0]])
    with torch.no_grad():
        losses = connector._losses(model, batch, path)
    assert model.training and connector.training and not model.model.context_encoder.training
    model.eval()
    for row in range(3):
        alone = {name: value[row : row + 1] for name, value in batch.items()}
        connector.tried = path[row : row + 1]
        with torch.no_grad():
            logits = model(**{name: value for name, value in alone.items() if name != "labels"}).logits[0, :-1]
        targets = alone["labels"][0, 1:]
        terms = [
            -logits[at].log_softmax(dim=-1)[target] for at, target in enumerate(targets.tolist()) if target != -100
        ]
        torch.testing.assert_close(losses[row], sum(terms) / len(terms), atol=1e-5, rtol=1e-4)


def test_a_prepared_path_is_taken_by_the_forward_it_was_prepared_for_and_no_other(pictures):
    model, processor = attached(WORDS)
    connector, batch = connector_of(model), answered(processor, pictures)
    taken = []
    for block in connector.blocks:
        block.feed_forward.register_forward_pre_hook(lambda module, args: taken.append(args[1]))

    def path_of(batch):
        taken.clear()
        model(**batch)
        return torch.tensor(taken).T

    routed = path_of(batch)
    connector.prepared = PreparedPath(context_of_batch(model, batch).text.pooled, (routed + 1) % 3, torch.zeros(3))
    assert torch.equal(path_of(batch), routed)  # evaluation: the router's path
    model.train()
    assert torch.equal(path_of(batch), (routed + 1) % 3)
    other = answered(processor, pictures, context=[QUESTIONS[3], *QUESTIONS[1:3]])
    expected = connector.routing_logits(context_of_batch(model, other).text.pooled).argmax(dim=-1)
    assert torch.equal(path_of(other), expected)


@pytest.mark.parametrize(("pull", "scale"), [((9, 0.1, 0.2), 1.0), ((9, 0.1, 0.0), 0.25), ((9, 0, 0), 1.0)])
def test_the_router_learns_from_the_added_cross_entropy_alone(pull, scale, text_encoder, pictures):
    """Also where the top model's forward never runs, as under a fused head: the loss is on the connector's output."""
    model, processor = attached(text_encoder)
    connector = connector_of(model)
    rows = [
        [{"role": "user", "content": [{"type": "text", "text": QUESTIONS[0]}]}],
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTIONS[1]}]}],
        [{"role": "user", "content": [{"type": "image"}, {"type": "image"}, {"type": "text", "text": QUESTIONS[2]}]}],
    ]
    text = processor.apply_chat_template(rows, add_generation_prompt=True)
    batch = processor(images=[[], pictures[:1], pictures[1:3]], text=text, padding=True, return_tensors="pt")
    question = context_of_batch(model, batch).text.pooled
    path = torch.tensor([[0, 1], [2, 2], [1, 0]])
    connector.prepared = PreparedPath(question, path, torch.tensor(pull, dtype=torch.float))
    model.train()
    with model.model.context_slot.weighing(scale):
        model.model(**batch).last_hidden_state.square().mean().backward()
    found = connector.router.weight.grad.clone()
    # Rows 1 and 2 have pictures and count once each; row 0 took no path.
    logits = (question @ connector.router.weight.T).unflatten(-1, (2, 3))
    terms = [
        pull[row] * -logits[row, layer].log_softmax(dim=-1)[path[row, layer]] for row in (1, 2) for layer in (0, 1)
    ]
    expected = torch.autograd.grad(scale * sum(terms) / 4, connector.router.weight)[0]
    torch.testing.assert_close(found, expected, atol=1e-7, rtol=1e-5)
    assert found.any() == any(pull[1:])


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_recomputed_forward_takes_its_own_path(reentrant, text_encoder, pictures):
    """Two forwards before one backward, the second with another path on the module by then."""

    def gradients(checkpointed):
        model, processor = attached(text_encoder)
        connector = connector_of(model)
        if checkpointed:
            forward, run = connector.forward, bind(checkpoint, model.model.context_slot)
            connector.forward = lambda features: run(forward, features.requires_grad_(), use_reentrant=reentrant)
        model.train()
        losses = []
        for context, path in ((QUESTIONS[:3], 0), (QUESTIONS[1:4], 2)):
            batch = answered(processor, pictures, context=context)
            question = context_of_batch(model, batch).text.pooled
            connector.prepared = PreparedPath(question, torch.full((3, 2), path), torch.full((3,), 0.1))
            losses.append(model(**batch).loss)
        sum(losses).backward()
        return {name: p.grad for name, p in connector.named_parameters()}

    plain, checkpointed = gradients(False), gradients(True)
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient, atol=1e-6, rtol=1e-4, msg=name)
    assert plain["router.weight"].any()


def test_a_batch_without_pictures_and_a_frozen_connector_prepare_nothing(text_encoder, pictures):
    model, processor = attached(text_encoder)
    connector = connector_of(model)
    connector.prepare(model, dict(processor(text=["what digit"], return_tensors="pt")), 0.0)
    assert connector.prepared is None
    set_stage(model, processor, build_all({"language": "full"}))
    connector.prepare(model, answered(processor, pictures), 0.0)
    assert connector.prepared is None


def test_a_copy_prepares_paths_of_its_own(text_encoder, pictures):
    model, processor = attached(text_encoder)
    twin = copy.deepcopy(model)
    (prepare,) = attachment_of(twin).preparations
    assert prepare.__self__ is connector_of(twin)
    prepare(twin, answered(processor, pictures), 0.0)
    assert connector_of(twin).prepared is not None and connector_of(model).prepared is None


def test_a_later_stage_does_not_begin_with_random_paths_again(text_encoder, pictures):
    model, processor = attached(text_encoder)
    connector, batch = connector_of(model), answered(processor, pictures)
    with torch.no_grad():
        connector.prepare(model, batch, 0.5)
        connector.prepare(model, batch, 0.0)
    assert connector.prepared is not None
    assert adapter_tensors(model)["model.multi_modal_projector.num_searches"] == 2


# ---- training ----


def trained(text_encoder, samples, folder, *, resume=None, **settings):
    model, processor = attached(text_encoder, spread=False, random_share=0.5)
    model.config.text_config.attention_dropout = 0.2  # so that a lost generator state shows
    torch.manual_seed(3)
    parts, rates = (model, processor), {"projector": 1e-2}
    trainer = trainer_of(parts, samples, folder, rates=rates, max_steps=4, gradient_accumulation_steps=2, **settings)
    trainer.train(resume)
    return model


def test_the_guarded_trainer_searches_paths_and_resumes_to_the_bit(text_encoder, data, tmp_path):  # noqa: F811
    samples = read_llava(data / "train.json", data)
    saving = {"save_strategy": "steps", "save_steps": 3}
    model = trained(text_encoder, samples, tmp_path / "whole", **saving)
    connector = connector_of(model)
    assert connector.num_searches == 4  # two of four steps, two micro-batches each
    before = adapter_tensors(attached(text_encoder, spread=False)[0])
    after = adapter_tensors(model)
    still = {name for name in before if torch.equal(before[name], after[name])}
    assert not still, still
    middle = tmp_path / "whole" / "checkpoints" / "step-000003"
    resumed = trained(text_encoder, samples, tmp_path / "whole", resume=str(middle), **saving)
    assert tensors_hash(adapter_tensors(resumed)) == tensors_hash(after)


def test_bf16_autocast_searches_and_trains(text_encoder, pictures):
    model, processor = attached(text_encoder)
    connector, batch = connector_of(model), answered(processor, pictures)
    model.train()
    with torch.autocast("cpu", torch.bfloat16):
        with torch.no_grad():
            connector.prepare(model, batch, 0.5)
        loss = model(**batch).loss
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in connector.parameters())
    assert connector.router.weight.grad.any()


# ---- prompts ----


def placeholders(processor, batch):
    return (batch["input_ids"] == processor.image_token_id).sum(dim=1).tolist()


def test_an_image_takes_as_many_placeholders_as_there_are_queries(text_encoder, pictures):
    plain = tiny.llava()[1]
    assert placeholders(plain, ask(plain, pictures)) == [4, 4]
    model, processor = attached(text_encoder)
    assert placeholders(processor, ask(processor, pictures)) == [3, 3]
    assert placeholders(processor, ask(processor, pictures, images_per_row=2)) == [6, 6]
    messages = [
        {"role": "user", "content": [{"type": "image", "image": pictures[0]}, {"type": "text", "text": "what"}]}
    ]
    options = {"tokenize": True, "return_dict": True, "return_tensors": "pt", "add_generation_prompt": True}
    batch = processor.apply_chat_template([messages], **options)
    assert placeholders(processor, batch) == [3]
    assert model.generate(**batch, max_new_tokens=3, min_new_tokens=3).shape[1] == batch["input_ids"].shape[1] + 3
    pickled = pickle.loads(pickle.dumps(processor))  # noqa: S301 - as a dataloader's workers do
    assert placeholders(pickled, ask(pickled, pictures)) == [3, 3]
    yarbus.detach(model, processor)
    assert type(processor) is type(plain) and processor.to_dict() == plain.to_dict()
    assert placeholders(processor, ask(processor, pictures)) == [4, 4]


def test_none_takes_as_many_queries_as_the_projector_gave(text_encoder, pictures):
    plain = tiny.llava()[1]
    model, processor = attached(text_encoder, num_queries=None)
    batch = ask(processor, pictures)
    assert connector_of(model).queries.shape == (4, 16)
    assert torch.equal(batch["input_ids"], ask(plain, pictures)["input_ids"])
    assert model(**batch).logits.isfinite().all()


@pytest.mark.parametrize("kind", ["adapter", "full"])
def test_what_is_loaded_writes_the_same_prompts_and_answers(kind, text_encoder, pictures, tmp_path):
    model, processor = attached(text_encoder)
    batch = ask(processor, pictures)
    options = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    expected = model.generate(**batch, **options)
    if kind == "adapter":
        yarbus.save_adapter(model, tmp_path, processor)
        loaded, its_processor = yarbus.load_adapter(*tiny.llava(), tmp_path)
        assert yarbus.load_adapter(tiny.llava()[0], None, tmp_path)[1] is None
    else:
        yarbus.save(model, processor, tmp_path)
        assert '"image_tokens"' not in (tmp_path / "processor_config.json").read_text()
        loaded, its_processor = yarbus.load(tmp_path)
    again = ask(its_processor, pictures)
    assert torch.equal(again["input_ids"], batch["input_ids"])
    assert torch.equal(loaded.generate(**again, **options), expected)
    names = set(loaded.state_dict())
    assert not any("multi_modal_projector.linear" in name for name in names)


def test_the_eyes_are_observed_through_the_new_connector(text_encoder, pictures):
    plain, its_processor = tiny.llava()
    expected = observe(plain, [{**ask(its_processor, pictures), "sample_ids": ["a", "b"]}])
    model, processor = attached(text_encoder)
    observed = observe(model, [{**ask(processor, pictures), "sample_ids": ["a", "b"]}])
    assert observed.sample_ids == ["a", "b"] and observed.text.shape == (2, 16)
    assert torch.equal(observed.features, expected.features)


def test_a_family_whose_positions_follow_the_picture_is_refused_and_stays_as_it_was(text_encoder, pictures):
    model, processor = tiny.qwen()
    before = type(processor)
    with pytest.raises(ConfigError, match="does not work on Qwen2_5_VLConfig") as caught:
        yarbus.attach(model, processor, projector=QMoE(**SMALL), text_encoder=text_encoder)
    assert "positions" in caught.value.why
    assert not is_attached(model) and type(processor) is before
    assert model(**ask(processor, pictures)).logits.isfinite().all()


def test_a_width_that_its_heads_do_not_share_is_refused(text_encoder):
    model, processor = tiny.llava()
    with pytest.raises(ConfigError, match="width 16 is not divisible by num_heads 3"):
        yarbus.attach(model, processor, projector=QMoE(**SMALL | {"num_heads": 3}), text_encoder=text_encoder)


def test_the_counts_of_llava_7b():
    """methods.md 5.2 on the meta device, with BERT's 768 for the question."""
    model = base_on_meta(LLAVA_7B)
    yarbus.attach(model, None, projector=QMoE(), text_encoder="bert-base-uncased")
    square, expert = 768 * 768, 768 * 3072 * 2 + 3072 + 768
    self_attention = 4 * square + 3 * 768
    cross_attention = 2 * square + 2 * 768 * 1024 + 3 * 768
    layer = self_attention + cross_attention + 4 * expert + 3 * 2 * 768
    ends = 144 * 768 + 2 * 1024 + (768 * 4096 + 4096) + 2 * 4096
    router = 6 * 4 * 768
    assert yarbus.plan(model).groups() == {"projector": 6 * layer + ends + router}
    assert sum(p.numel() for p in parameter_groups(model)["projector"].values()) == 147_353_600
    assert attachment_of(model).image_tokens == 144


def test_features_of_several_blocks_are_read_side_by_side():
    model = base_on_meta({**LLAVA_7B, "vision_feature_layer": [-2, -6]})
    yarbus.attach(model, None, projector=QMoE(num_queries=None), text_encoder="bert-base-uncased")
    assert connector_of(model).blocks[0].cross_attention.key.in_features == 2048
    assert attachment_of(model).image_tokens == 576
