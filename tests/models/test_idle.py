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
from yarbus.models import idle
from yarbus.models.attachment import parameter_groups
from yarbus.models.families.pictures import fixed_size
from yarbus.models.idle import dummy_image, is_needed, run_idle_eyes
from yarbus.models.vlm import FAMILIES

COVFT = CoVFT(num_experts=2, context_dim=16)
UNDESCRIBED = {"molmo2"}
"""Families whose batches hold more than pixels and do not say yet what a picture looks like."""


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
@pytest.mark.parametrize("language", ["full", "frozen"])
def test_on_every_family_words_alone_drive_all_that_trains(family, language, of_two):
    """A process with words alone leaves out nothing that another one waits for."""
    model, _ = attached(family, vision=COVFT, projector="full", language=language)
    if family in UNDESCRIBED:
        with pytest.raises(ConfigError, match=r"no dummy picture will do.*say in its Family what pictures look like"):
            model(**bare_words(model))
        return
    batch = bare_words(model)
    with torch.no_grad():
        expected = model(**batch).logits
    output = model(**batch)
    assert torch.equal(output.logits, expected)
    output.loss.backward()
    groups = parameter_groups(model)
    declared = {name for group in groups.values() for name in group}
    assert set(gradients(model)) == declared, sorted(declared ^ set(gradients(model)))[:5]
    eyes = {name for group, tensors in groups.items() if group != "language" for name in tensors}
    assert eyes and all(not model.get_parameter(name).grad.any() for name in eyes)


def test_language_blocks_that_look_at_pictures_get_a_gradient_of_zero_and_others_theirs(of_two):
    model, _ = attached("mllama", projector="full", language="full")
    model(**bare_words(model)).loss.backward()
    found = {
        index: [bool(p.grad.any()) for p in block.parameters()]
        for index, block in enumerate(model.model.language_model.layers)
    }
    assert not any(found.pop(1)) and all(all(block) for block in found.values())


@pytest.mark.parametrize("family", ["mllama", "llava"])
def test_sharded_language_blocks_that_look_at_pictures_are_refused_with_the_reason(family, of_two, monkeypatch):
    """The others gather them from all processes; of words alone nobody would."""
    monkeypatch.setattr(idle, "_is_sharded", lambda base_model: True)
    model, _ = attached(family, vision=COVFT, projector="full")
    if family == "llava":
        assert torch.isfinite(model(**bare_words(model)).loss)
        return
    with pytest.raises(ConfigError, match=r"others wait for it: MllamaConfig.*gathered on all processes.*use DDP"):
        model(**bare_words(model))


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
