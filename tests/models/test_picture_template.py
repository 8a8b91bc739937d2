"""A language model's chat template with pictures in it, or the plain one."""

import pytest

from tests.models.parts import words
from yarbus.models.picture_template import AS_TEXT, plain_template, template_with_pictures

CHATML = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou help.<|im_end|>\n{% endif %}"
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA_2 = (
    "{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + message['content'].strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + message['content'].strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
SEES = (
    "{% for message in messages %}[{{ message['role'] }}]{% for part in message['content'] %}"
    "{{ '<image>' if part['type'] == 'image' else part['text'] }}{% endfor %}[/{{ message['role'] }}]{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
FORGETS = (
    "{% for message in messages %}{{ message['role'] + ': ' }}"
    "{{ message['content'] if loop.last or message['role'] == 'user' else 'something' }}\n{% endfor %}"
)
"""Says an answer otherwise once more is said, as Qwen3 takes out what it thought."""
NO_ROLES = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
BROKEN = "{{ raise_exception('never') }}"
CHAT = [
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what ?"}]},
    {"role": "assistant", "content": [{"type": "text", "text": "one"}]},
    {"role": "user", "content": "where ?"},
]


def chosen(own: str | dict | None) -> tuple[str, str]:
    """The template, and what it makes of a chat."""
    tokenizer = words()
    tokenizer.bos_token, tokenizer.chat_template = "<s>", own
    template = template_with_pictures(tokenizer)
    turns = [
        {**turn, "content": [{"type": "text", "text": turn["content"]}]} if isinstance(turn["content"], str) else turn
        for turn in CHAT
    ]
    return template, tokenizer.apply_chat_template(
        turns, chat_template=template, tokenize=False, add_generation_prompt=True
    )


def test_one_that_writes_pictures_stays_as_it_is():
    template, text = chosen(SEES)
    assert template == SEES
    assert text == "[user]<image>what ?[/user][assistant]one[/assistant][user]where ?[/user][assistant]"


@pytest.mark.parametrize("own", [CHATML, LLAMA_2, {"default": CHATML, "tools": BROKEN}])
def test_one_that_takes_plain_text_gets_it(own):
    template, text = chosen(own)
    assert template == AS_TEXT + (own["default"] if isinstance(own, dict) else own)
    assert (
        text
        == {
            CHATML: "<|im_start|>system\nYou help.<|im_end|>\n<|im_start|>user\n<image>\nwhat ?<|im_end|>\n"
            "<|im_start|>assistant\none<|im_end|>\n<|im_start|>user\nwhere ?<|im_end|>\n<|im_start|>assistant\n",
            LLAMA_2: "<s>[INST] <image>\nwhat ? [/INST] one </s><s>[INST] where ? [/INST]",
        }[template.removeprefix(AS_TEXT)]
    )


@pytest.mark.parametrize("own", [None, FORGETS, NO_ROLES, BROKEN])
def test_where_it_cannot_hold_a_conversation_the_plain_one_is_taken(own):
    template, text = chosen(own)
    assert template == plain_template("</s>")
    assert text == "USER: <image>\nwhat ? ASSISTANT: one</s> USER: where ? ASSISTANT:"


def test_the_plain_one_writes_what_the_system_says_and_no_end_that_there_is_not():
    turns = [{"role": "system", "content": "Be brief."}, *CHAT]
    text = words().apply_chat_template(turns, chat_template=plain_template(None), tokenize=False)
    assert text == "Be brief. USER: <image>\nwhat ? ASSISTANT: one USER: where ? "
