"""A head's weights on benchmark questions: those of the words alone are deaf to pictures, the others are not."""

import pytest
import torch

from tests import tiny
from tests.studies.test_swapped import question, write_questions
from yarbus import attach
from yarbus.core.errors import ConfigError
from yarbus.methods import CARPE
from yarbus.studies.mixing import mixing_weights, with_other_pictures


def trained(text_encoder, **options):
    """A head whose weights differ between questions, as after training."""
    model, processor = attach(*tiny.llava(), head=CARPE(num_heads=4, **options), text_encoder=text_encoder)
    head = model.base_model.context_head
    with torch.no_grad():
        if head.context_encoder is not None:
            head.context_encoder.weight.copy_(torch.randn(head.context_encoder.weight.shape) * 0.5)
        elif head.scalar is not None:
            head.scalar.copy_(torch.tensor([1.0, 0.0]))
    return model, processor


@pytest.mark.parametrize("batch", [4, 24])
def test_weights_of_the_words_alone_differ_by_task_and_not_by_picture(batch, text_encoder, tmp_path, pictures):
    torch.manual_seed(5)
    model, processor = trained(text_encoder)
    model.train()
    name = write_questions(tmp_path, pictures)
    found = mixing_weights(model, processor, [name], per_task=4, batch=batch)
    assert model.training and (found["weighting"], found["context_pass"]) == ("context", "text_only")
    assert found["other_picture"] == {"n": 12, "largest_change": 0.0, "mean_change": 0.0}
    assert {task: line["n"] for task, line in found["tasks"].items()} == dict.fromkeys(("read", "locate", "colour"), 4)
    means = [line["vision_weight"]["mean"] for line in found["tasks"].values()]
    assert max(means) - min(means) > 1e-3 and all(0 < mean < 1 for mean in means)
    # Three wordings stand for each task's four pictures: the weight knows no more than the words.
    assert all(line["distinct"] <= 3 for line in found["tasks"].values())


def test_weights_of_the_whole_sequence_hear_the_picture(text_encoder, tmp_path, pictures):
    torch.manual_seed(5)
    found = mixing_weights(*trained(text_encoder, context_pass="joint"), [write_questions(tmp_path, pictures)])
    assert found["other_picture"]["largest_change"] > 1e-4


@pytest.mark.parametrize(("options", "weight"), [({"weighting": "fixed", "vision_weight": 0.3}, 0.3),
                                                 ({"weighting": "scalar"}, 0.7311)])  # fmt: skip
def test_a_constant_is_the_same_everywhere(options, weight, text_encoder, tmp_path, pictures):
    found = mixing_weights(*trained(text_encoder, **options), [write_questions(tmp_path, pictures)])
    assert found["between_tasks"] == 0 and found["other_picture"]["largest_change"] == 0
    for line in found["tasks"].values():
        assert line["vision_weight"]["mean"] == pytest.approx(weight, abs=1e-4) and line["sd"] < 1e-7


def test_other_pictures_are_as_many_and_never_the_same():
    rows = [question(place, "what ?", "read", picture=f"{place // 2}.png") for place in range(6)]
    others = with_other_pictures(rows)
    assert all(other.images != row.images and other.turns == row.turns for row, other in zip(rows, others, strict=True))
    assert with_other_pictures(rows[:2]) == [None, None]


def test_a_model_without_such_a_head_is_refused(text_encoder, tmp_path, pictures):
    name = write_questions(tmp_path, pictures)
    for head in ("none", CARPE(weighting="fixed", vision_weight=0.0)):
        with pytest.raises(ConfigError, match="nothing is mixed"):
            mixing_weights(*attach(*tiny.llava(), head=head, text_encoder=text_encoder), [name])
