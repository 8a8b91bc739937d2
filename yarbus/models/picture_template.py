"""A chat template that holds pictures, for a language model that has known none.

Its own is kept where it keeps turns apart in the way that training and evaluation need: as it is if it writes pictures
already, else with each turn made one text before it, in which a picture is ``<image>`` and a line break. A model
without a template, or with one that writes an answer otherwise once more is said (Qwen3 takes out what it thought),
gets the plain one of LLaVA-1.5: ``USER: <image>\\n... ASSISTANT: ...`` and the end token.
"""

from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError

from yarbus.core.errors import DataError
from yarbus.models.question import IMAGE_TAG, TemplateMarkers

AS_TEXT = (
    "{%- set flat = namespace(turns=[], text='') -%}"
    "{%- for message in messages -%}"
    "{%- if message['content'] is string or message['content'] is none -%}"
    "{%- set flat.turns = flat.turns + [message] -%}"
    "{%- else -%}"
    "{%- set flat.text = '' -%}"
    "{%- for part in message['content'] -%}"
    "{%- set flat.text = flat.text + ('<image>\n' if part['type'] == 'image' else part['text']) -%}"
    "{%- endfor -%}"
    "{%- set flat.turns = flat.turns + [dict(message, content=flat.text)] -%}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- set messages = flat.turns -%}"
)
"""Stands before a template that takes turns of plain text."""
PLAIN = (
    AS_TEXT + "{%- for message in messages -%}"
    "{{ message['role'] | upper ~ ': ' if message['role'] != 'system' }}{{ message['content'] }}"
    "{{ END if message['role'] == 'assistant' }} "
    "{% endfor -%}"
    "{{ 'ASSISTANT:' if add_generation_prompt }}"
)
_SAID = ("@first@", "@answer@", "@second@", "@last@")
_ROLES = ("user", "assistant", "user", "assistant")


def plain_template(end: str | None) -> str:
    """LLaVA-1.5's form, each answer with this end marker."""
    return PLAIN.replace("END", repr(end or ""))


def template_with_pictures(tokenizer: Any) -> str:
    """The tokenizer's own chat template where it can hold pictures, else the plain one."""
    own = tokenizer.chat_template
    if isinstance(own, dict):
        own = own.get("default")
    for template in (own, f"{AS_TEXT}{own}") if own else ():
        if _fits(tokenizer, template):
            return template
    return plain_template(tokenizer.eos_token)


def _fits(tokenizer: Any, template: str) -> bool:
    """Whether one picture and four turns come out in order, and a prompt is the beginning of what follows it."""

    def render(messages: Sequence[dict[str, Any]], prompt: bool = False) -> str:
        return tokenizer.apply_chat_template(
            list(messages), chat_template=template, tokenize=False, add_generation_prompt=prompt
        )

    turns = [
        {"role": role, "content": [{"type": "text", "text": said}]} for role, said in zip(_ROLES, _SAID, strict=True)
    ]
    turns[0]["content"] = [{"type": "image"}, *turns[0]["content"]]
    try:
        whole = render(turns)
        TemplateMarkers.of(render, tokenizer.bos_token)
        parts = [(render(turns[:number], prompt=True), render(turns[: number + 1])) for number in (1, 3)]
    except (TemplateError, DataError, TypeError, KeyError, ValueError, AttributeError):
        return False
    places = [whole.find(said) for said in (IMAGE_TAG, *_SAID)]
    is_in_order = places == sorted(places) and places[0] >= 0 and all(whole.count(s) == 1 for s in (IMAGE_TAG, *_SAID))
    return is_in_order and all(after.startswith(before) and whole.startswith(after) for before, after in parts)
