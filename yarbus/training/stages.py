"""A recipe's stages, one after another, into a run folder that any interruption leaves resumable.

Each stage has its own optimizer and schedule, its own folder and a last checkpoint that the next
stage starts from. Whatever a resumed stage depends on (data, base, the weights it began from) is
hashed into its checkpoints and compared, so that "resumed" always means "as if never stopped".
"""

import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PrinterCallback, TrainerCallback, TrainingArguments, set_seed

from yarbus.core.errors import CheckpointError, ConfigError
from yarbus.core.recipe import Recipe
from yarbus.core.sections import Stage
from yarbus.data.collate import Collator, context_texts
from yarbus.data.mixture import mix
from yarbus.data.sampler import StepSampler
from yarbus.methods.assemble import build_all, load_adapter
from yarbus.models.attach import set_stage
from yarbus.models.attachment import adapter_tensors, attachment_of, load_adapter_tensors
from yarbus.models.load import load_base
from yarbus.models.precompute import precompute
from yarbus.models.question import Question
from yarbus.training import checkpoint
from yarbus.training.facts import check_facts, samples_hash, tensors_hash
from yarbus.training.folder import Resume, adapter_hash, find_position, is_main, open_run, publish_adapter, say
from yarbus.training.guarded import WEIGHTS
from yarbus.training.metrics import MetricsWriter, drop_after
from yarbus.training.progress import StageProgress
from yarbus.training.recording import drop_records, record_gradients, record_routing
from yarbus.training.snapshot import load_tensors
from yarbus.training.trainer import GuardedTrainer
from yarbus.training.update import Reader


def train(
    recipe: Recipe,
    run: Path,
    *,
    resume: Resume = "auto",
    start: Path | None = None,
    stages: Sequence[str] | None = None,
    progress: bool = True,
    readers: Sequence[Reader] = (),
) -> Path:
    """Trains the recipe's stages in order and returns the run's folder, which then holds ``adapter/``.

    ``resume``: ``auto`` goes on where the run stopped (or begins), ``never`` refuses a folder with progress in it,
    a checkpoint folder of this run goes on from there. ``start``: an adapter that the first stage begins from.
    ``stages``: those to run, in the recipe's order; None for all. ``readers`` see each update's gradient.

    Raises:
        ConfigError: settings that would change the result differ from the interrupted run's, or do not fit.
        DataError: a data or benchmark file is not there, or not the interrupted run's.
        MismatchError: the base or starting weights are not those of the interrupted run.
        CheckpointError: a checkpoint is damaged.
        NonFiniteError: a loss or gradient is not a number; the last checkpoint is whole.
    """
    names = list(recipe.stages) if stages is None else _in_order(recipe, stages)
    started_from = None if start is None else adapter_hash(start)
    run_id = open_run(recipe, run, resume, names, started_from)
    if (run / "adapter").is_dir():
        if progress:
            say(f"already complete: {run}")
        return run
    position = find_position(run, names, run_id, resume)

    set_seed(recipe.seed)
    model, processor = load_base(recipe.model.name)
    if start is not None:
        model, processor = load_adapter(model, processor, start)
    for index, name in enumerate(names):
        begin_stage(model, processor, recipe, name)
        facts = {"stage": name, "base": attachment_of(model).base_fingerprint}
        facts["starts_from"] = tensors_hash(adapter_tensors(model))
        if index < names.index(position.stage):
            folder = checkpoint.newest(run / "stages" / name / "checkpoints", run_id, say)
            if folder is None:
                raise CheckpointError(
                    f"stage '{name}' has no checkpoint", where=run, why="later stages have", fix=checkpoint.RESTART
                )
            check_facts(folder, facts)
            load_adapter_tensors(model, load_tensors(folder / WEIGHTS))
        else:
            folder = position.folder if name == position.stage else None
            _run_stage(model, processor, recipe, name, run, run_id, facts, folder, progress, readers)
    if is_main():
        publish_adapter(model, processor, run)
    return run


def _in_order(recipe: Recipe, chosen: Sequence[str]) -> list[str]:
    """The chosen stages as the recipe orders them: each starts from what the one before left."""
    fix = f"use one of: {', '.join(recipe.stages)}"
    if not chosen:
        raise ConfigError("no stage named", fix=fix)
    for name in chosen:
        if name not in recipe.stages:
            raise ConfigError(f"no stage '{name}'", fix=fix)
        if list(chosen).count(name) > 1:
            raise ConfigError(f"stage '{name}' is named twice", fix="name each stage once")
    return [name for name in recipe.stages if name in chosen]


def stage_seed(seed: int, stage: str) -> int:
    """Seed of a stage's new modules and dropout: a stage draws the same whether or not one ran before it."""
    return int.from_bytes(hashlib.sha256(f"{seed} {stage}".encode()).digest()[:4])


def begin_stage(model: nn.Module, processor: Any, recipe: Recipe, name: str) -> None:
    """Attaches what the stage names, on the CPU under the stage's seed: new tensors are the same on every device."""
    model.cpu()
    set_seed(stage_seed(recipe.seed, name))
    question = recipe.question
    set_stage(
        model,
        processor,
        build_all(recipe.stages[name].train),
        text_encoder=question.text_encoder,
        question=Question(chat_turns=question.chat_turns, rules=question.rules, max_tokens=question.max_tokens),
    )


def stage_collator(recipe: Recipe, name: str, model: nn.Module, processor: Any) -> Collator:
    """What makes a stage's batches; ``model`` as the stage trains it."""
    return Collator(
        processor,
        train_turns=recipe.question.train_turns,
        seed=recipe.seed,
        max_tokens=recipe.stages[name].max_tokens,
        row_keys=any(method.draws_at_random for method in attachment_of(model).places.values()),
    )


def _run_stage(
    model: Any,
    processor: Any,
    recipe: Recipe,
    name: str,
    run: Path,
    run_id: str,
    facts: dict[str, str],
    folder: Path | None,
    progress: bool,
    readers: Sequence[Reader],
) -> None:
    """Trains one stage from its beginning or from ``folder`` to its end."""
    stage, home = recipe.stages[name], run / "stages" / name
    mixture = mix(stage.used_data)
    samples = mixture.samples
    facts = {**facts, "data": samples_hash(samples)}
    if folder is not None:
        check_facts(folder, facts)
    steps = stage.num_steps
    if steps is None:
        assert stage.epochs is not None, "the recipe wants exactly one of steps and epochs"
        steps = StepSampler(len(samples), stage.batch, recipe.seed, mixture.shared).steps(stage.epochs)
    done = 0 if folder is None else checkpoint.step_of(folder)
    if folder is not None and done >= steps:
        load_adapter_tensors(model, load_tensors(folder / WEIGHTS))
        return
    home.mkdir(parents=True, exist_ok=True)
    if is_main():
        drop_after(home / "metrics.jsonl", done)
        drop_records(home, done)
    use_cache = getattr(model.config, "use_cache", None)
    arguments = training_arguments(stage, home, steps, recipe.seed, stage_seed(recipe.seed, name))
    collator = stage_collator(recipe, name, model, processor)
    recorders: list[Reader] = []
    callbacks: list[TrainerCallback] = [MetricsWriter(home / "metrics.jsonl")]
    if is_main():  # gradients are averaged over processes before anybody reads them
        recorders += record_gradients(recipe.record, model, home)
        callbacks += record_routing(recipe.record, model, home, samples, collator, arguments.train_batch_size)
    trainer = GuardedTrainer(
        model=model,
        args=arguments,
        train_dataset=samples,
        data_collator=collator,
        learning_rates=stage.rates,
        readers=[*recorders, *readers],
        run=run_id,
        facts=facts,
        shared=mixture.shared,
        callbacks=callbacks,
    )
    trainer.remove_callback(PrinterCallback)
    # The trainer has moved the model: what a GPU makes of a text is not what a CPU does, to the bit.
    _encode_questions(model, processor, recipe, trainer, range(done, steps), progress)
    shown = StageProgress(name)
    if progress:
        trainer.add_callback(shown)
    try:
        trainer.train(str(folder) if folder else None)
    finally:
        shown.close()
    trainer.optimizer = None
    trainer.accelerator.free_memory()  # the next stage's optimizer needs the room of this one
    if stage.gradient_checkpointing:
        model.gradient_checkpointing_disable()
    model.config.use_cache = use_cache  # Trainer switches it off for good
    model.zero_grad(set_to_none=True)


def _encode_questions(
    model: Any, processor: Any, recipe: Recipe, trainer: GuardedTrainer, steps: Iterable[int], progress: bool
) -> None:
    """Encodes all that the eyes will be told in these steps, where the recipe keeps it and a method reads it."""
    question = recipe.question
    if question.text_cache is None or getattr(model.base_model, "context_encoder", None) is None:
        return
    samples, sampler = trainer.train_dataset, trainer.sampler
    visits = ((samples[row], epoch, row) for step in steps for epoch, row in sampler.visits(step))
    texts = context_texts(visits, question.train_turns, recipe.seed)
    precompute(model, processor, texts, question.text_cache, limit_mib=question.text_cache_mib, progress=progress)


def training_arguments(stage: Stage, home: Path, steps: int, seed: int, own_seed: int) -> TrainingArguments:
    """What Trainer needs to know of a stage but its rates. ``seed`` keys the order of samples, ``own_seed`` dropout."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    micro_batch = stage.micro_batch or stage.batch // world
    if micro_batch == 0 or stage.batch % (micro_batch * world):
        raise ConfigError(
            f"batch {stage.batch} cannot be shared out",
            why=f"micro_batch {micro_batch} on {world} device(s)",
            fix="make batch a multiple of micro_batch times devices",
        )
    checkpointing = (
        "activation_checkpointing"  # 5.23; before that it was called gradient_checkpointing
        if "activation_checkpointing" in TrainingArguments.__dataclass_fields__
        else "gradient_checkpointing"
    )
    arguments = TrainingArguments(
        output_dir=str(home),
        max_steps=steps,
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=stage.batch // (micro_batch * world),
        weight_decay=stage.weight_decay,
        max_grad_norm=stage.max_grad_norm or 0.0,
        bf16=stage.precision == "bfloat16",
        use_cpu=not torch.accelerator.is_available(),
        logging_strategy="steps",
        logging_steps=stage.log_every,
        logging_first_step=True,
        save_strategy="steps",  # always one after the last step
        save_steps=min(stage.checkpoint_every or steps, steps),
        save_total_limit=stage.keep_checkpoints,
        seed=own_seed,
        data_seed=seed,
        dataloader_num_workers=stage.num_workers,
        remove_unused_columns=False,
        report_to="none",
        disable_tqdm=True,
        **{checkpointing: stage.gradient_checkpointing, f"{checkpointing}_kwargs": {"use_reentrant": False}},
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # several GPUs without torchrun: the first one, never DataParallel
    return arguments
