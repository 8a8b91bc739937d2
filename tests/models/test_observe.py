"""What ``observe`` says about every family of the tests' table, against the modules asked one row at a time."""

import pytest
import torch

from tests import tiny
from tests.models.batches import QUESTIONS, ask
from tests.models.test_question_path import METHODS, attached
from yarbus.methods import Full
from yarbus.models.observe import observe
from yarbus.models.vlm import VLM

ROUTED = ["cve-dense", "cve-merged", "text-dense"]


def batch_of(processor, pictures, questions, names, **layout):
    return {**ask(processor, pictures, questions, **layout), "sample_ids": names}


@pytest.fixture(params=list(tiny.FAMILIES))
def family(request):
    return request.param


@pytest.mark.parametrize("kind", ROUTED)
def test_each_image_has_what_it_has_alone(family, kind, text_encoder, pictures):
    model, processor = attached(family, text_encoder, METHODS[kind])
    together = observe(model, [batch_of(processor, pictures, QUESTIONS[:3], ["a", "b", "c"])])
    alone = [batch_of(processor, pictures[i : i + 1], [QUESTIONS[i]], [name]) for i, name in enumerate("abc")]
    apart = observe(model, alone)
    assert together.sample_ids == apart.sample_ids == ["a", "b", "c"]
    blocks = list(VLM.of(model).executed_blocks())
    assert list(together.contexts) == list(together.routing_weights) == blocks
    for block in blocks:
        torch.testing.assert_close(together.contexts[block], apart.contexts[block], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(together.routing_weights[block], apart.routing_weights[block], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(together.routing_weights[block].sum(dim=1), torch.ones(3))
    torch.testing.assert_close(together.text, apart.text)
    torch.testing.assert_close(together.features, apart.features, atol=1e-5, rtol=1e-4)
    assert together.text.shape == (3, 16) and together.features.shape == (3, 32)
    assert len({tuple(row) for row in together.text.tolist()}) == 3


def test_the_gaze_of_each_image_sums_to_one_over_its_own_tokens(family, text_encoder, pictures):
    model, processor = attached(family, text_encoder, METHODS["cve-dense"])
    large = pictures[1].resize((42, 56))  # Qwen gives it more tokens
    observed = observe(model, [batch_of(processor, [pictures[0], large], QUESTIONS[:2], ["a", "b"])])
    tokens = [5, 5] if family == "llava" else [16, 48]
    for values in observed.gaze.values():
        assert [len(one) for one in values] == tokens
        for one in values:
            torch.testing.assert_close(one.sum(dim=0), torch.ones(one.shape[1]))
    assert list(observed.gaze) == list(observed.contexts)


def test_a_router_that_reads_the_text_alone_has_no_gaze(family, text_encoder, pictures):
    model, processor = attached(family, text_encoder, METHODS["text-dense"])
    assert observe(model, [batch_of(processor, pictures, QUESTIONS[:2], ["a", "b"])]).gaze == {}


def test_features_are_the_mean_of_what_the_projector_is_handed(family, text_encoder, pictures):
    model, processor = attached(family, text_encoder, METHODS["cve-dense"])
    batch = batch_of(processor, pictures, QUESTIONS[:2], ["a", "b"])
    handed = []
    hook = VLM.of(model).projector.register_forward_pre_hook(lambda module, args: handed.append(args[0]))
    with torch.no_grad():
        model(**{name: value for name, value in batch.items() if name != "sample_ids"})
    hook.remove()
    expected = handed[0].reshape(2, -1, 32).mean(dim=1)  # pictures of one size: as many tokens each
    torch.testing.assert_close(observe(model, [batch]).features, expected)


def test_several_images_of_a_row_carry_its_name_and_rows_without_one_are_left_out(family, text_encoder, pictures):
    model, processor = attached(family, text_encoder, METHODS["cve-dense"])
    two = batch_of(processor, pictures, QUESTIONS[:2], ["a", "b"], images_per_row=2)
    none = batch_of(processor, pictures, QUESTIONS[:1], ["c"], images_per_row=0)
    observed = observe(model, [none, two])
    assert observed.sample_ids == ["a", "a", "b", "b"]
    assert torch.equal(observed.text[0], observed.text[1]) and not torch.equal(observed.text[1], observed.text[2])
    assert observe(model, [none]).features.shape == (0, 32)


@pytest.mark.parametrize("kind", ["uniform", "full", "nothing"])
def test_a_model_without_a_router_has_features_alone(family, kind, text_encoder, pictures):
    if kind == "nothing":
        model, processor = tiny.FAMILIES[family]()
    else:
        model, processor = attached(family, text_encoder, METHODS[kind] if kind == "uniform" else Full())
    observed = observe(model, [batch_of(processor, pictures, QUESTIONS[:2], ["a", "b"])])
    assert observed.contexts == observed.routing_weights == observed.gaze == {}
    assert observed.features.shape == (2, 32) and observed.text.shape == (2, 0)


def test_looking_changes_nothing(family, text_encoder, pictures):
    model, processor = attached(family, text_encoder, METHODS["cve-dense"])
    model.train()
    model.model.context_encoder.eval()
    vlm = VLM.of(model)
    batch = batch_of(processor, pictures, QUESTIONS[:2], ["a", "b"])
    labelled = {**batch, "labels": batch["input_ids"]}
    del labelled["sample_ids"]
    model(**labelled).loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    modes = {name: module.training for name, module in model.named_modules()}
    state, keys = torch.get_rng_state(), list(batch)
    observe(model, [batch])
    assert torch.equal(torch.get_rng_state(), state)
    assert list(batch) == keys and "sample_ids" in batch
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert all(torch.equal(model.get_parameter(name).grad, gradient) for name, gradient in gradients.items())
    assert not vlm.projector._forward_pre_hooks
    assert model.model.context_slot.recorder is None and model.model.context_slot.context is None


def test_what_training_noticed_beside_it_stays_with_its_own_recorder(text_encoder, pictures):
    model, processor = attached("llava", text_encoder, METHODS["cve-dense"])
    with model.model.context_slot.recording() as mine:
        observe(model, [batch_of(processor, pictures, QUESTIONS[:2], ["a", "b"])])
    assert mine.records == []
