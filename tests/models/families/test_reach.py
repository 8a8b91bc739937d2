"""What must hold block by block: that each vision block of a family reads its own row's question."""

import pytest
import torch

from tests import tiny
from tests.matrix.cells import OTHER, attached, logits, plain
from tests.models.batches import QUESTIONS, ask
from yarbus.methods import CoVFT
from yarbus.models.vlm import VLM


@pytest.mark.parametrize("name", list(tiny.EVERY))
def test_each_block_alone_brings_the_question_to_its_own_row(name, text_encoder, pictures):
    for block in VLM.of(plain(name)[0]).executed_blocks(first=0):
        method = CoVFT(num_experts=2, context_dim=16, context="text", first_block=block, last_block=block)
        model, processor = attached(name, text_encoder, method)
        left, right = (
            logits(model, ask(processor, pictures[:2], [QUESTIONS[0]] * 2, context=[QUESTIONS[0], second]))
            for second in (QUESTIONS[0], OTHER)
        )
        assert torch.equal(left[0], right[0]), block
        assert (left[1] - right[1]).abs().max() > 1e-5, block


@pytest.mark.parametrize("name", list(tiny.EVERY))
def test_no_list_of_blocks_in_the_tower_is_left_out(name):
    vlm = VLM.of(plain(name)[0])
    projecting = {id(parameter) for parameter in vlm.place_parameters("projector").values()}
    lists = [module for module in vlm.vision_tower.modules() if isinstance(module, torch.nn.ModuleList)]
    found = [block for one in lists for block in one if not projecting & {id(p) for p in block.parameters()}]
    assert [id(block) for block in found] == [id(block) for block in vlm.blocks()]
    assert len(set(vlm.block_paths())) == len(found)
    assert next(vlm.feed_forward_linears(vlm.blocks()[0])).in_features == vlm.vision_dim
