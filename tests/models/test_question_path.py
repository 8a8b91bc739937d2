"""The question's path, on every family in the tests' table and every kind of CoVFT."""

import copy
import pickle

import pytest
import torch
from torch.utils.checkpoint import checkpoint

import yarbus
from tests import tiny
from tests.models.batches import QUESTIONS, ask, without_context
from yarbus.core.errors import ConfigError, DataError
from yarbus.methods import CoVFT
from yarbus.models.attachment import parameter_groups
from yarbus.models.channel import CHANNEL

METHODS = {
    "cve-dense": CoVFT(num_experts=3, context_dim=16),
    "cve-merged": CoVFT(num_experts=3, context_dim=16, routing="merged"),
    "text-dense": CoVFT(num_experts=3, context_dim=16, context="text"),
    "text-merged": CoVFT(num_experts=2, context_dim=24, context="text", routing="merged"),
    "uniform": CoVFT(num_experts=3, context_dim=16, routing="uniform"),
    "one-expert": CoVFT(num_experts=1, context_dim=16),
}
ASKING = [name for name, method in METHODS.items() if method.reads_question]


@pytest.fixture(params=list(tiny.FAMILIES))
def family(request):
    return request.param


def attached(family, text_encoder, method, *, train="projector language", spread_experts=True):
    """A model with a method; experts are pushed apart, so that routing matters as it does after training."""
    model, processor = tiny.FAMILIES[family]()
    others = dict.fromkeys(train.split(), "full")
    yarbus.attach(model, processor, vision=method, text_encoder=text_encoder, **others)
    if spread_experts:
        generator = torch.Generator().manual_seed(11)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith(("down_weight", "router.weight", "key_weight", "query.weight")):
                    parameter += torch.randn(parameter.shape, generator=generator) * 0.5
    return model, processor


@pytest.mark.parametrize("kind", METHODS)
def test_attaching_changes_outputs_by_no_more_than_rounding_and_detaching_restores_them(
    family, kind, text_encoder, pictures
):
    base, processor = tiny.FAMILIES[family]()
    batch = ask(processor, pictures)
    with torch.no_grad():
        expected = base(**batch).logits
        before = {name: value.clone() for name, value in base.state_dict().items()}
        yarbus.attach(base, processor, vision=METHODS[kind], language="full", text_encoder=text_encoder)
        got = base(**ask(processor, pictures)).logits
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)
        yarbus.detach(base, processor)
        assert torch.equal(base(**batch).logits, expected)
    after = base.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(parameter.requires_grad for parameter in base.parameters())
    assert not base.model._forward_pre_hooks and not base.model._forward_hooks
    assert type(base).__name__ in {"LlavaForConditionalGeneration", "Qwen2_5_VLForConditionalGeneration"}
    assert set(ask(processor, pictures)) == set(batch)


@pytest.mark.parametrize("kind", METHODS)
def test_only_what_the_plan_declares_gets_a_gradient_and_all_of_it_does(family, kind, text_encoder, pictures):
    model, processor = attached(family, text_encoder, METHODS[kind], train="projector")
    batch = ask(processor, pictures)
    model(**batch, labels=batch["input_ids"]).loss.backward()
    declared = {name for group in parameter_groups(model).values() for name in group}
    reached = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert reached == declared
    silent = {name for name in declared if not model.get_parameter(name).grad.any()}
    assert not silent, sorted(silent)[:5]
    assert sum(
        parameter_groups(model)["vision_new"][name].numel() for name in parameter_groups(model)["vision_new"]
    ) == (yarbus.plan(model).total("trained", "vision_new"))


@pytest.mark.parametrize("kind", ASKING)
def test_another_question_changes_its_own_row_and_no_other_bit(family, kind, text_encoder, pictures):
    model, processor = attached(family, text_encoder, METHODS[kind])
    same = ask(processor, pictures, [QUESTIONS[0]] * 3, context=[QUESTIONS[0]] * 3)
    other = ask(processor, pictures, [QUESTIONS[0]] * 3, context=[QUESTIONS[0], "where blue right", QUESTIONS[0]])
    with torch.no_grad():
        left, right = model(**same).logits, model(**other).logits
    assert torch.equal(left[0], right[0]) and torch.equal(left[2], right[2])
    assert (left[1] - right[1]).abs().max() > 1e-5


def test_rows_may_be_permuted(family, text_encoder, pictures):
    model, processor = attached(family, text_encoder, METHODS["cve-dense"])
    order = [2, 0, 1]
    with torch.no_grad():
        straight = model(**ask(processor, pictures[:3], [QUESTIONS[0]] * 3, context=QUESTIONS[:3])).logits
        shuffled = model(
            **ask(processor, [pictures[i] for i in order], [QUESTIONS[0]] * 3, context=[QUESTIONS[i] for i in order])
        ).logits
    torch.testing.assert_close(shuffled, straight[order], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["cve-dense", "text-merged"])
def test_greedy_with_cache_gives_the_logits_of_a_recomputation(family, kind, text_encoder, pictures):
    model, processor = attached(family, text_encoder, METHODS[kind])
    batch = ask(processor, pictures)
    out = model.generate(
        **batch, max_new_tokens=5, min_new_tokens=5, do_sample=False, output_logits=True, return_dict_in_generate=True
    )
    prompt = batch["input_ids"].shape[1]
    whole = dict(batch)
    whole["input_ids"] = out.sequences
    new = out.sequences.shape[1] - prompt
    whole["attention_mask"] = torch.cat([batch["attention_mask"], torch.ones(2, new, dtype=torch.long)], dim=1)
    if "mm_token_type_ids" in whole:
        padding = torch.zeros(2, new, dtype=whole["mm_token_type_ids"].dtype)
        whole["mm_token_type_ids"] = torch.cat([whole["mm_token_type_ids"], padding], dim=1)
    with torch.no_grad():
        recomputed = model(**whole).logits[:, prompt - 1 : -1]
    torch.testing.assert_close(torch.stack(out.logits, dim=1), recomputed, atol=1e-5, rtol=1e-4)


def test_each_row_of_a_batch_generates_what_it_generates_alone(family, text_encoder, pictures):
    model, processor = attached(family, text_encoder, METHODS["cve-dense"])
    batch = ask(processor, pictures, QUESTIONS[:2])
    together = model.generate(**batch, max_new_tokens=4, do_sample=False)[:, batch["input_ids"].shape[1] :]
    for row in range(2):
        alone = ask(processor, [pictures[row]], [QUESTIONS[row]])
        single = model.generate(**alone, max_new_tokens=4, do_sample=False)[:, alone["input_ids"].shape[1] :]
        assert torch.equal(single[0], together[row][: single.shape[1]])


@pytest.mark.parametrize("options", [{"num_beams": 3}, {"num_beams": 3, "num_return_sequences": 2}])
def test_beams_see_the_question_of_their_own_row(family, options, text_encoder, pictures):
    model, processor = attached(family, text_encoder, METHODS["cve-dense"])
    length = ask(processor, pictures)["input_ids"].shape[1]
    options = dict(max_new_tokens=4, do_sample=False, **options)
    per_row = options.get("num_return_sequences", 1)
    together = model.generate(**ask(processor, pictures, [QUESTIONS[0]] * 2, context=QUESTIONS[:2]), **options)
    for row in range(2):
        alone = ask(processor, [pictures[row]], [QUESTIONS[0]], context=[QUESTIONS[row]])
        single = model.generate(**alone, **options)
        mine = together[row * per_row : (row + 1) * per_row]
        shared = min(single.shape[1], mine.shape[1])
        assert shared > length - 8
        assert torch.equal(single[:, :shared], mine[:, :shared])


def test_tower_and_text_encoder_run_once_per_generate(family, text_encoder, pictures):
    model, processor = attached(family, text_encoder, METHODS["cve-dense"])
    runs = {"tower": 0, "encoder": 0}
    tower = model.model.visual if family.startswith("qwen") else model.model.vision_tower
    tower.register_forward_hook(lambda *_: runs.__setitem__("tower", runs["tower"] + 1))
    model.model.context_encoder.encoder.register_forward_hook(
        lambda *_: runs.__setitem__("encoder", runs["encoder"] + 1)
    )
    batch = ask(processor, pictures, [QUESTIONS[0], QUESTIONS[1], QUESTIONS[0]])
    model.generate(**batch, max_new_tokens=6, min_new_tokens=6, do_sample=False)
    assert runs == {"tower": 1, "encoder": 2}
    model.generate(**batch, max_new_tokens=2, do_sample=False)
    assert runs == {"tower": 2, "encoder": 2}


def test_neither_padding_nor_company_nor_a_cold_cache_changes_a_context(text_encoder, pictures):
    model, processor = attached("llava", text_encoder, METHODS["cve-dense"])
    encoder = model.model.context_encoder
    short, long = QUESTIONS[3], QUESTIONS[1] + " and which colour is the digit"

    def pooled(texts):
        batch = ask(processor, pictures, [QUESTIONS[0]] * len(texts), context=texts)
        with model.model.context_slot.holding(None):
            ids, mask = batch["context_input_ids"], batch["context_attention_mask"]
            rows = [
                tuple(i for i, keep in zip(row, m, strict=True) if keep)
                for row, m in zip(ids.tolist(), mask.tolist(), strict=True)
            ]
        return encoder.encode(rows, torch.ones(len(rows), dtype=torch.bool)).pooled

    warm = pooled([short, long])
    encoder.clear_cache()
    assert torch.equal(pooled([short])[0], warm[0])
    assert torch.equal(pooled([long, short])[0], warm[1])


@pytest.mark.parametrize("kind", ASKING)
def test_a_missing_question_raises_and_never_runs_unconditioned(family, kind, text_encoder, pictures):
    model, processor = attached(family, text_encoder, METHODS[kind])
    batch = without_context(ask(processor, pictures))
    with pytest.raises(DataError, match="no question reached"), torch.no_grad():
        model(**batch)
    with pytest.raises(DataError, match="no question reached"):
        model.generate(**batch, max_new_tokens=2)
    with pytest.raises(DataError, match="row 1"):
        model(**ask(processor, pictures, context=["what digit", None]))


def test_the_tower_does_not_run_on_the_question_of_an_earlier_forward(family, text_encoder, pictures):
    model, processor = attached(family, text_encoder, METHODS["cve-dense"])
    batch = ask(processor, pictures)
    with torch.no_grad():
        model(**batch)
        model.generate(**batch, max_new_tokens=2)
    images = {name: batch[name] for name in ("pixel_values", "image_grid_thw") if name in batch}
    with pytest.raises(DataError, match="outside of the model's forward"):
        model.get_image_features(**images)


def test_several_images_of_a_row_share_its_question(family, text_encoder, pictures):
    model, processor = attached(family, text_encoder, METHODS["text-dense"])
    with model.model.context_slot.recording() as recorder, torch.no_grad():
        model(**ask(processor, pictures, [QUESTIONS[0]] * 2, context=QUESTIONS[:2], images_per_row=2))
    for values in recorder.of("routing_weights").values():
        weights = values[0]
        assert weights.shape == (4, 3)
        assert torch.equal(weights[0], weights[1]) and torch.equal(weights[2], weights[3])
        assert not torch.equal(weights[0], weights[2])


def test_text_only_rows_stand_beside_rows_with_images(family, text_encoder, pictures):
    model, processor = attached(family, text_encoder, METHODS["cve-dense"])
    messages = [
        [{"role": "user", "content": [{"type": "text", "text": "what digit is red ?"}]}],
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "where is the blue one ?"}]}],
    ]
    text = processor.apply_chat_template(messages, add_generation_prompt=True)
    mixed = processor(images=[[], [pictures[0]]], text=text, padding=True, return_tensors="pt")
    with torch.no_grad():
        mixed_logits = model(**mixed).logits
        alone = model(**processor(images=[[pictures[0]]], text=text[1:], padding=True, return_tensors="pt")).logits
        torch.testing.assert_close(mixed_logits[1, -1], alone[0, -1], atol=1e-5, rtol=1e-4)
        words = processor(text=text[:1], padding=True, return_tensors="pt")
        torch.testing.assert_close(model(**words).logits[0, -1], mixed_logits[0, -1], atol=1e-5, rtol=1e-4)
        model.generate(**words, max_new_tokens=2)
        unasked = processor(
            images=[[], [pictures[0]]], text=text, context=[None, "where"], padding=True, return_tensors="pt"
        )
        model(**unasked)


@pytest.mark.parametrize("reentrant", [True, False])
def test_two_forwards_before_one_backward_give_the_same_gradients_under_checkpointing(
    family, reentrant, text_encoder, pictures
):
    def gradients(checkpointing):
        model, processor = attached(family, text_encoder, METHODS["cve-dense"])
        model.train()
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
        batches = [ask(processor, pictures, [QUESTIONS[0]] * 2, context=c) for c in (QUESTIONS[:2], QUESTIONS[2:4])]
        losses = [model(**batch, labels=batch["input_ids"]).loss for batch in batches]
        sum(losses).backward()
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    plain, checkpointed = gradients(False), gradients(True)
    assert plain.keys() == checkpointed.keys()
    for name in plain:
        torch.testing.assert_close(checkpointed[name], plain[name], atol=1e-5, rtol=1e-4)


def test_checkpointing_that_was_on_before_attach_is_bound_too(text_encoder, pictures):
    model, processor = tiny.llava()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    yarbus.attach(model, processor, vision=METHODS["cve-dense"], text_encoder=text_encoder)
    model.train()
    batch = ask(processor, pictures)
    model(**batch, labels=batch["input_ids"]).loss.backward()
    assert model.model.vision_tower.encoder.layers[2].mlp.router.bias.grad is not None


def test_checkpointing_by_hand_without_the_slot_raises_instead_of_using_another_question(text_encoder, pictures):
    model, processor = attached("llava", text_encoder, METHODS["cve-dense"])
    block = model.model.vision_tower.encoder.layers[2]
    forward = block.forward
    block.forward = lambda *args, **kwargs: checkpoint(forward, *args, use_reentrant=False, **kwargs)
    batch = ask(processor, pictures)
    loss = model(**batch, labels=batch["input_ids"]).loss
    with pytest.raises(DataError, match="outside of the model's forward"):
        loss.backward()


def test_the_text_encoder_stays_frozen_and_in_eval_mode(text_encoder, pictures):
    model, processor = attached("llava", text_encoder, METHODS["cve-dense"])
    model.train()
    encoder = model.model.context_encoder
    assert not any(module.training for module in encoder.modules())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    batch = ask(processor, pictures)
    encoder.clear_cache()
    first = model(**batch).logits
    encoder.clear_cache()
    assert torch.equal(model(**batch).logits, first)


def test_a_deep_copy_and_a_pickle_are_models_of_their_own(text_encoder, pictures):
    model, processor = attached("llava", text_encoder, METHODS["cve-dense"])
    batch = ask(processor, pictures)
    pickled = pickle.dumps(model)  # before a forward: after one, the library's own hooks cannot be pickled
    with torch.no_grad():
        expected = model(**batch).logits
        for twin in (copy.deepcopy(model), pickle.loads(pickled)):  # noqa: S301
            assert torch.equal(twin(**batch).logits, expected)
            for parameter in twin.parameters():
                parameter.zero_()
            assert torch.equal(model(**batch).logits, expected)
    module = copy.deepcopy(model.model.vision_tower.encoder.layers[2].mlp)
    assert module.slot is model.model.context_slot


def test_the_dead_last_block_stays_in_the_checkpoint_is_frozen_and_untouched(text_encoder):
    model, _ = attached("llava", text_encoder, METHODS["cve-dense"])
    dead = {name for name in model.state_dict() if "encoder.layers.3." in name or "post_layernorm" in name}
    assert len(dead) == 18
    trained = {name for group in parameter_groups(model).values() for name in group}
    assert not dead & trained
    with pytest.raises(ConfigError, match="executes blocks 0 to 2"):
        attached("llava", text_encoder, CoVFT(last_block=3, context_dim=16))


def test_the_signature_names_the_channel(family, text_encoder):
    import inspect

    model, processor = attached(family, text_encoder, METHODS["cve-dense"])
    names = set(inspect.signature(model.forward).parameters)
    assert {key.name for key in CHANNEL} <= names
    assert {key.name for key in CHANNEL} <= set(processor.model_input_names)
    assert "logits_to_keep" in names


def test_videos_are_refused_with_the_reason(text_encoder, pictures):
    model, processor = attached("qwen2_5_vl", text_encoder, METHODS["cve-dense"])
    batch = ask(processor, pictures)
    with pytest.raises(DataError, match="videos are not supported"):
        model(**batch, pixel_values_videos=batch["pixel_values"], video_grid_thw=batch["image_grid_thw"])
    with pytest.raises(DataError, match="videos are not supported"):
        processor(text="what", videos=[pictures])


def test_inputs_embeds_need_image_counts(text_encoder, pictures):
    model, processor = attached("llava", text_encoder, METHODS["cve-dense"])
    batch = dict(ask(processor, pictures))
    with torch.no_grad():
        expected = model(**batch).logits
        embeds = model.get_input_embeddings()(batch.pop("input_ids"))
        with pytest.raises(DataError, match="which image belongs"):
            model(**batch, inputs_embeds=embeds)
        counts = torch.tensor([1, 1])
        assert torch.equal(model(**batch, inputs_embeds=embeds, context_image_counts=counts).logits, expected)


def test_a_context_first_encoded_in_inference_mode_under_autocast_trains_the_same(text_encoder, pictures):
    model, processor = attached("llava", text_encoder, METHODS["cve-dense"])
    batch = ask(processor, pictures)
    cold = model(**batch, labels=batch["input_ids"]).loss
    model.model.context_encoder.clear_cache()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        model.generate(**batch, max_new_tokens=2)
    warm = model(**batch, labels=batch["input_ids"]).loss
    warm.backward()
    assert torch.equal(warm, cold)


@pytest.mark.parametrize("kind", METHODS)
def test_bf16_and_autocast_train_and_stay_near_fp32(family, kind, text_encoder, pictures):
    model, processor = attached(family, text_encoder, METHODS[kind], spread_experts=False)
    batch = ask(processor, pictures)
    with torch.no_grad():
        expected = model(**batch).logits
    with torch.autocast("cpu", torch.bfloat16):
        output = model(**batch, labels=batch["input_ids"])
    output.loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    torch.testing.assert_close(output.logits.float(), expected, atol=0.1, rtol=0.1)
    with torch.no_grad():
        torch.testing.assert_close(model.to(torch.bfloat16)(**batch).logits.float(), expected, atol=0.1, rtol=0.1)


def test_hidden_states_and_attentions_are_captured_as_without_us(family, text_encoder, pictures):
    model, processor = attached(family, text_encoder, METHODS["cve-dense"], spread_experts=False)
    plain, _ = tiny.FAMILIES[family]()
    batch = ask(processor, pictures)
    with torch.no_grad():
        ours = model(**batch, output_hidden_states=True)
        theirs = plain(**without_context(batch), output_hidden_states=True)
    assert len(ours.hidden_states) == len(theirs.hidden_states)
    torch.testing.assert_close(ours.hidden_states[-1], theirs.hidden_states[-1], atol=1e-4, rtol=1e-4)
