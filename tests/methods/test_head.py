"""What every head must stand: precisions, batches of words alone, other ways to call it, and several processes."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import transformers
from packaging.version import Version
from PIL import Image
from torch.nn import functional as F

import yarbus
from tests import tiny
from tests.matrix.cells import as_after_training
from tests.methods.test_carpe import OPTIONS, attached, families
from tests.models.batches import QUESTIONS, ask
from yarbus.core.errors import DataError
from yarbus.methods import CARPE, LEVI
from yarbus.methods.integrator import HeadLayer
from yarbus.models.attachment import parameter_groups
from yarbus.models.load import load_base

in_pieces = pytest.mark.skipif(
    Version(transformers.__version__) < Version("5.23"), reason="5.17 forgets the pictures of a prompt in pieces"
)


@pytest.mark.parametrize("method", [CARPE(), LEVI(num_layers=2)], ids=["carpe", "levi"])
def test_a_head_may_be_more_precise_than_its_base(method, pictures):
    model, processor = tiny.llava()
    yarbus.attach(model.to(torch.bfloat16), processor, head=method)
    as_after_training(model).train()
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    batch = ask(processor, pictures)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        states = model.model(**batch).last_hidden_state
        model(**batch, labels=batch["input_ids"]).loss.backward()
    assert states.dtype == torch.bfloat16
    assert all(p.grad is not None and p.grad.any() for p in parameter_groups(model)["head"].values())


@families
@pytest.mark.parametrize("method", [CARPE(), CARPE(weighting="scalar")], ids=["context", "scalar"])
def test_a_model_of_half_precision_is_read_whole_as_it_was(family, method, tmp_path):
    model, processor = tiny.FAMILIES[family]()
    model.save_pretrained(tmp_path / "base")
    processor.save_pretrained(tmp_path / "base")
    model, processor = load_base(str(tmp_path / "base"), dtype=torch.bfloat16)
    yarbus.attach(model, processor, head=method)
    as_after_training(model)
    yarbus.save(model, processor, tmp_path / "full")
    again, _ = yarbus.load(tmp_path / "full")
    found = dict(again.named_parameters())
    assert found.keys() == dict(model.named_parameters()).keys()
    for name, parameter in model.named_parameters():
        assert torch.equal(found[name], parameter) and found[name].dtype == parameter.dtype, name


@families
def test_the_base_model_may_return_a_tuple(family, pictures):
    model, processor = attached(family)
    batch = ask(processor, pictures)
    with torch.no_grad():
        named = model.model(**batch, use_cache=True)
        states, cache = model.model(**batch, use_cache=True, return_dict=False)[:2]
    assert torch.equal(states, named.last_hidden_state)
    assert HeadLayer.of(cache).get_seq_length() == HeadLayer.of(named.past_key_values).get_seq_length() > 0


@families
def test_words_alone_may_come_as_embeddings(family, pictures):
    model, processor = attached(family)
    words = ask(processor, pictures, images_per_row=0)
    embedded = {name: words[name] for name in ("attention_mask", "context_prompt_ids", "context_prompt_mask")}
    with torch.no_grad():
        embedded["inputs_embeds"] = model.get_input_embeddings()(words["input_ids"])
        assert torch.equal(model(**embedded).logits, model(**words).logits)


@pytest.mark.parametrize("trains", [True, False])
def test_a_batch_of_words_alone_has_a_backward(trains, pictures):
    model, processor = attached("llava", CARPE(train_lm_head=trains))
    words = ask(processor, pictures, images_per_row=0)
    model.train()(**words, labels=words["input_ids"]).loss.backward()
    assert all(parameter.grad is None for parameter in model.model.context_head.parameters())


def test_what_was_said_may_be_one_text_per_row(pictures):
    _, processor = attached("llava")
    text = processor.apply_chat_template(
        [[{"role": "user", "content": [{"type": "text", "text": question}]}] for question in QUESTIONS[:2]]
    )
    one, listed = (
        processor(text=text, said=said, padding=True, return_tensors="pt")["context_prompt_ids"]
        for said in (QUESTIONS[1:3], [[question] for question in QUESTIONS[1:3]])
    )
    assert torch.equal(one, listed)


# ---- generation ----


@families
def test_a_plain_model_may_assist(family, pictures):
    model, processor = attached(family)
    batch = ask(processor, pictures[:1], QUESTIONS[:1])
    options = {**OPTIONS, "suppress_tokens": [model.config.image_token_id]}
    found = model.generate(**batch, **options, assistant_model=tiny.FAMILIES[family]()[0])
    assert torch.equal(found, model.generate(**batch, **options))


@in_pieces
@families
def test_a_prompt_may_come_in_pieces(family, pictures):
    model, processor = attached(family)
    batch = ask(processor, pictures)
    for size in (1, 3):
        assert torch.equal(
            model.generate(**batch, **OPTIONS, prefill_chunk_size=size), model.generate(**batch, **OPTIONS)
        )


@in_pieces
def test_a_prompt_in_pieces_is_refused_where_the_weights_look_at_the_whole(pictures):
    model, processor = attached("llava", CARPE(context_pass="joint"))
    with pytest.raises(DataError, match="without prefill_chunk_size"):
        model.generate(**ask(processor, pictures), **OPTIONS, prefill_chunk_size=3)


def test_going_on_with_text_but_no_question_is_refused(pictures):
    model, processor = attached("llava")
    batch = ask(processor, pictures[:1], QUESTIONS[:1])
    with torch.no_grad():
        cache = model(**batch, use_cache=True).past_key_values
        mask = F.pad(batch["attention_mask"], (0, 2), value=1)
        with pytest.raises(DataError, match="no question reached the head"):
            model(input_ids=torch.tensor([[5, 6]]), attention_mask=mask, past_key_values=cache)


# ---- processes ----

PROCESS = """
import sys, torch
from torch import distributed
torch.set_num_threads(1)
from tests.methods.test_head import gradients_of, with_projector
rank, file = int(sys.argv[1]), sys.argv[2]
distributed.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
model, processor = with_projector()
shared = torch.nn.parallel.DistributedDataParallel(model)
for _ in range(2):  # a tensor that no gradient came for is found by the second forward
    found = gradients_of(model, shared, processor, [rank])
torch.save(found, f"{file}.{rank}")
distributed.destroy_process_group()
"""


def with_projector():
    """The paper's set-up, with checkpointing: Trainer then asks DDP to expect a gradient for every tensor."""
    model, processor = attached("llava", projector="full")
    model.train().gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model, processor


def gradients_of(model, forward, processor, halves):
    """Of the mean loss over two halves of a batch: one with pictures, one of words alone."""
    random = np.random.default_rng(0)
    shown = [Image.fromarray(random.integers(0, 255, (28, 28, 3), dtype=np.uint8)) for _ in range(2)]
    model.zero_grad()
    for half in halves:
        batch = ask(processor, [] if half else shown, QUESTIONS[:2], images_per_row=0 if half else 1)
        (forward(**batch, labels=batch["input_ids"]).loss / len(halves)).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


def test_a_process_whose_batch_is_words_alone_shares_the_gradients(tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    file = tmp_path / "store"
    processes = [
        subprocess.Popen([sys.executable, "-c", PROCESS, str(rank), str(file)], env=environment) for rank in range(2)
    ]
    try:
        assert [process.wait(timeout=240) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    model, processor = with_projector()
    expected = gradients_of(model, model, processor, [0, 1])
    for rank in range(2):
        found = torch.load(f"{file}.{rank}", weights_only=True)
        assert found.keys() == expected.keys()
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, atol=1e-6, rtol=1e-3, msg=name)
