"""PaliGemma: without a chat template, the whole text but its image tokens is the question, and the suffix never."""

import torch

from tests.matrix.cells import attached, logits
from tests.models.batches import ask


def question_of(processor, batch) -> list[str]:
    """What the eyes are told, row by row."""
    tokenizer = processor.context_tokenizer
    return [tokenizer.decode(ids[mask.bool()], skip_special_tokens=True) for ids, mask in zip(
        batch["context_input_ids"], batch["context_attention_mask"], strict=True
    )]  # fmt: skip


def test_the_whole_text_without_image_tokens_is_the_question(text_encoder, pictures):
    _, processor = attached("paligemma", text_encoder)
    images = [pictures[:1], pictures[1:3]]
    text = ["<image>what digit is red ?", "<image><image>where is the blue one ?\nwhich colour is the digit ?"]
    batch = processor(images=images, text=text, padding=True, return_tensors="pt")
    expected = ["what digit is red ?", "where is the blue one ? which colour is the digit ?"]
    assert question_of(processor, batch) == expected


def test_a_text_without_image_tokens_is_one_question_per_picture(text_encoder, pictures):
    _, processor = attached("paligemma", text_encoder)
    batch = processor(images=pictures[:2], text=["what digit", "where"], padding=True, return_tensors="pt")
    assert question_of(processor, batch) == ["what digit", "where"]


def test_the_suffix_never_reaches_the_eyes(text_encoder, pictures):
    model, processor = attached("paligemma", text_encoder)
    plain = ask(processor, pictures[:2])
    answered = ask(processor, pictures[:2], answers=["three", "bottom"])
    assert answered["input_ids"].shape[1] > plain["input_ids"].shape[1]
    assert "three" in processor.tokenizer.decode(answered["input_ids"][0])
    assert not any("three" in text or "bottom" in text for text in question_of(processor, answered))
    for key in ("context_input_ids", "context_attention_mask"):
        assert torch.equal(plain[key], answered[key])
    other = ask(processor, pictures[:2], answers=["five", "bottom"])
    prefix = (answered["token_type_ids"][0] == 0) & answered["attention_mask"][0].bool()
    assert torch.equal(logits(model, answered)[0, prefix], logits(model, other)[0, prefix])


def test_it_trains_on_the_suffix_alone(text_encoder, pictures):
    model, processor = attached("paligemma", text_encoder)
    images, text = [[picture] for picture in pictures[:2]], ["<image>what digit ?", "<image>where ?"]
    batch = processor(images=images, text=text, suffix=["three", "bottom"], padding=True, return_tensors="pt")
    labels = batch["labels"]
    said = [processor.tokenizer.decode(row[row != -100], skip_special_tokens=True) for row in labels]
    assert said == ["three", "bottom"]
    model.train()
    model(**batch).loss.backward()
    assert any(
        parameter.grad is not None and parameter.grad.any() for parameter in model.model.vision_tower.parameters()
    )


def test_its_prompt_looks_both_ways_and_its_answer_back(text_encoder, pictures):
    """Why a stepwise comparison needs ``token_type_ids`` that call the answer a suffix: then it holds as well."""
    model, processor = attached("paligemma", text_encoder)
    batch = ask(processor, pictures[:2])
    length = batch["input_ids"].shape[1]
    out = model.generate(
        **batch, max_new_tokens=4, min_new_tokens=4, do_sample=False, output_logits=True, return_dict_in_generate=True
    )
    whole = dict(batch)
    new = torch.ones(2, 4, dtype=torch.long)
    whole["input_ids"] = out.sequences
    whole["attention_mask"] = torch.cat([batch["attention_mask"], new], dim=1)
    whole["token_type_ids"] = torch.cat([batch["token_type_ids"], new], dim=1)
    recomputed = logits(model, whole)[:, length - 1 : -1]
    torch.testing.assert_close(torch.stack(out.logits, dim=1), recomputed, atol=2e-5, rtol=1e-4)
