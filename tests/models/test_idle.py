"""Words alone: one of several processes runs its eyes on a dummy picture, a process alone leaves them out."""

import copy
import inspect
from dataclasses import replace

import pytest
import torch
from torch import distributed

import yarbus
from tests import tiny
from tests.models.batches import QUESTIONS, ask
from yarbus.core.errors import ConfigError
from yarbus.methods import CoVFT
from yarbus.models.attachment import parameter_groups
from yarbus.models.families.pictures import fixed_size
from yarbus.models.idle import dummy_image, is_needed, run_idle_eyes
from yarbus.models.vlm import FAMILIES

COVFT = CoVFT(num_experts=2, context_dim=16)


def words(processor):
    batch = ask(processor, [], QUESTIONS[:2], images_per_row=0)
    return {**batch, "labels": batch["input_ids"]}


def bare_words(model):
    """As few words as any family takes; PaliGemma's processor makes no batch without pictures."""
    ids = model.config.get_text_config().vocab_size - torch.tensor([[1, 2, 3], [2, 1, 3]])  # no special tokens
    named = inspect.signature(model.base_model.forward).parameters
    kinds = {name: torch.zeros_like(ids) for name in ("token_type_ids", "mm_token_type_ids") if name in named}
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids, **kinds}


def attached(family="llava", **places):
    model, processor = tiny.EVERY[family]()
    yarbus.attach(model, processor, **(places or {"vision": COVFT}), text_encoder="language_embeddings")
    return model.train(), processor


def gradients(model):
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.fixture
def of_two(monkeypatch):
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 2)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_words_alone_have_a_backward_and_no_gradient_that_an_optimizer_would_use(family):
    model, processor = attached(family, vision=COVFT, projector="full")
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1, weight_decay=0.1)
    model(**words(processor)).loss.backward()
    optimizer.step()
    assert not gradients(model)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("places", [{"projector": "full"}, {"vision": "full"}, {"vision": COVFT, "language": "full"}])
def test_one_of_several_gives_all_of_its_eyes_a_gradient_of_zero_and_keeps_every_logit(family, places, of_two):
    model, processor = attached(family, **places)
    batch = words(processor)
    output = model(**batch)
    with torch.no_grad():
        assert torch.equal(output.logits, model(**batch).logits)
    output.loss.backward()
    found, groups = gradients(model), parameter_groups(model)
    assert set(found) == {name for group in groups.values() for name in group}
    assert not any(found[name].any() for group in groups if group != "language" for name in groups[group])


def test_alone_words_may_come_as_embeddings():
    model, processor = attached()
    batch = words(processor)
    ids = batch.pop("input_ids")
    model(inputs_embeds=model.get_input_embeddings()(ids), **batch).loss.backward()
    assert not gradients(model)


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("places", [{"projector": "full"}, {"vision": "full"}, {"vision": COVFT}])
def test_the_logits_stay_as_they_are_bit_for_bit(family, places):
    model, processor = attached(family, **places)
    batch = words(processor)
    found = model(**batch).logits
    assert found.requires_grad
    with torch.no_grad():
        assert torch.equal(found, model(**batch).logits)


def test_other_places_that_train_spare_the_eyes():
    model, processor = attached(vision=COVFT, language="full")
    model(**words(processor)).loss.backward()
    assert not any("vision_tower" in name for name in gradients(model))


def test_evaluation_and_pictures_run_no_dummy(pictures, monkeypatch):
    model, processor = attached()
    ran = []
    model.model.vision_tower.register_forward_hook(lambda *args: ran.append(True))
    model(**ask(processor, pictures))
    model(**words(processor))  # alone, no process waits
    assert len(ran) == 1
    model.eval()(**words(processor))
    model.generate(**ask(processor, [], QUESTIONS[:1], images_per_row=0), max_new_tokens=2)
    assert len(ran) == 1


def test_words_may_come_as_embeddings(of_two):
    model, processor = attached()
    batch = words(processor)
    ids = batch.pop("input_ids")
    loss = model(inputs_embeds=model.get_input_embeddings()(ids), **batch).loss
    loss.backward()
    assert gradients(model)


def test_what_is_recorded_holds_no_dummy(of_two):
    model, processor = attached()
    with model.base_model.context_slot.recording() as recorder:
        model(**words(processor)).loss.backward()
    assert not recorder.records


def test_the_embedding_keeps_no_hook_and_may_be_resized(of_two):
    model, processor = attached()
    model.resize_token_embeddings(model.get_input_embeddings().num_embeddings + 3)
    model(**words(processor)).loss.backward()
    assert gradients(model) and not model.get_input_embeddings()._forward_hooks


def test_a_copy_runs_its_own_eyes(of_two):
    model, processor = attached()
    other = copy.deepcopy(model)
    other(**words(processor)).loss.backward()
    assert gradients(other) and not gradients(model)


def test_detaching_takes_the_hook_away():
    model, processor = attached(projector="full")
    assert model.base_model._forward_pre_hooks
    yarbus.detach(model, processor)
    assert not model.base_model._forward_pre_hooks


# ---- several processes, of which this is one ----


@pytest.mark.parametrize("family", tiny.EVERY)
def test_on_every_family_the_dummy_drives_all_that_trains_or_its_lack_is_one_clear_error(family, of_two):
    places = {"projector": "full", "language": "full"}
    try:
        model, _ = attached(family, vision=COVFT, **places)
    except ConfigError:
        model, _ = attached(family, vision="full", **places)
    reached = set()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.register_hook(lambda gradient, name=name: reached.add(name))
    try:
        model(**bare_words(model)).loss.backward()
    except ConfigError as error:
        assert "dummy" in error.why and "picture" in error.fix
        return
    groups = parameter_groups(model)
    eyes = {name for group, tensors in groups.items() if group != "language" for name in tensors}
    assert eyes <= reached, sorted(eyes - reached)[:5]
    assert all(not model.get_parameter(name).grad.any() for name in eyes)


def test_a_family_that_says_nothing_of_a_dummy_gets_a_picture_of_the_towers_size_if_that_will_do():
    config = tiny.llava()[0].config
    silent = replace(FAMILIES["LlavaConfig"], pictures=fixed_size)
    assert dummy_image(silent, config)["pixel_values"].shape == (1, 3, 28, 28)
    config = tiny.qwen()[0].config
    with pytest.raises(ConfigError, match="others wait for its vision tower: Qwen2_5_VLConfig"):
        dummy_image(replace(FAMILIES["Qwen2_5_VLConfig"], pictures=fixed_size), config)


def test_language_alone_needs_the_eyes_of_all_too(of_two):
    """Sharded or not, it costs one picture; a frozen tower that is sharded must be gathered by all."""
    model, _processor = attached(language="full")
    assert is_needed(model.base_model, {"input_ids": torch.ones(1, 2)})
    assert not is_needed(model.eval().base_model, {"input_ids": torch.ones(1, 2)})


def test_the_hook_is_there_once_after_several_stages():
    from yarbus.methods import Full
    from yarbus.models.attach import set_stage

    model, processor = tiny.llava()
    set_stage(model, processor, {"projector": Full()})
    set_stage(model, processor, {"vision": COVFT, "projector": Full()}, text_encoder="language_embeddings")
    assert list(model.base_model._forward_pre_hooks.values()).count(run_idle_eyes) == 1
