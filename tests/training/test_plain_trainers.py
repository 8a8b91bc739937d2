"""``Trainer`` and ``Seq2SeqTrainer`` as they are: the context arrives, the right tensors move, what is saved loads."""

import datasets
import pytest
import torch
from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments, Trainer, TrainingArguments, default_data_collator

import yarbus
from tests.training.rows import ANSWER, QUESTIONS, SETTINGS, attached, losses, processed, quiet
from yarbus.core.errors import DataError
from yarbus.models.attachment import parameter_groups


def trainer_of(model, data, folder, **settings):
    arguments = TrainingArguments(output_dir=str(folder), max_steps=3, **{**SETTINGS, **settings})
    return quiet(Trainer(model=model, args=arguments, train_dataset=data, data_collator=default_data_collator))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_trainer_keeps_the_context_drops_the_rest_and_trains_what_is_declared(checkpointing, pictures, tmp_path):
    model, processor = attached()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    told = []
    model.base_model.register_forward_pre_hook(
        lambda module, args, kwargs: told.extend(kwargs["context_input_ids"].tolist()), with_kwargs=True, prepend=True
    )
    trainer = trainer_of(model, processed(processor, pictures), tmp_path, gradient_checkpointing=checkpointing)
    assert trainer.args.remove_unused_columns and trainer.model_accepts_loss_kwargs
    trainer.train()
    assert len(losses(trainer)) == 3 and losses(trainer)[-1] < losses(trainer)[0]
    assert {processor.context_tokenizer.decode(row, skip_special_tokens=True) for row in told} == set(QUESTIONS)
    trained = {name for group in parameter_groups(model).values() for name in group}
    assert {name for name, p in model.named_parameters() if not torch.equal(p, before[name])} == trained


def test_without_the_context_columns_the_run_stops_at_once(pictures, tmp_path):
    model, processor = attached()
    data = processed(processor, pictures).remove_columns(["context_input_ids", "context_attention_mask"])
    with pytest.raises(DataError, match="no question reached the vision tower"):
        trainer_of(model, data, tmp_path).train()


def test_a_checkpoint_of_trainer_is_a_full_model(pictures, tmp_path):
    model, processor = attached()
    trainer = trainer_of(model, processed(processor, pictures), tmp_path, save_strategy="steps", save_steps=3)
    trainer.processing_class = processor
    trainer.train()
    again, its_processor = yarbus.load(tmp_path / "checkpoint-3")
    mine, theirs = model.state_dict(), again.state_dict()
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)
    trains = [{name for name, p in one.named_parameters() if p.requires_grad} for one in (model, again)]
    assert trains[0] == trains[1]
    assert processed(its_processor, pictures)[0] == processed(processor, pictures)[0]
    assert not hasattr(model.config, "yarbus")


def test_seq2seq_trainer_predicts_with_generate(pictures, tmp_path):
    model, processor = attached()
    prompts = processed(processor, pictures, answer=None)
    arguments = Seq2SeqTrainingArguments(
        output_dir=str(tmp_path), max_steps=2, predict_with_generate=True, generation_max_length=40,
        per_device_eval_batch_size=2, **SETTINGS,
    )  # fmt: skip
    trainer = quiet(
        Seq2SeqTrainer(
            model=model,
            args=arguments,
            train_dataset=processed(processor, pictures),
            data_collator=default_data_collator,
            processing_class=processor.tokenizer,  # pads what was generated; a processor has no pad_token_id
        )
    )
    trainer.train()
    found = torch.as_tensor(trainer.predict(prompts, max_new_tokens=4, min_new_tokens=4, do_sample=False).predictions)
    expected = []
    for rows in prompts.with_format("torch").iter(batch_size=2):
        asked = {name: value for name, value in rows.items() if name not in ("note", "labels")}
        expected.append(model.generate(**asked, max_new_tokens=4, min_new_tokens=4, do_sample=False))
    whole = torch.cat(expected)
    assert torch.equal(found[:, : whole.shape[1]], whole) and (found[:, whole.shape[1] :] == 0).all()


def test_a_collator_may_call_the_processor_itself(pictures, tmp_path):
    """Then Trainer must leave the raw columns alone."""
    from tests.training.rows import chat

    model, processor = attached("qwen2_5_vl")

    def collate(rows):
        text = processor.apply_chat_template([chat(row["question"], ANSWER) for row in rows])
        shown = [[pictures[row["number"]]] for row in rows]
        batch = processor(images=shown, text=text, padding=True, return_tensors="pt")
        return {**batch, "labels": batch["input_ids"]}

    raw = datasets.Dataset.from_list([{"question": q, "number": n} for n, q in enumerate(QUESTIONS)])
    arguments = TrainingArguments(output_dir=str(tmp_path), max_steps=3, remove_unused_columns=False, **SETTINGS)
    trainer = quiet(Trainer(model=model, args=arguments, train_dataset=raw, data_collator=collate))
    trainer.train()
    assert losses(trainer)[-1] < losses(trainer)[0]
