"""The library's ``pipeline`` asks a tuned model as it asks any other."""

import pytest
import torch
from transformers import pipeline

import yarbus
from tests.training.rows import QUESTIONS, attached

OPTIONS = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_a_tuned_model_answers_in_the_pipeline_as_in_generate(family, pictures, tmp_path):
    yarbus.save(*attached(family), tmp_path)
    model, processor = yarbus.load(tmp_path)
    ask = pipeline("image-text-to-text", model=model, processor=processor)
    messages = [
        [{"role": "user", "content": [{"type": "image", "image": pictures[n]}, {"type": "text", "text": question}]}]
        for n, question in enumerate(QUESTIONS[:2])
    ]
    told = []
    model.base_model.register_forward_pre_hook(
        lambda module, args, kwargs: told.append(kwargs.get("context_input_ids")), with_kwargs=True, prepend=True
    )
    alone = [ask(text=one, return_full_text=False, generate_kwargs=OPTIONS)[0]["generated_text"] for one in messages]
    assert processor.context_tokenizer.decode(told[0][0], skip_special_tokens=True) == QUESTIONS[0]
    together = ask(text=messages, batch_size=2, return_full_text=False, generate_kwargs=OPTIONS)
    assert [answer[0]["generated_text"] for answer in together] == alone
    for one, answer in zip(messages, alone, strict=True):
        batch = processor.apply_chat_template(
            one, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )
        with torch.no_grad():
            found = model.generate(**batch, **OPTIONS)[0, batch["input_ids"].shape[1] :]
        assert answer.strip() == processor.decode(found, skip_special_tokens=True).strip()
