"""``transformers.Trainer`` with guards: named groups, a look at every gradient, checkpoints without pickles.

``Guarded`` is a mixin that comes first (``class GuardedSFT(Guarded, SFTTrainer)``); each method
that it overrides calls ``super()``, except those whose whole purpose is a pickle.

What Trainer's own loop leaves open and this file closes:

- A NaN passes silently into every weight. Here each update is looked at once, after accumulation
  and before clipping (``training_step`` of the last micro-batch: ``on_pre_optimizer_step`` comes after
  clipping, and ``_clip_grad_norm`` is not called when clipping is off).
- A resumed run replays its loader, and the logged loss forgets the interval it was in. Here the order
  of samples is a function of the step, and the interval is part of the checkpoint.
- ``iter()`` of a DataLoader draws from the global generator, which shifts dropout after a resume.
  Ours has its own.
"""

import copy
import inspect
import math
import time
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from yarbus.core.errors import ConfigError
from yarbus.core.records import read_json, write_json
from yarbus.core.sections import GroupRate
from yarbus.data.sampler import SharedRows, StepSampler
from yarbus.models.attachment import (
    adapter_tensors,
    attachment_of,
    declared_groups,
    load_adapter_tensors,
    parameter_groups,
)
from yarbus.models.save import save_adapter
from yarbus.training import checkpoint
from yarbus.training.batches import Drawn, ItemsOnly, StepBatches
from yarbus.training.groups import (
    check_groups,
    check_reached,
    gradient_norms,
    optimizer_groups,
    rate_factor,
    rate_range,
    rate_scales,
)
from yarbus.training.memory import peak_bytes, reset_peak
from yarbus.training.snapshot import (
    check_finite_tensors,
    load_optimizer,
    load_tensors,
    optimizer_numbers,
    optimizer_tensors,
    rng_tensors,
    save_tensors,
    set_rng,
)
from yarbus.training.update import Reader, Update

WEIGHTS, OPTIMIZER, STATE = "weights.safetensors", "optimizer.safetensors", "state.json"
TRAINER_STATE = "trainer_state.json"  # Trainer.train reads it under this name


class Guarded(Trainer):
    """Named groups, one look at each gradient, exact resume, checkpoints of safetensors and JSON.

    ``learning_rates``: one per group of the attached methods; a number follows the schedule of ``args``. ``readers``
    see each update's gradient after the finite check. ``run`` and ``facts`` go into each manifest; a checkpoint of
    another run is refused. ``shared``: rows of the data that have a share of every batch.
    """

    optimizer: Any  # accelerate wraps it
    lr_scheduler: Any

    def __init__(
        self,
        *args: Any,
        learning_rates: Mapping[str, float | GroupRate],
        readers: Sequence[Reader] = (),
        run: str = "",
        facts: Mapping[str, Any] | None = None,
        shared: Sequence[SharedRows] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **self._with_reference(args, kwargs))
        self._refuse_unsupported()
        # Recorded losses are never filtered: a NaN stops the run before it is recorded.
        self.args.logging_nan_inf_filter = False
        # The order of samples needs no fast-forward; Trainer then restores the generators before the first batch.
        self.args.ignore_data_skip = True
        self.run_id, self.facts = run, dict(facts or {})
        self.rates = {
            group: rate if isinstance(rate, GroupRate) else GroupRate.model_construct(peak=rate)
            for group, rate in learning_rates.items()
        }
        model = self._plain_model()
        self.groups = parameter_groups(model)
        check_groups(model, self.groups, declared_groups(model), self.rates)
        self.rate_scales = rate_scales(model, self.groups, self.rates)
        self.readers: list[Reader] = [self.check_finite, *readers]
        self.update = Update()
        self.is_reached = False
        """Whether an update has shown that every tensor that trains receives a gradient."""
        self.first_step = 0
        self.interval_losses: list[float] = []
        """Loss of each update since the last logged line."""
        self.seconds_before = 0.0
        self.peak_before = 0
        """Peak memory of the sessions before a resume."""
        self._started = self._interval_started = 0.0
        self._interval_step = 0
        self.global_batch = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        seed = self.args.data_seed if self.args.data_seed is not None else self.args.seed
        self.sampler = StepSampler(len(self.train_dataset), self.global_batch, seed, shared)
        if self.args.max_steps <= 0:
            self.args.max_steps = self.sampler.steps(float(self.args.num_train_epochs))
        self.add_callback(_Flow(self))

    @classmethod
    def _with_reference(cls, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """A trainer that compares with a reference model (TRL's DPO) gets a copy of the model where none is given.

        TRL would load the base that the model once came from: without what was attached, and without what was trained.
        """
        wants = any("ref_model" in inspect.signature(one.__init__).parameters for one in cls.__mro__)  # type: ignore[misc]
        model = kwargs.get("model", args[0] if args else None)
        if not wants or len(args) > 1 or kwargs.get("ref_model") is not None or not isinstance(model, nn.Module):
            return kwargs
        return {**kwargs, "ref_model": copy.deepcopy(model)}

    # ---- the update ----

    def training_step(self, model: nn.Module, inputs: MutableMapping[str, Any], *args: Any, **kwargs: Any) -> Tensor:
        """One micro-batch forward and backward; after the last one of an update the readers see the gradient."""
        self.update.sample_ids.append(inputs.pop("sample_ids", []))
        self.update.has_images |= "pixel_values" in inputs
        self._prepare_methods(model, inputs)
        slot = attachment_of(self._plain_model()).slot
        with slot.weighing(1 / self.args.gradient_accumulation_steps), slot.freezing(self.frozen_groups()):
            loss = super().training_step(model, inputs, *args, **kwargs)
        self.update.losses.append(loss)
        if self.accelerator.sync_gradients:
            self.read_gradients()
        return loss

    def _prepare_methods(self, model: nn.Module, inputs: MutableMapping[str, Any]) -> None:
        """What attached methods do before a micro-batch, such as searching a path through their experts."""
        preparations = attachment_of(self._plain_model()).preparations
        if preparations:
            inputs = self._prepare_inputs(inputs)
            with torch.no_grad(), self.compute_loss_context_manager():
                for prepare in preparations:
                    prepare(self._plain_model(), inputs, self.state.global_step / self.args.max_steps)

    def read_gradients(self) -> None:
        """Shows the accumulated, unclipped gradient to every reader, once."""
        update = self.update
        if update.has_images and not self.is_reached:  # text alone reaches no tensor of the eyes
            check_reached(self.groups)
            self.is_reached = True
        loss = self.accelerator.reduce(torch.stack(update.losses).sum(), reduction="mean")
        update.loss = loss.item()
        update.gradient_norms = gradient_norms(self.groups)
        update.learning_rates = rate_range(self.optimizer.param_groups)
        step = self.state.global_step + 1
        model = self._plain_model()
        sample_ids = [name for micro_batch in update.sample_ids for name in micro_batch]
        for reader in self.readers:
            reader(step, model, sample_ids)
        self.interval_losses.append(update.loss)

    def check_finite(self, step: int, model: nn.Module, sample_ids: list[str]) -> None:
        """Stops before an update whose loss or gradient is not a finite number; the weights stay as they are."""
        self.update.check_finite(step, self.groups)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """The optimizer that ``args.optim`` names, over the named groups."""
        if self.optimizer is None:
            kind, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            options = {key: value for key, value in options.items() if key != "lr"}
            peaks = {group: rate.peak for group, rate in self.rates.items()}
            entries = optimizer_groups(self.groups, peaks, self.args.weight_decay, self.rate_scales)
            self.optimizer = kind(entries, **options)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        """Each group's own schedule where one has its own; else the one that ``args`` names, for all."""
        has_own = any(
            rate.schedule is not None or rate.warmup_fraction is not None or rate.frozen_fraction
            for rate in self.rates.values()
        )
        if self.lr_scheduler is None and has_own:
            optimizer = self.optimizer if optimizer is None else optimizer
            factors = {group: self._rate_factor(rate, num_training_steps) for group, rate in self.rates.items()}
            self.lr_scheduler = LambdaLR(optimizer, [factors[entry["group"]] for entry in optimizer.param_groups])
            self._created_lr_scheduler = True
        return super().create_scheduler(num_training_steps, optimizer)

    def frozen_groups(self) -> set[str]:
        """Groups whose rate is 0 in the update that is being made, by their ``frozen_fraction``."""
        done, steps = self.state.global_step, self.args.max_steps
        return {group for group, rate in self.rates.items() if done < self._frozen_steps(rate, steps)}

    def _frozen_steps(self, rate: GroupRate, steps: int) -> int:
        return math.ceil(rate.frozen_fraction * steps)  # a whole epoch, not most of one

    def _rate_factor(self, rate: GroupRate, steps: int) -> Callable[[int], float]:
        fraction = rate.warmup_fraction
        warmup = self.args.get_warmup_steps(steps) if fraction is None else math.ceil(fraction * steps)
        # transformers' "constant" has no warm-up, a recipe's has.
        schedule = "constant_with_warmup" if rate.schedule == "constant" else rate.schedule
        frozen = self._frozen_steps(rate, steps)
        return rate_factor(schedule or self.args.lr_scheduler_type, warmup, steps, frozen)

    # ---- the order of samples ----

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Batches from ``first_step`` on, this process's rows only; tensors move to the device in ``training_step``."""
        args = self.args
        batches = StepBatches(
            self.sampler,
            micro_batch=args.train_batch_size,
            first_step=self.first_step,
            num_steps=args.max_steps,
            rank=args.process_index,
            world=args.world_size,
        )
        workers = args.dataloader_num_workers
        return DataLoader(
            Drawn(self.train_dataset),
            batch_sampler=batches,  # type: ignore[arg-type]
            collate_fn=self.collate_drawn(),
            num_workers=workers,
            pin_memory=args.dataloader_pin_memory and torch.cuda.is_available(),
            prefetch_factor=args.dataloader_prefetch_factor if workers else None,
            generator=torch.Generator().manual_seed(self.sampler.seed),
        )

    def collate_drawn(self) -> Callable[[list[tuple[Any, int, int]]], Any]:
        """What turns drawn items into a batch; here the collator sees the items alone."""
        return ItemsOnly(self._get_collator_with_removed_columns(self.data_collator, description="training"))

    # ---- checkpoints ----

    @property
    def checkpoints(self) -> Path:
        """The folder that holds the ``step-...`` folders."""
        return Path(self.args.output_dir) / "checkpoints"

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Trains; ``True`` resumes from the newest whole checkpoint, a path from that one, after verifying it."""
        folder: Path | None = None
        if resume_from_checkpoint is True:
            folder = checkpoint.newest(self.checkpoints, self.run_id)
        elif resume_from_checkpoint:
            folder = Path(resume_from_checkpoint)
        self.first_step = 0 if folder is None else checkpoint.verify(folder, self.run_id).step
        self.update, self.interval_losses, self.seconds_before, self.peak_before = Update(), [], 0.0, 0
        model = self._plain_model()
        own_forward = model.__dict__.get("forward")
        result = super().train(str(folder) if folder else None, *args, **kwargs)
        if model.__dict__.pop("_original_forward", None) is not None:
            # accelerate leaves autocast on the instance; a later stage would wrap it again, and a class swap miss it.
            del model.forward
            if own_forward is not None:
                model.forward = own_forward
        return result

    def start_clock(self) -> None:
        """Training begins now; everything before was preparation."""
        reset_peak(self.args.device)
        self._started = self._interval_started = time.monotonic()
        self._interval_step = self.first_step

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Writes everything beside, then gives it its name, then lets the oldest go."""
        self.store_flos()
        step = self.state.global_step
        if self.args.should_save:
            check_finite_tensors(adapter_tensors(self._plain_model()), step)
            checkpoint.prepare(self.checkpoints, step)
        self.accelerator.wait_for_everyone()
        folder = checkpoint.beside(self.checkpoints, step)
        self._save_rng_state(str(folder))
        if self.args.should_save:
            save_tensors(adapter_tensors(self._plain_model()), folder / WEIGHTS)
            self._save_optimizer_and_scheduler(str(folder))
            self.state.save_to_json(str(folder / TRAINER_STATE))
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            checkpoint.publish(self.checkpoints, step, run=self.run_id, facts=self.facts)
            if self.args.save_total_limit:
                checkpoint.rotate(self.checkpoints, self.args.save_total_limit)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """``save_model`` writes the adapter (Trainer would add ``training_args.bin``)."""
        if self.args.should_save:
            save_adapter(self._plain_model(), Path(output_dir or self.args.output_dir))

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        save_tensors(optimizer_tensors(self.optimizer), Path(output_dir) / OPTIMIZER)
        write_json(
            Path(output_dir) / STATE,
            {
                "optimizer": optimizer_numbers(self.optimizer),
                "scheduler": self.lr_scheduler.state_dict(),
                "interval_losses": self.interval_losses,
                "wall_seconds": self.wall_seconds,
                "peak_bytes": self.peak_bytes,
            },
        )

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        state = read_json(Path(checkpoint) / STATE)
        load_optimizer(self.optimizer, load_tensors(Path(checkpoint) / OPTIMIZER), state["optimizer"])
        self.lr_scheduler.load_state_dict(state["scheduler"])
        self.interval_losses = state["interval_losses"]
        self.seconds_before = state["wall_seconds"]
        self.peak_before = state.get("peak_bytes", 0)  # checkpoints of earlier versions have none

    def _save_rng_state(self, output_dir: str) -> None:
        save_tensors(rng_tensors(), Path(output_dir) / self._rng_file)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            set_rng(load_tensors(Path(checkpoint) / self._rng_file))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        load_adapter_tensors(self._plain_model(), load_tensors(Path(resume_from_checkpoint) / WEIGHTS))

    def _save_scaler(self, output_dir: str) -> None:
        """Nothing: without fp16 there is no scaler."""

    def _load_scaler(self, checkpoint: str | None) -> None:
        """Nothing: without fp16 there is no scaler."""

    def hyperparameter_search(self, *args: Any, **kwargs: Any) -> Any:
        """Refused: Trainer's search writes its trials as pickles."""
        raise ConfigError("hyperparameter_search is not supported", fix="run one recipe per setting")

    # ---- records ----

    @property
    def wall_seconds(self) -> float:
        """Seconds of training in this stage, those before a resume included."""
        return self.seconds_before + time.monotonic() - self._started

    @property
    def peak_bytes(self) -> int:
        """The most memory that this stage's training took on this process, those before a resume included."""
        return max(self.peak_before, peak_bytes(self.args.device))

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Adds each group's rate and gradient norm (of the update just done) to a training line, and what it cost."""
        if "loss" in logs:
            now, steps = time.monotonic(), self.state.global_step - self._interval_step
            seconds = now - self._interval_started
            self._interval_started, self._interval_step = now, self.state.global_step
            logs["loss"] = math.fsum(self.interval_losses) / len(self.interval_losses)
            self.interval_losses = []
            logs["grad_norm"] = math.hypot(*self.update.gradient_norms.values())
            rates = self.update.learning_rates
            logs |= {f"learning_rate/{group}": high for group, (_, high) in rates.items()}
            logs |= {f"lowest_learning_rate/{group}": low for group, (low, high) in rates.items() if low != high}
            logs |= {f"gradient_norm/{group}": norm for group, norm in self.update.gradient_norms.items()}
            logs["wall_seconds"] = self.wall_seconds
            logs["samples_per_second"] = steps * self.global_batch / max(seconds, 1e-9)
            logs["peak_bytes"] = self.peak_bytes
        super().log(logs, *args, **kwargs)

    # ---- small parts ----

    @property
    def _rng_file(self) -> str:
        """Each process has generators of its own."""
        rank = self.args.process_index
        return f"rng-{rank}.safetensors" if rank else "rng.safetensors"

    def _plain_model(self) -> nn.Module:
        return self.accelerator.unwrap_model(self.model)

    def _refuse_unsupported(self) -> None:
        """Settings under which a promise of this class would not hold."""
        args, is_sharded = self.args, self.is_deepspeed_enabled or self.is_fsdp_enabled
        for refused, setting, why, fix in (
            (args.fp16, "fp16", "its loss scaling overflows by design", "use bf16"),
            (is_sharded, "sharding", "checkpoints hold whole tensors", "use DDP"),
            (args.push_to_hub, "push_to_hub", "Trainer writes training_args.bin", "upload the adapter folder"),
            (args.load_best_model_at_end, "load_best_model_at_end", "checkpoints are ours", "load the one you want"),
            (args.auto_find_batch_size, "auto_find_batch_size", "a resume would not be exact", "set the batch size"),
            (args.enable_jit_checkpoint, "enable_jit_checkpoint", "checkpoints are ours", "leave it off"),
            (args.n_gpu > 1, "DataParallel", "it parts pictures from their rows", "use torchrun or one GPU"),
        ):
            if refused:
                raise ConfigError(f"{setting} is not supported", why=why, fix=fix)


class _Flow(TrainerCallback):
    """What Trainer's default flow lacks: settings of now after a resume, the true epoch, a line for the last step."""

    def __init__(self, trainer: Guarded) -> None:
        self.trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        state.compute_steps(args, state.max_steps)  # a resumed state brings the intervals of then
        self.trainer.start_clock()

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.trainer.update = Update()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        state.epoch = self.trainer.sampler.epochs(state.global_step)
        if state.global_step >= state.max_steps:
            control.should_log = True
