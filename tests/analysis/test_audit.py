"""Every way in which something that should train does not is planted, found, and named."""

import copy

import pytest
import torch

import yarbus
from tests import tiny
from tests.methods.cases import CASES
from tests.models.batches import QUESTIONS, ask
from yarbus.analysis.audit import (
    CHECKPOINTING,
    FIXES,
    FROZEN,
    NEVER_RUN,
    NO_GRAD,
    NO_GROUP,
    NON_FINITE,
    ROUNDING,
    SILENT,
    UNUSED,
    ZERO_RATE,
    check_equal,
    check_gradients,
    check_movement,
    check_rates,
    movement,
)  # fmt: skip
from yarbus.methods import METHODS, CoVFT, LoRA
from yarbus.models.attachment import adapter_tensors, attachment_of, parameter_groups
from yarbus.studies import audit as study


@pytest.fixture
def norms(pictures):
    """A Llava whose norms in the tower train, and a batch."""
    model, processor = yarbus.attach(*tiny.llava(), vision="layernorm")
    return model, dict(ask(processor, pictures))


def names_of(model):
    return [name for group in parameter_groups(model).values() for name in group]


def block(model, index):
    return model.model.vision_tower.encoder.layers[index]


def causes(model, batch, **options):
    check = check_gradients(model, batch, names_of(model), **options)
    return check, {fault.tensor: (fault.cause, fault.where) for fault in check.faults}


def test_a_sound_model_passes_and_is_afterwards_as_it_was(norms):
    model, batch = norms
    model.train()
    model(**batch, labels=batch["input_ids"]).loss.backward()
    gradients = {name: one.grad for name, one in model.named_parameters()}
    state, random = torch.get_rng_state(), copy.deepcopy(model.state_dict())
    check, found = causes(model, batch)
    assert check.verdict == "pass" and not found and check.found == "12 of 12 tensors that train have a gradient"
    assert all(one.grad is gradients[name] for name, one in model.named_parameters())
    assert torch.equal(torch.get_rng_state(), state) and model.training
    assert all(torch.equal(one, random[name]) for name, one in model.state_dict().items())


def test_vision_gradients_that_vanish_under_reentrant_checkpointing_are_traced_to_it(norms):
    model, batch = norms
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": True})
    model.disable_input_require_grads()
    check, found = causes(model, batch)
    assert check.failed and set(found) == set(names_of(model)) and set(found.values()) == {(CHECKPOINTING, "")}
    assert block(model, 0).gradient_checkpointing is True  # tried without, then as before
    enable({"use_reentrant": False})
    assert causes(model, batch)[0].verdict == "pass"


@pytest.mark.parametrize("part", ["a block", "the projector"])
def test_a_no_grad_wrapper_is_found_and_named(norms, part):
    model, batch = norms
    wrapped = block(model, 1) if part == "a block" else model.model.multi_modal_projector
    wrapped.forward = torch.no_grad()(wrapped.forward)
    found = causes(model, batch)[1]
    last = 2 if part == "a block" else 3  # what comes after the wrapper has its gradient
    assert {name.split("layers.")[1][0] for name in found} == {str(index) for index in range(last)}
    path = next(name for name, module in model.named_modules() if module is wrapped)
    assert set(found.values()) == {(NO_GRAD, path)}


def test_a_block_that_is_never_run_is_found_and_named(norms):
    model, batch = norms
    block(model, 2).forward = lambda hidden_states, *args, **kwargs: hidden_states
    found = causes(model, batch)[1]
    assert len(found) == 4 and set(found.values()) == {(NEVER_RUN, "model.vision_tower.encoder.layers.2")}


def test_a_method_on_a_block_whose_output_is_not_read_is_found(norms):
    model, batch = norms
    model.config.vision_feature_layer = -3  # attached when it was -2
    found = causes(model, batch)[1]
    assert len(found) == 4 and {cause for cause, _ in found.values()} == {UNUSED}
    assert all(".layers.2." in name for name in found)


def test_a_tensor_that_was_frozen_by_hand_is_found(norms):
    model, batch = norms
    name = names_of(model)[3]
    model.get_parameter(name).requires_grad_(False)
    assert causes(model, batch)[1] == {name: (FROZEN, "")}


def test_a_zero_gradient_is_a_fault_unless_the_method_lists_it_with_a_reason(pictures):
    model, processor = yarbus.attach(*tiny.llava(), vision=LoRA(rank=2, dropout=0.0))
    batch = dict(ask(processor, pictures))
    check, found = causes(model, batch)
    assert check.verdict == "pass" and len(check.excused) == 12
    assert set(check.excused.values()) == {"lora_B starts as zero, which makes the start exact"}
    check, found = causes(model, batch, has_trained=True)  # by then it is no longer the start
    assert check.failed and {cause for cause, _ in found.values()} == {SILENT}
    assert all(".lora_A." in name for name in found)


def test_a_gradient_that_is_not_finite_is_a_fault_and_the_module_that_began_is_named(pictures):
    model, processor = yarbus.attach(*tiny.llava(), vision=LoRA(rank=2, dropout=0.0), projector="full")
    batch = dict(ask(processor, pictures))
    path = "model.multi_modal_projector.linear_1"
    with torch.no_grad():
        model.get_submodule(path).weight[0, 0] = float("nan")
    check, found = causes(model, batch)
    assert check.failed and found and set(found.values()) == {(NON_FINITE, path)}
    assert "linear_1.weight" in " ".join(found) and any(".lora_B." in name for name in found)  # none is excused
    assert check.found.startswith(f"{len(names_of(model)) - len(found)} of")
    assert not study.audit(model, batch).passed
    model.get_submodule(path).weight.data.nan_to_num_()
    assert not causes(model, batch)[0].failed
    model.lm_head.register_full_backward_pre_hook(lambda module, gradients: (gradients[0] * float("inf"),))
    assert set(causes(model, batch)[1].values()) == {(NON_FINITE, "")}  # the forward is sound


def test_every_part_that_may_be_silent_has_a_reason():
    without = {
        (cls.name, part)
        for table in METHODS.values()
        for cls in table.values()
        for part in (*cls.silent, *cls.mute)
        if not cls.reasons.get(part)
    }
    assert not without, without


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("case", ["vision covft cve dense", "vision lora", "language lora", "projector full"])
def test_a_model_is_audited_in_one_call(family, case, text_encoder, pictures):
    torch.manual_seed(1)
    places = {CASES[case].place: CASES[case].method}
    model, processor = yarbus.attach(*tiny.FAMILIES[family](), **places, text_encoder=text_encoder)
    found = yarbus.audit(model, ask(processor, pictures, QUESTIONS[:2]), processor=processor)
    assert found.passed and found.first_fault is None
    verdicts = {check.name: check.verdict for check in found.checks}
    assert verdicts["gradients"] == verdicts["reload"] == "pass"
    assert verdicts["folding"] == ("pass" if "lora" in case else "not applicable")
    assert "pass" in str(found)


def test_a_fold_that_changes_the_logits_is_found(pictures, monkeypatch):
    model, processor = yarbus.attach(*tiny.llava(), vision=LoRA(rank=2, dropout=0.0))
    with torch.no_grad():
        for tensor in adapter_tensors(model).values():
            tensor += 0.1
    batch = ask(processor, pictures)
    assert study.check_folding(model, batch).verdict == "pass"
    true = study.fold

    def without_scale(model):
        for module in model.modules():
            if hasattr(module, "scale"):
                module.scale = 1.0
        return true(model)

    monkeypatch.setattr(study, "fold", without_scale)
    assert study.check_folding(model, batch).failed


def test_an_optimizer_without_a_tensor_or_with_a_rate_of_zero_is_found(norms):
    model, batch = norms
    _, second, *others = (model.get_parameter(name) for name in names_of(model))
    optimizer = torch.optim.AdamW([{"params": others, "lr": 1e-3}, {"params": [second], "lr": 0.0}])
    found = {fault.tensor: fault.cause for fault in check_rates(model, names_of(model), optimizer).faults}
    assert found == {names_of(model)[0]: NO_GROUP, names_of(model)[1]: ZERO_RATE}
    audit = yarbus.audit(model, batch, optimizer=optimizer)
    assert not audit.passed and audit.first_fault.tensor == names_of(model)[0]
    assert (
        "fix: hand the optimizer" in str(audit) and audit.to_json()["checks"][1]["faults"][0]["fix"] == FIXES[NO_GROUP]
    )


def test_movement_is_told_by_place_and_group_and_what_stands_still_is_named(text_encoder):
    torch.manual_seed(0)
    method = CoVFT(num_experts=2, context_dim=16)
    model, _ = yarbus.attach(*tiny.llava(), vision=method, projector="full", text_encoder=text_encoder)
    start = {name: tensor.clone() for name, tensor in adapter_tensors(model).items()}
    attachment = attachment_of(model)
    still = {name for name in start if attachment.parameters[name].group == "router"}
    with torch.no_grad():
        for name, tensor in adapter_tensors(model).items():
            if name not in still:
                tensor += 0.1 * tensor if tensor.any() else 1e-3
    rows, unmoved = movement(start, adapter_tensors(model), attachment)
    assert set(unmoved) == still
    by_group = {(row["place"], row["group"]): row for row in rows}
    assert list(by_group) == [
        ("vision", "vision"),
        ("vision", "vision_new"),
        ("vision", "router"),
        ("projector", "projector"),
    ]
    assert by_group["vision", "router"]["relative"] == 0 and by_group["vision", "router"]["still"] == len(still)
    assert by_group["projector", "projector"]["relative"] == pytest.approx(0.1, rel=0.05)
    check = check_movement(rows, unmoved, attachment, {}, {"router": 0.0})
    assert check.failed and {fault.cause for fault in check.faults} == {ZERO_RATE}
    check = check_movement(rows, unmoved, attachment, {}, {"router": 1e-9})
    assert {fault.cause for fault in check.faults} == {ROUNDING}


def test_logits_that_differ_more_than_the_precision_allows_are_told_apart():
    one = torch.linspace(-3, 3, 10)
    assert check_equal("reload", one, one.clone(), torch.float32).found.startswith("logits are equal")
    assert check_equal("reload", one, one + 1e-5, torch.float32).verdict == "pass"
    assert check_equal("reload", one, one + 1e-2, torch.float32).failed
    assert check_equal("reload", one, one + 1e-2, torch.bfloat16).verdict == "pass"
    assert check_equal("reload", one, one * float("nan"), torch.float32).failed
    assert check_equal("reload", one, one[:3], torch.float32).failed


def test_every_cause_has_a_fix():
    assert set(FIXES) == {
        CHECKPOINTING, NO_GRAD, NEVER_RUN, UNUSED, FROZEN, SILENT, NON_FINITE, ZERO_RATE, NO_GROUP, ROUNDING,
    }  # fmt: skip
