"""What holds for every method of the tables on every family: a new entry is covered the day it is added."""

import copy

import pytest
import torch
from transformers import modeling_utils

import yarbus
from tests import tiny
from tests.methods.cases import CASES
from tests.models.batches import QUESTIONS, ask
from yarbus.core.errors import ConfigError
from yarbus.methods import METHODS
from yarbus.models.attachment import adapter_tensors, attachment_of, declared_groups, is_attached, parameter_groups
from yarbus.models.vlm import VLM

HOOKS_IN_CHECKPOINT = not hasattr(modeling_utils, "slice_logits_to_keep")
"""Before transformers 5.23 a block's hooks ran inside its checkpoint."""
HANDS_ON = {"svpt"}
"""Methods whose hooks hand a tensor with a gradient from block to block: reentrant checkpointing would cut it."""
PAIRS = [(family, case) for family in tiny.FAMILIES for case in CASES]


def fits(family, case):
    """Whether the family's tower has the layout that the method needs."""
    method, model = CASES[case].method, tiny.FAMILIES[family]()[0]
    return CASES[case].place != "vision" or VLM.of(model).tower.layout in method.layouts


def supported(family, case):
    """Whether the method works on the family at all; a refusal must say why."""
    if not fits(family, case):
        return False
    try:
        attach(family, case, "language_embeddings")
    except ConfigError as error:
        assert error.why, f"{case} refuses {family} without a reason"
        return False
    return True


def attach(family, case, text_encoder, **others):
    model, processor = tiny.FAMILIES[family]()
    torch.manual_seed(1)
    places = {CASES[case].place: CASES[case].method, **others}
    return yarbus.attach(model, processor, **places, text_encoder=text_encoder)


SUPPORTED = [pair for pair in PAIRS if supported(*pair)]
TRAINING = [(family, case) for family, case in SUPPORTED if CASES[case].method.groups(CASES[case].place)]
over = pytest.mark.parametrize


def as_after_training(model):
    """Every new tensor moved a little, so that what starts as zero matters."""
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for name, tensor in adapter_tensors(model).items():
            if tensor.is_floating_point():
                tensor += 0.05 * torch.randn(tensor.shape, generator=generator) * (1 + tensor.abs().mean())
            assert torch.isfinite(tensor).all(), name
    return model.eval()


def logits(model, batch):
    with torch.no_grad():
        return model(**batch).logits


def loss(model, batch):
    return model(**batch, labels=batch["input_ids"]).loss


def test_every_entry_of_every_table_has_a_small_case():
    covered = {(case.place, case.method.name) for case in CASES.values()}
    assert covered == {(place, name) for place, table in METHODS.items() for name in table}


@over("family", tiny.FAMILIES)
@over("case", [case for case in CASES if CASES[case].place == "vision"])
def test_a_tower_of_another_layout_is_refused_with_the_reason_and_stays_as_it_was(family, case):
    if fits(family, case):
        return
    model, processor = tiny.FAMILIES[family]()
    with pytest.raises(ConfigError, match=r"its tokens are \[total dim\], the method needs \[images tokens dim\]"):
        yarbus.attach(model, processor, vision=CASES[case].method, text_encoder="language_embeddings")
    assert not is_attached(model)


@over(("family", "case"), SUPPORTED)
def test_attaching_changes_what_start_declares_and_detaching_restores_every_bit(family, case, text_encoder, pictures):
    model, processor = tiny.FAMILIES[family]()
    model.model.register_forward_hook(lambda module, args, output: None)  # a hook of somebody else stays
    batch = ask(processor, pictures)
    expected, before = logits(model, batch), {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modules = [name for name, _ in model.named_modules()]
    torch.manual_seed(1)
    yarbus.attach(model, processor, **{CASES[case].place: CASES[case].method}, text_encoder=text_encoder)
    got = logits(model, ask(processor, pictures))
    if CASES[case].method.starts == "identity":
        assert torch.equal(got, expected)
    elif CASES[case].method.starts == "rounding":
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)
    else:
        assert torch.isfinite(got).all() and not torch.equal(got, expected)
    yarbus.detach(model, processor)
    assert torch.equal(logits(model, batch), expected)
    after = model.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert [name for name, _ in model.named_modules()] == modules
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not model.model._forward_pre_hooks and len(model.model._forward_hooks) == 1
    assert set(ask(processor, pictures)) == set(batch)


@over(("family", "case"), TRAINING)
def test_all_that_is_declared_has_a_gradient_and_nothing_else(family, case, text_encoder, pictures):
    model, processor = attach(family, case, text_encoder)
    model.train()
    loss(model, ask(processor, pictures)).backward()
    groups = parameter_groups(model)
    assert list(groups) and set(groups) == set(declared_groups(model))
    declared = {name for group in groups.values() for name in group}
    assert {name for name, parameter in model.named_parameters() if parameter.grad is not None} == declared
    silent = {name for name in declared if not model.get_parameter(name).grad.any()}
    unsaid = {name for name in silent if not any(part in name for part in CASES[case].method.silent)}
    assert not unsaid, sorted(unsaid)[:5]
    plan = yarbus.plan(model)
    assert plan.total("trained") == sum(model.get_parameter(name).numel() for name in declared)
    assert plan.total("declared") >= plan.total("trained")


@over(("family", "case"), TRAINING)
def test_after_training_a_little_every_declared_tensor_is_heard(family, case, text_encoder, pictures):
    model, processor = attach(family, case, text_encoder)
    as_after_training(model).train()
    for questions in (QUESTIONS[:2], QUESTIONS[2:]):
        loss(model, ask(processor, pictures, questions)).backward()
    declared = {name for group in parameter_groups(model).values() for name in group}
    mute = {name for name in declared if not model.get_parameter(name).grad.any()}
    unsaid = {name for name in mute if not any(part in name for part in CASES[case].method.mute)}
    assert not unsaid, sorted(unsaid)[:5]


@over(("family", "case"), TRAINING)
def test_a_step_moves_what_is_declared_and_nothing_else(family, case, text_encoder, pictures):
    model, processor = attach(family, case, text_encoder)
    as_after_training(model).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    groups = parameter_groups(model)
    optimizer = torch.optim.AdamW([p for group in groups.values() for p in group.values()], lr=1e-2, weight_decay=0.1)
    loss(model, ask(processor, pictures)).backward()
    optimizer.step()
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    declared = {name for group in groups.values() for name in group}
    assert moved <= declared
    still = {name for name in declared - moved if before[name].any()}  # decay moves even what had no gradient
    assert not still, sorted(still)[:5]


@over(("family", "case"), TRAINING)
@over("kind", ["adapter", "full"])
def test_what_is_saved_is_what_is_loaded(family, case, kind, text_encoder, pictures, tmp_path):
    model, processor = attach(family, case, text_encoder)
    as_after_training(model)
    batch = ask(processor, pictures)
    expected = logits(model, batch)
    if kind == "adapter":
        yarbus.save_adapter(model, tmp_path, processor)
        loaded, its_processor = yarbus.load_adapter(*tiny.FAMILIES[family](), tmp_path)
    else:
        yarbus.save(model, processor, tmp_path)
        loaded, its_processor = yarbus.load(tmp_path)
    if is_attached(loaded):  # a whole model in which nothing was inserted is a plain one
        assert attachment_of(loaded).places[CASES[case].place] == CASES[case].method
    again = ask(its_processor, pictures)
    assert set(again) == set(batch) and torch.equal(again["input_ids"], batch["input_ids"])
    assert torch.equal(logits(loaded.eval(), again), expected)


@over(("family", "case"), SUPPORTED)
def test_rows_may_be_permuted(family, case, text_encoder, pictures):
    model, processor = attach(family, case, text_encoder)
    as_after_training(model)
    order = [2, 0, 1]
    asked = {"context": QUESTIONS[:3]} if hasattr(processor, "context_tokenizer") else {}
    straight = ask(processor, pictures[:3], QUESTIONS[:3], **asked)
    shuffled_asked = {"context": [QUESTIONS[i] for i in order]} if asked else {}
    shuffled = ask(processor, [pictures[i] for i in order], [QUESTIONS[i] for i in order], **shuffled_asked)
    left, right = logits(model, straight)[order][:, -1], logits(model, shuffled)[:, -1]
    torch.testing.assert_close(right, left, atol=5e-5, rtol=1e-4)


@over(("family", "case"), SUPPORTED)
def test_greedy_with_cache_gives_the_tokens_of_a_recomputation(family, case, text_encoder, pictures):
    model, processor = attach(family, case, text_encoder)
    as_after_training(model)
    batch = ask(processor, pictures)
    runs = dict.fromkeys(("tower",), 0)
    VLM.of(model).vision_tower.register_forward_hook(lambda *_: runs.__setitem__("tower", runs["tower"] + 1))
    options = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False}
    options["suppress_tokens"] = [model.config.image_token_id]  # an image that is not there cannot be computed again
    cached = model.generate(**batch, **options)
    assert runs["tower"] == 1
    assert torch.equal(cached, model.generate(**batch, **options, use_cache=False))


@over(("family", "case"), TRAINING)
@over("reentrant", [True, False])
def test_checkpointing_gives_equal_gradients_over_two_forwards(family, case, reentrant, text_encoder, pictures):
    def gradients(checkpointing):
        model, processor = attach(family, case, text_encoder, **others)
        as_after_training(model).train()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
        sum(loss(model, ask(processor, pictures, asked)) for asked in (QUESTIONS[:2], QUESTIONS[2:])).backward()
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    # Reentrant checkpointing needs an input that requires grad: with something trained before the first block it has.
    others = {} if CASES[case].place == "projector" else {"projector": "full"}
    if reentrant and HOOKS_IN_CHECKPOINT and CASES[case].method.name in HANDS_ON:
        with pytest.raises(ConfigError, match="use_reentrant"):
            gradients(True)
        return
    plain, checkpointed = gradients(False), gradients(True)
    assert plain.keys() == checkpointed.keys()
    for name in plain:
        torch.testing.assert_close(checkpointed[name], plain[name], atol=2e-5, rtol=1e-3, msg=name)


@over(("family", "case"), SUPPORTED)
def test_a_copy_is_a_model_of_its_own(family, case, text_encoder, pictures):
    model, processor = attach(family, case, text_encoder)
    as_after_training(model)
    batch = ask(processor, pictures)
    expected = logits(model, batch)
    twin = copy.deepcopy(model)
    assert torch.equal(logits(twin, batch), expected)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert torch.equal(logits(model, batch), expected)
    if CASES[case].method.groups(CASES[case].place):
        assert not torch.equal(logits(twin, batch), expected)


@over(("family", "case"), TRAINING)
def test_bf16_autocast_trains(family, case, text_encoder, pictures):
    model, processor = attach(family, case, text_encoder)
    as_after_training(model).train()
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(model, ask(processor, pictures))
    value.backward()
    assert torch.isfinite(value)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@over(("family", "case"), SUPPORTED)
def test_text_only_rows_stand_beside_rows_with_pictures(family, case, text_encoder, pictures):
    model, processor = attach(family, case, text_encoder)
    as_after_training(model)
    messages = [
        [{"role": "user", "content": [{"type": "text", "text": "what digit is red ?"}]}],
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "where is the blue one ?"}]}],
    ]
    text = processor.apply_chat_template(messages, add_generation_prompt=True)
    mixed = processor(images=[[], [pictures[0]]], text=text, padding=True, return_tensors="pt")
    alone = processor(images=[[pictures[0]]], text=text[1:], padding=True, return_tensors="pt")
    words = processor(text=text[:1], padding=True, return_tensors="pt")
    both = logits(model, mixed)[:, -1]
    torch.testing.assert_close(both[1], logits(model, alone)[0, -1], atol=5e-5, rtol=1e-4)
    torch.testing.assert_close(both[0], logits(model, words)[0, -1], atol=5e-5, rtol=1e-4)
