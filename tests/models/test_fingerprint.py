"""What tells tensors apart: samples for a base of billions of numbers, every bit for one tensor."""

import pytest
import torch

from tests import tiny
from yarbus.models import fingerprint as module
from yarbus.models.fingerprint import checksum, fingerprint


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int8, torch.bool])
@pytest.mark.parametrize("numbers", [1, 7, 24, 1001])
def test_one_changed_number_changes_the_checksum_wherever_it_stands(dtype, numbers, monkeypatch):
    monkeypatch.setattr(module, "COLUMNS", 11)  # several rows of columns, and a rest
    tensor = (torch.arange(numbers) % 50).to(dtype)
    before = checksum(tensor)
    for place in range(numbers):
        other = tensor.clone()
        other[place] = ~other[place] if dtype is torch.bool else other[place] + 1
        assert checksum(other) != before
    assert checksum(tensor.clone()) == before


def test_steps_up_and_down_in_equal_number_do_not_cancel():
    """What a small rate does to few numbers in bfloat16: the last bit goes up here and down there."""
    tensor = torch.full((64, 32), 1.0).to(torch.bfloat16)
    for row in range(1, 64):
        other = tensor.view(torch.int16).clone()
        other[0, 5] += 1
        other[row, 5] -= 1
        assert checksum(other.view(torch.bfloat16)) != checksum(tensor)


def test_a_view_into_another_tensor_has_the_checksum_of_its_numbers():
    whole = torch.arange(40, dtype=torch.bfloat16)
    assert checksum(whole[3:19]) == checksum(whole[3:19].clone())
    assert checksum(whole.view(5, 8).T) == checksum(whole.view(5, 8).T.contiguous())
    assert checksum(torch.zeros(0)) == checksum(torch.zeros(0, 4))


def test_an_fp16_copy_of_a_base_is_another_base_and_a_bf16_copy_is_not():
    model, _ = tiny.llava()
    found = {
        dtype: fingerprint({name: tensor.to(dtype) for name, tensor in model.named_parameters()})
        for dtype in (torch.float32, torch.bfloat16, torch.float16)
    }
    assert found[torch.float32] == found[torch.bfloat16] != found[torch.float16]
