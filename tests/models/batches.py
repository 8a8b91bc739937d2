"""Batches for the tests of the question's path."""

QUESTIONS = ["what digit is red ?", "where is the blue one ?", "which colour is the digit ?", "is there a digit ?"]


def ask(processor, pictures, questions=QUESTIONS[:2], *, context=None, said=None, images_per_row=1, answers=None):
    """A batch with one row per question; row i shows the i-th group of pictures."""
    extra = {name: value for name, value in (("context", context), ("said", said)) if value is not None}
    if processor.chat_template is None:
        return _ask_in_plain_text(processor, pictures, questions, extra, images_per_row, answers)
    conversations, images = [], []
    for row, question in enumerate(questions):
        shown = [{"type": "image"}] * images_per_row
        turns = [{"role": "user", "content": [*shown, {"type": "text", "text": question}]}]
        if answers is not None:
            turns.append({"role": "assistant", "content": [{"type": "text", "text": answers[row]}]})
        conversations.append(turns)
        images.append(pictures[row * images_per_row : (row + 1) * images_per_row])
    text = processor.apply_chat_template(conversations, add_generation_prompt=answers is None)
    shown_images = images if images_per_row else None
    return processor(images=shown_images, text=text, padding=True, return_tensors="pt", **extra)


def _ask_in_plain_text(processor, pictures, questions, extra, images_per_row, answers):
    """The same for a processor without a chat template, where an answer is the suffix of its text."""
    images = [pictures[row * images_per_row : (row + 1) * images_per_row] for row in range(len(questions))]
    text = [processor.image_token * images_per_row + question for question in questions]
    extra = {**extra, **({"suffix": answers} if answers is not None else {})}
    batch = processor(images=images if images_per_row else None, text=text, padding=True, return_tensors="pt", **extra)
    batch.pop("labels")  # made without being asked for; a test names its own
    return batch


def without_context(batch):
    return {name: value for name, value in batch.items() if not name.startswith("context_")}
