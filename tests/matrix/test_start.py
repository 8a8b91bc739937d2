"""What attaching and detaching do to a model, and what it declares."""

import copy

import pytest
import torch

import yarbus
from tests.matrix.cells import Cell, as_after_training, assert_same, logits, loss, only, trains
from tests.methods.cases import CASES
from tests.models.batches import QUESTIONS, ask
from yarbus.core.errors import ConfigError
from yarbus.methods import METHODS
from yarbus.models.attachment import declared_groups, is_attached, parameter_groups
from yarbus.models.vlm import VLM


def test_every_entry_of_every_table_has_a_small_case():
    covered = {(case.place, case.method.name) for case in CASES.values()}
    assert covered == {(place, name) for place, table in METHODS.items() for name in table}


@pytest.mark.parametrize("case", [case for case in CASES if CASES[case].place == "vision"])
def test_a_tower_of_another_layout_is_refused_with_the_reason_and_stays_as_it_was(small_model, case):
    cell = Cell(small_model, case)
    model, processor = cell.plain()
    layout = VLM.of(model).tower.layout
    if layout in cell.method.layouts:
        return
    with pytest.raises(ConfigError, match=rf"its tokens are \[{layout}\], the method needs \["):
        yarbus.attach(model, processor, vision=cell.method, text_encoder="language_embeddings")
    assert not is_attached(model)


def test_attaching_changes_what_start_declares_and_detaching_restores_every_bit(cell, text_encoder, pictures):
    model, processor = cell.plain()
    model.model.register_forward_hook(lambda module, args, output: None)  # a hook of somebody else stays
    batch, cls = ask(processor, pictures), type(model)
    expected, before = logits(model, batch), {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modules = [name for name, _ in model.named_modules()]
    hooks = len(model.model._forward_pre_hooks), len(model.model._forward_hooks)
    torch.manual_seed(1)
    yarbus.attach(model, processor, **{cell.place: cell.method}, text_encoder=text_encoder)
    got = logits(model, ask(processor, pictures))
    if cell.method.starts == "identity":
        assert_same(cell, got, expected)
    elif cell.method.starts == "rounding":
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)
    else:
        assert torch.isfinite(got).all() and not torch.equal(got, expected)
    yarbus.detach(model, processor)
    assert not is_attached(model) and type(model) is cls
    assert torch.equal(logits(model, batch), expected)
    after = model.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert [name for name, _ in model.named_modules()] == modules
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert (len(model.model._forward_pre_hooks), len(model.model._forward_hooks)) == hooks
    assert set(ask(processor, pictures)) == set(batch)


def test_a_copy_is_a_model_of_its_own(cell, text_encoder, pictures):
    model, processor = cell.moved(text_encoder)
    batch = ask(processor, pictures)
    expected = logits(model, batch)
    twin = copy.deepcopy(model)
    assert torch.equal(logits(twin, batch), expected)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert torch.equal(logits(model, batch), expected)
    if trains(cell):
        assert not torch.equal(logits(twin, batch), expected)


@only(trains)
def test_all_that_is_declared_has_a_gradient_and_nothing_else(cell, text_encoder, pictures):
    model, processor = cell.attach(text_encoder)
    model.train()
    loss(model, ask(processor, pictures)).backward()
    groups = parameter_groups(model)
    assert list(groups) and set(groups) == set(declared_groups(model))
    declared = {name for group in groups.values() for name in group}
    assert {name for name, parameter in model.named_parameters() if parameter.grad is not None} == declared
    silent = {name for name in declared if not model.get_parameter(name).grad.any()}
    unsaid = {name for name in silent if not any(part in name for part in cell.method.silent)}
    assert not unsaid, sorted(unsaid)[:5]
    plan = yarbus.plan(model)
    assert plan.total("trained") == sum(model.get_parameter(name).numel() for name in declared)
    assert plan.total("declared") >= plan.total("trained")
    if cell.place == "vision":
        rows = {row.block for row in plan.rows if row.place == "vision"}
        assert rows - {None} == set(range(len(VLM.of(model).blocks())))


@only(trains)
def test_after_training_a_little_every_declared_tensor_is_heard(cell, text_encoder, pictures):
    model, processor = cell.moved(text_encoder)
    model.train()
    for questions in (QUESTIONS[:2], QUESTIONS[2:]):
        loss(model, ask(processor, pictures, questions)).backward()
    declared = {name for group in parameter_groups(model).values() for name in group}
    mute = {name for name in declared if not model.get_parameter(name).grad.any()}
    unsaid = {name for name in mute if not any(part in name for part in cell.method.mute)}
    assert not unsaid, sorted(unsaid)[:5]


@only(trains)
def test_a_step_moves_what_is_declared_and_nothing_else(cell, text_encoder, pictures):
    model, processor = cell.moved(text_encoder)
    model.train()
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}  # each once, also where heads are tied
    before = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    groups = parameter_groups(model)
    optimizer = torch.optim.AdamW([p for group in groups.values() for p in group.values()], lr=1e-2, weight_decay=0.1)
    loss(model, ask(processor, pictures)).backward()
    optimizer.step()
    moved = {name for name, tensor in tensors.items() if not torch.equal(tensor, before[name])}
    declared = {name for group in groups.values() for name in group}
    assert moved <= declared
    still = {name for name in declared - moved if before[name].any()}  # decay moves even what had no gradient
    assert not still, sorted(still)[:5]


@only(trains)
def test_what_trains_beside_a_projector_and_a_language_model_that_train_is_all_reached(cell, text_encoder, pictures):
    model, processor = cell.attach(text_encoder, projector="full", language="full")
    as_after_training(model).train()
    loss(model, ask(processor, pictures[:2])).backward()
    declared = {name for group in parameter_groups(model).values() for name in group}
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == declared
    assert {name for name, parameter in model.named_parameters() if parameter.grad is not None} == declared
