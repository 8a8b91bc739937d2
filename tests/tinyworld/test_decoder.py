import pytest
import torch

from yarbus.tinyworld.decoder import NUM_SLOTS, DecoderSchedule, SlotReader, are_right, coverage, decoder_loss, lay_out
from yarbus.tinyworld.export import questions_of
from yarbus.tinyworld.scene import draw_scene


@pytest.fixture(scope="module")
def reader():
    return SlotReader(seed=0)


def test_a_digit_covers_as_much_of_the_patches_as_its_square():
    covered = coverage(24.0, 20.0, 16)
    assert covered.sum() * 64 == pytest.approx(16 * 16)
    assert covered.view(6, 6)[3, 2] == 0.5 and covered.view(6, 6)[0, 0] == 0


def test_questions_on_one_sheet_do_not_see_each_other(reader):
    scene = draw_scene("train", (0, 1))
    questions = questions_of("train", scene)
    together, _ = reader([scene], [questions])
    starts = (lay_out(reader.tokenizer, questions).question == 3).nonzero().flatten() - 1
    alone, _ = reader([scene], [[questions[2]]])
    torch.testing.assert_close(together[0, starts[1:]], alone[0, 38 : 38 + len(starts) - 1], rtol=1e-4, atol=1e-4)


def test_a_sheet_is_what_the_processor_makes_of_the_conversation(reader):
    scene = draw_scene("train", (0, 1))
    question = questions_of("train", scene)[0]
    turns = [
        {"role": "user", "content": f"<image>\n{question.instruction}"},
        {"role": "assistant", "content": question.answer},
    ]
    text = reader.tokenizer.apply_chat_template(turns, tokenize=False).replace("<image>", "<image>" * NUM_SLOTS)
    assert lay_out(reader.tokenizer, [question]).tokens.tolist() == reader.tokenizer(text)["input_ids"]


def test_only_answers_are_learned(reader):
    scene = draw_scene("train", (0, 1))
    for question in questions_of("train", scene):
        sheet = lay_out(reader.tokenizer, [question])
        learned = sheet.targets[sheet.targets != -100].tolist()
        assert reader.tokenizer.decode(learned) == f"{question.answer} </s>"


def test_the_loss_of_a_step_is_the_same_every_time(reader):
    schedule = DecoderSchedule(batch=4)
    assert decoder_loss(reader, schedule, 7)[0] == decoder_loss(reader, schedule, 7)[0]


def test_where_no_token_is_asked_for_everything_is_right():
    logits = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]])
    assert are_right(logits, torch.tensor([[-100, 0]])).all()
    assert are_right(logits, torch.tensor([[-100, 1]])).tolist() == [[True, False]]


def test_what_is_left_unsaid_is_missing_from_the_slots_and_nothing_else(reader):
    scene = draw_scene("train", (0, 1), num_digits=(1, 1))
    (digit,) = scene.digits
    with torch.no_grad():
        said, unsaid = reader.slots([scene])[0], reader.slots([scene], lambda: True)[0]
        words = reader.tokenizer.convert_tokens_to_ids([digit.size, digit.cell])
        missing = reader.language_model.get_input_embeddings().weight[words].sum(0)
    torch.testing.assert_close(said - unsaid, coverage(digit.x, digit.y, digit.px)[:, None] * missing)
