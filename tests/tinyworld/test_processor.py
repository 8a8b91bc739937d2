import pytest
from PIL import Image
from transformers import LlavaProcessor

from yarbus.tinyworld.export import questions_of, scenes_of
from yarbus.tinyworld.processor import build_processor, text_tokenizer


@pytest.fixture(scope="module")
def processor():
    return build_processor()


def test_every_question_and_answer_is_made_of_known_words(processor):
    for split in ("train", "test"):
        for scene in scenes_of(split, 200):
            for question in questions_of(split, scene):
                for text in (question.instruction, question.answer):
                    assert processor.tokenizer.unk_token_id not in processor.tokenizer(text)["input_ids"], text
                    assert text_tokenizer().unk_token_id not in text_tokenizer()(text)["input_ids"], text


def test_an_answer_survives_encoding_and_decoding(processor):
    for answer in ("red 7 blue 3", "b2", "yes"):
        assert processor.tokenizer.decode(processor.tokenizer(answer)["input_ids"]) == answer


def test_the_image_token_becomes_one_token_per_patch(processor):
    picture = Image.new("RGB", (48, 48), (90, 90, 90))
    inputs = processor(images=picture, text="USER: <image>\nwhere is the 7 ? ASSISTANT:", return_tensors="pt")
    assert int((inputs["input_ids"] == processor.image_token_id).sum()) == 36
    assert tuple(inputs["pixel_values"].shape) == (1, 3, 48, 48)
    assert inputs["pixel_values"].mean().item() == pytest.approx((90 / 255 - 0.35) / 0.28, abs=1e-4)


def test_text_and_parts_are_rendered_alike(processor):
    parts = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "read the picture ."}]}]
    text = [{"role": "user", "content": "<image>\nread the picture ."}]
    wanted = "USER: <image>\nread the picture . ASSISTANT:"
    assert processor.apply_chat_template(parts, add_generation_prompt=True) == wanted
    assert processor.tokenizer.apply_chat_template(text, tokenize=False, add_generation_prompt=True) == wanted


def test_an_answer_ends_with_the_token_that_stops_generation(processor):
    turns = [{"role": "user", "content": "<image>\nread ."}, {"role": "assistant", "content": "7"}]
    tokens = processor.tokenizer.apply_chat_template(turns, tokenize=True)["input_ids"]
    assert tokens[-1] == processor.tokenizer.eos_token_id


def test_batches_are_padded_on_the_left(processor):
    padded = processor.tokenizer(["read", "read the picture ."], padding=True)["input_ids"]
    assert padded[0][:3] == [processor.tokenizer.pad_token_id] * 3


def test_a_saved_processor_is_the_same_processor(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    again = LlavaProcessor.from_pretrained(tmp_path, local_files_only=True)
    picture, text = Image.new("RGB", (48, 48), (200, 10, 90)), "USER: <image>\nwhat do you see ? ASSISTANT:"
    for name, value in processor(images=picture, text=text, return_tensors="pt").items():
        assert (again(images=picture, text=text, return_tensors="pt")[name] == value).all()
    assert again.chat_template == processor.chat_template


def test_the_text_encoder_reads_between_cls_and_sep():
    tokenizer = text_tokenizer()
    tokens = tokenizer.convert_ids_to_tokens(tokenizer("Where is the 7?")["input_ids"])
    assert tokens == ["[CLS]", "where", "is", "the", "7", "?", "[SEP]"]
