"""Gradients: under checkpointing as without, in half precision, over two forwards before one backward."""

import copy

import pytest
import torch
from transformers import modeling_utils

from tests.matrix.cells import all_models, holds, logits, loss, only, trains
from tests.models.batches import QUESTIONS, ask
from yarbus.core.errors import ConfigError
from yarbus.models.attachment import is_attached

HOOKS_IN_CHECKPOINT = not hasattr(modeling_utils, "slice_logits_to_keep")
"""Before transformers 5.23 a block's hooks ran inside its checkpoint."""
HANDS_ON = {"svpt"}
"""Methods whose hooks hand a tensor with a gradient from block to block: reentrant checkpointing would cut it."""


@only(trains)
@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_gives_equal_gradients_over_two_forwards(cell, reentrant, text_encoder, sizes):
    def check(model, processor):
        texts = [[QUESTIONS[0]] * 2, QUESTIONS[1:3]]
        contexts = texts if is_attached(model) and hasattr(processor, "context_tokenizer") else [None, None]
        batches = [ask(processor, sizes[:2], texts[0], context=context) for context in contexts]
        found = []
        for mode in (None, reentrant):
            one = copy.deepcopy(model).train()
            for module in one.modules():
                if isinstance(module, torch.nn.Dropout):
                    module.p = 0.0
            if mode is not None:
                one.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": mode})
            sum(loss(one, batch) for batch in batches).backward()
            found.append({name: p.grad for name, p in one.named_parameters() if p.grad is not None})
        straight, checkpointed = found
        assert straight.keys() == checkpointed.keys()
        for name, gradient in straight.items():
            torch.testing.assert_close(checkpointed[name], gradient, atol=2e-5, rtol=1e-3, msg=name)

    # Reentrant checkpointing needs an input that requires grad: with something trained before the first block it has.
    ours = cell.moved(text_encoder, **({} if cell.place == "projector" else {"projector": "full"}))
    if reentrant and HOOKS_IN_CHECKPOINT and cell.method.name in HANDS_ON:
        with pytest.raises(ConfigError, match="use_reentrant"):
            check(*ours)
        return
    holds(check, cell, ours)


@only(trains)
def test_bf16_autocast_trains(cell, text_encoder, pictures):
    def check(model, processor):
        model.train()
        with torch.autocast("cpu", torch.bfloat16):
            value = loss(model, ask(processor, pictures))
        value.backward()
        assert torch.isfinite(value)
        assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)

    holds(check, cell, cell.moved(text_encoder))


@all_models
@only(trains)
def test_a_model_in_bf16_trains_and_answers(cell, text_encoder, pictures):
    def check(model, processor):
        model = model.to(torch.bfloat16)
        batch = ask(processor, pictures)
        loss(model.train(), batch).backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        assert gradients and all(torch.isfinite(gradient).all() for gradient in gradients)
        assert torch.isfinite(logits(model.eval(), batch)).all()
        assert model.generate(**batch, max_new_tokens=2, min_new_tokens=2).shape[0] == 2

    holds(check, cell, cell.moved(text_encoder))
