"""Losses of routers: what they are, that they arrive on every way a model is trained, and over processes."""

import os
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PrinterCallback, TrainingArguments

from tests import tiny
from tests.models.batches import QUESTIONS, ask
from tests.models.test_question_path import attached
from tests.training.conftest import data  # noqa: F401 - a fixture
from yarbus.data.collate import Collator
from yarbus.data.sources.llava import read_llava
from yarbus.methods import CoVFT
from yarbus.methods.auxiliary import add_loss, router_losses
from yarbus.methods.covft import mixtures_of
from yarbus.models.slot import Context
from yarbus.training.trainer import GuardedTrainer

BALANCE, Z = 0.3, 0.02
SPARSE = CoVFT(num_experts=3, context_dim=16, routing="sparse")
WITH_LOSSES = CoVFT(num_experts=3, context_dim=16, routing="sparse", balance_loss=BALANCE, z_loss=Z)


@pytest.mark.parametrize("run", ["plain", "reentrant", "kept"])
def test_a_loss_added_to_a_tensor_is_only_felt_on_the_way_back(run):
    torch.manual_seed(0)
    weight, x = torch.randn(4, 4, requires_grad=True), torch.randn(3, 4, requires_grad=True)

    def block(x):
        y = (x @ weight).tanh()
        return add_loss(y, weight.square().mean() + y.mean(), 0.5)

    if run == "plain":
        output = block(x)
    else:
        output = checkpoint(block, x, use_reentrant=run == "reentrant")
    plain = (x @ weight).tanh()
    assert torch.equal(output, plain)
    output.square().sum().backward()
    expected = torch.autograd.grad(plain.square().sum() + 0.5 * (weight.square().mean() + plain.mean()), [weight, x])
    torch.testing.assert_close([weight.grad, x.grad], list(expected))
    with torch.no_grad():
        assert not block(x).requires_grad


def slow_losses(logits, top_k):
    """methods.md 4.7, image by image."""
    images, experts = logits.shape
    shares, gates = [0.0] * experts, [0.0] * experts
    for image in logits:
        for expert in sorted(range(experts), key=lambda e: -image[e].item())[:top_k]:
            shares[expert] += 1 / (top_k * images)
        for expert in range(experts):
            gates[expert] = gates[expert] + (image[expert].exp() / image.exp().sum()) / images
    balance = experts * sum(f * p for f, p in zip(shares, gates, strict=True))
    return balance, sum(image.exp().sum().log() ** 2 for image in logits) / images


def test_router_losses_equal_their_equations_written_as_loops():
    torch.manual_seed(0)
    logits = (torch.randn(6, 4) * 2).requires_grad_()
    found = router_losses(logits, logits.topk(2).indices, Context(None, None, None), 1)
    expected = slow_losses(logits, 2)
    for mine, slow in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, slow)
        torch.testing.assert_close(torch.autograd.grad(mine, logits)[0], torch.autograd.grad(slow, logits)[0])


def test_the_balance_loss_is_1_where_experts_share_the_images_evenly_and_larger_where_not():
    even = torch.tensor([[9.0, 0.0], [0.0, 9.0]])
    one = torch.tensor([[9.0, 0.0], [9.0, 0.0]])
    balances = [router_losses(x, x.topk(1).indices, Context(None, None, None), 0)[0] for x in (even, one)]
    torch.testing.assert_close(torch.stack(balances), torch.tensor([1.0, 2.0]), atol=1e-3, rtol=0)


def test_no_image_at_all_gives_no_loss_and_no_nan():
    logits = torch.zeros(0, 3, requires_grad=True)
    losses = router_losses(logits, torch.zeros(0, 2, dtype=torch.long), Context(None, None, None), 0)
    assert [loss.item() for loss in losses] == [0.0, 0.0]


# ---- in a model ----


def model_of(method, text_encoder, family="llava", checkpointing=None):
    model, processor = attached(family, text_encoder, method)
    model.train()
    if checkpointing is not None:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": checkpointing})
    return model, processor


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def loss_of(model, batch):
    return model(**batch, labels=batch["input_ids"]).loss


def slow_gradients(model, batch):
    """Of the routers' losses alone, from logits computed beside the model, by plain autograd."""
    logits = []
    for own in mixtures_of(model).values():
        own.extractor.register_forward_hook(lambda module, args, found, own=own: logits.append(own.router(found[0])))
    model(**batch)
    total = 0.0
    for one in logits:
        balance, z_loss = slow_losses(one, 2)
        total = total + BALANCE * balance + Z * z_loss
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    found = torch.autograd.grad(total, [model.get_parameter(name) for name in names], allow_unused=True)
    return {name: gradient for name, gradient in zip(names, found, strict=True) if gradient is not None}


def assert_gained(with_losses, without, slow, times=1.0):
    """The gradients with the losses are those without, and the losses' own that many times."""
    assert with_losses.keys() == without.keys() and slow.keys() <= without.keys()
    for name, gradient in without.items():
        expected = gradient + times * slow.get(name, torch.zeros(()))
        torch.testing.assert_close(with_losses[name], expected, atol=1e-5, rtol=1e-3, msg=name)
    assert max(float(gradient.abs().max()) for gradient in slow.values()) > 1e-3


@pytest.mark.parametrize("checkpointing", [None, True, False])
@pytest.mark.parametrize("family", list(tiny.FAMILIES))
def test_the_losses_gradient_joins_that_of_the_forward(family, checkpointing, text_encoder, pictures):
    found = []
    for method in (WITH_LOSSES, SPARSE):
        model, processor = model_of(method, text_encoder, family, checkpointing)
        batch = ask(processor, pictures, QUESTIONS)
        loss_of(model, batch).backward()
        found.append(gradients(model))
    slow = slow_gradients(model_of(SPARSE, text_encoder, family)[0], batch)
    assert_gained(*found, slow)


def test_two_forwards_before_one_backward_bring_each_its_own_loss(text_encoder, pictures):
    def both(checkpointing):
        model, processor = model_of(WITH_LOSSES, text_encoder, checkpointing=checkpointing)
        sum(loss_of(model, ask(processor, pictures, asked)) for asked in (QUESTIONS[:1], QUESTIONS[1:])).backward()
        return gradients(model)

    plain, checkpointed = both(None), both(True)
    for name in plain:
        torch.testing.assert_close(checkpointed[name], plain[name], atol=1e-5, rtol=1e-3, msg=name)


def test_a_head_and_a_loss_of_the_users_own_lose_nothing(text_encoder, pictures):
    """As TRL does: the base model's forward, then logits of some positions and a loss outside of the model."""
    found = []
    for method in (WITH_LOSSES, SPARSE):
        model, processor = model_of(method, text_encoder)
        batch = ask(processor, pictures, QUESTIONS)
        states = model.base_model(**batch).last_hidden_state[:, -2:]
        nn.functional.cross_entropy(model.lm_head(states).flatten(0, 1), torch.arange(8)).backward()
        found.append(gradients(model))
    assert_gained(*found, slow_gradients(model_of(SPARSE, text_encoder)[0], batch))


def test_the_slot_says_how_much_the_losses_weigh(text_encoder, pictures):
    found = []
    for method in (WITH_LOSSES, SPARSE):
        model, processor = model_of(method, text_encoder)
        batch = ask(processor, pictures, QUESTIONS)
        slot = model.base_model.context_slot
        with slot.weighing(0.25):
            loss_of(model, batch).backward()
        assert slot.loss_scale == 1.0
        found.append(gradients(model))
    assert_gained(*found, slow_gradients(model_of(SPARSE, text_encoder)[0], batch), times=0.25)


def test_values_are_recorded_in_training_with_gradients_and_nowhere_else(text_encoder, pictures):
    model, processor = model_of(WITH_LOSSES, text_encoder, checkpointing=True)
    batch = ask(processor, pictures, QUESTIONS)
    with model.base_model.context_slot.recording() as recorder:
        loss_of(model, batch).backward()
    for kind in ("balance_loss", "z_loss"):
        assert {block: len(values) for block, values in recorder.of(kind).items()} == {1: 1, 2: 1}
    with model.base_model.context_slot.recording() as recorder:
        with torch.no_grad():
            loss_of(model, batch)
        loss_of(model.eval(), batch).backward()
    assert not recorder.of("balance_loss") and not recorder.of("z_loss")
    assert len(recorder.of("routing_weights")[1]) == 2


def test_text_alone_brings_no_loss(text_encoder):
    model, processor = model_of(WITH_LOSSES, text_encoder)
    batch = ask(processor, [], QUESTIONS[:2], images_per_row=0)
    loss_of(model, batch).backward()
    assert not any("router" in name for name in gradients(model))


# ---- micro-batches ----


class Seen(Exception):
    """Stops a training after its first update."""


def first_update(folder, samples, text_encoder, tmp_path, **settings):
    """Gradients of the first update of our trainer."""
    model, processor = model_of(CoVFT(num_experts=3, context_dim=16, routing="sparse", z_loss=5.0), text_encoder)
    found = {}

    def read(step, model, sample_ids):
        found.update(gradients(model))
        raise Seen

    arguments = TrainingArguments(
        output_dir=str(tmp_path), max_steps=1, use_cpu=True, report_to="none", disable_tqdm=True, save_strategy="no",
        remove_unused_columns=False, **settings,
    )  # fmt: skip
    rates = dict.fromkeys(("vision", "vision_new", "router", "projector", "language"), 1e-3)
    trainer = GuardedTrainer(
        model=model, args=arguments, train_dataset=samples, data_collator=Collator(processor), learning_rates=rates,
        readers=[read],
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    with pytest.raises(Seen):
        trainer.train()
    assert model.base_model.context_slot.loss_scale == 1.0
    return {name: gradient for name, gradient in found.items() if "router." in name or "extractor" in name}


def test_micro_batches_weigh_as_the_one_batch_that_they_are(text_encoder, data, tmp_path):  # noqa: F811
    samples = read_llava(data / "train.json", data)
    one = first_update(data, samples, text_encoder, tmp_path, per_device_train_batch_size=6)
    settings = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 3}
    several = first_update(data, samples, text_encoder, tmp_path, **settings)
    assert one.keys() == several.keys() and one
    for name in one:  # sums in another order: what rounds off is a share of the largest terms, not of each result
        largest = float(one[name].abs().max())
        torch.testing.assert_close(several[name], one[name], atol=1e-3 * largest, rtol=1e-3, msg=name)
    assert max(float(gradient.abs().max()) for gradient in one.values()) > 1e-2


# ---- processes ----

PROCESS = """
import sys, torch
from torch import distributed
torch.set_num_threads(1)
from tests.methods.test_auxiliary import WITH_LOSSES, gradients, model_of
from tests.methods.test_auxiliary import batch_of_rows
rank, file, encoder, checkpointing = int(sys.argv[1]), sys.argv[2], sys.argv[3], eval(sys.argv[4])
distributed.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
for name, rows in (("text", [[0, 1, 2], []]), ("uneven", [[0], [1, 2]])):
    model, processor = model_of(WITH_LOSSES, encoder, checkpointing=checkpointing)
    batch = batch_of_rows(processor, rows[rank])
    with model.base_model.context_slot.recording() as recorder:
        (0.0 * model(**batch).logits.sum()).backward()  # the losses' gradient alone
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            distributed.all_reduce(parameter.grad)  # as DDP: the mean over processes
            parameter.grad /= 2
    if rank == 0:
        values = {block: found[0].item() for block, found in recorder.of("balance_loss").items()}
        torch.save({"gradients": gradients(model), "values": values}, f"{file}.{name}")
distributed.destroy_process_group()
"""


def batch_of_rows(processor, rows):
    """These rows of the test's questions; none stands for a row of text."""
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(0)
    shown = [Image.fromarray(random.integers(0, 255, (28, 28, 3), dtype=np.uint8)) for _ in range(4)]
    if not rows:
        return ask(processor, [], QUESTIONS[:2], images_per_row=0)
    return ask(processor, [shown[row] for row in rows], [QUESTIONS[row] for row in rows])


@pytest.mark.parametrize("checkpointing", [None, True])
def test_processes_share_one_loss_and_one_without_images_neither_hangs_nor_counts(
    checkpointing, text_encoder, tmp_path
):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    file = tmp_path / "store"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(rank), str(file), text_encoder, repr(checkpointing)], env=environment
        )
        for rank in range(2)
    ]
    try:
        assert [process.wait(timeout=120) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    model, processor = model_of(WITH_LOSSES, text_encoder)
    with model.base_model.context_slot.recording() as recorder:
        (0.0 * model(**batch_of_rows(processor, [0, 1, 2])).logits.sum()).backward()
    for name in ("text", "uneven"):
        found = torch.load(f"{file}.{name}", weights_only=True)
        assert found["values"] == {
            block: pytest.approx(values[0].item(), abs=1e-6) for block, values in recorder.of("balance_loss").items()
        }
        for parameter, gradient in gradients(model).items():
            torch.testing.assert_close(found["gradients"][parameter], gradient, atol=1e-6, rtol=1e-3, msg=parameter)
