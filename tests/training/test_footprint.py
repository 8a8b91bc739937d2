"""Memory told from shapes alone against memory measured on a real step.

Measured means, on a CPU: what autograd was really handed to keep (hooks on a real forward, distinct storages), the
sizes of real gradients and of AdamW's real state, and for the most at once the allocator's own record of a whole step
(torch's profiler), which knows nothing of shapes, hooks or terms.
"""

import json
import time

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

import yarbus
from tests import tiny
from tests.methods.cases import CASES
from yarbus.cli.app import run
from yarbus.cli.plan import size
from yarbus.core.errors import ConfigError
from yarbus.core.recipe import load_recipe
from yarbus.core.sections import Stage
from yarbus.methods import CARPE, CoVFT, LoRA, QMoE
from yarbus.methods.assemble import build_all
from yarbus.models.attach import set_stage
from yarbus.models.attachment import parameter_groups
from yarbus.models.load import base_on_meta
from yarbus.models.shape_batch import shape_batch
from yarbus.models.shapes import Shapes
from yarbus.models.vlm import VLM
from yarbus.training.footprint import Asked, NotEstimated, footprint
from yarbus.training.trainer import KEEPS_BY_MASK, supervised_positions

FULL = {"vision": "full", "projector": "full", "language": "full"}
COVFT = {"vision": CoVFT(num_experts=2, context_dim=16), "projector": "full", "language": "full"}
LORA = {"vision": "frozen", "projector": "full", "language": LoRA(rank=2, dropout=0.0)}
ASKED = Asked(tokens=96, side=28, answer_tokens=40)
ROWS = 8


def stage(**changes):
    values = {
        "train": {"projector": {"method": "full"}}, "data": [{"source": "llava", "path": "x"}],
        "learning_rate": {"projector": 1e-3}, "batch": ROWS, "steps": 1, **changes,
    }  # fmt: skip
    return Stage.model_validate(values)


def attached(family, places, text_encoder):
    torch.manual_seed(0)
    return yarbus.attach(*tiny.FAMILIES[family](), **places, text_encoder=text_encoder)[0]


def real_batch(model, shape):
    batch = shape_batch(model, shape)
    batch["pixel_values"] = torch.randn(batch["pixel_values"].shape)
    return batch


def loss_of(model, batch, precision):
    keep, following = supervised_positions(batch["labels"], by_mask=KEEPS_BY_MASK)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
        return model(**batch, use_cache=False, logits_to_keep=keep, shift_labels=following).loss


def kept_by_a_real_forward(model, batch, precision):
    """Bytes of distinct storages that autograd keeps, weights and what comes from the lm_head on left out."""
    weights = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    found, in_head = {}, []

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights and not in_head:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    hook = VLM.of(model).lm_head.register_forward_pre_hook(lambda *_: in_head.append(True))
    with saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = loss_of(model, batch, precision)
    hook.remove()
    return sum(found.values()), loss


def peak_of(step):
    """The most bytes that the allocator had handed out at once since the step began."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


@pytest.mark.parametrize(
    ("family", "places", "precision", "checkpointing"),
    [
        ("llava", FULL, "float32", False), ("llava", COVFT, "bfloat16", False), ("llava", COVFT, "bfloat16", True),
        ("llava", LORA, "bfloat16", True), ("qwen2_5_vl", FULL, "float32", True),
        ("qwen2_5_vl", COVFT, "bfloat16", False), ("qwen2_5_vl", COVFT, "bfloat16", True),
    ],
)  # fmt: skip
def test_every_term_is_within_15_percent_of_what_is_measured(family, places, precision, checkpointing, text_encoder):
    model = attached(family, places, text_encoder).train()
    chosen = stage(precision=precision, gradient_checkpointing=checkpointing, batch=2 * ROWS, micro_batch=ROWS)
    found = footprint(model, chosen, ASKED)
    batch = real_batch(model, found.shape)
    loss_of(model, batch, precision)  # texts are encoded once, and cached
    if checkpointing:
        (getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable)(
            {"use_reentrant": False}
        )
    kept, loss = kept_by_a_real_forward(model, batch, precision)
    trained = [parameter for group in parameter_groups(model).values() for parameter in group.values()]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    loss.backward()
    optimizer.step()
    state = sum(value.nbytes for one in optimizer.state.values() for value in one.values() if value.ndim)
    assert found.gradients == sum(parameter.grad.nbytes for parameter in trained)
    assert found.optimizer == state
    # Copies of weights that only autocast's cache holds are seen by no hook; in the lm_head they are counted too.
    head = VLM.of(model).lm_head.weight.numel() * 2 * (precision == "bfloat16")
    expected = found.activations + (found.weight_copies if not checkpointing else 0)
    assert kept == pytest.approx(expected, rel=0.15, abs=head)
    # The second micro-batch: gradients of the first are there, as the plan of an accumulating stage says.
    measured = peak_of(lambda: loss_of(model, batch, precision).backward())
    weights = found.weights + found.gradients + found.optimizer
    assert found.accumulates
    assert found.peak == pytest.approx(weights + measured, rel=0.15)
    assert found.peak - weights == pytest.approx(measured, rel=0.2)  # the part that is made and freed in a step


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_without_accumulation_gradients_come_as_activations_go(family, text_encoder):
    model = attached(family, FULL, text_encoder).train()
    found = footprint(model, stage(), ASKED)
    assert not found.accumulates
    batch = real_batch(model, found.shape)
    measured = peak_of(lambda: loss_of(model, batch, "float32").backward())
    assert found.peak == pytest.approx(found.weights + found.optimizer + measured, rel=0.15)
    assert found.peak < found.weights + found.gradients + found.optimizer + found.activations + found.logits


def heads_and_projectors():
    yield "carpe", {"head": CARPE(num_heads=4)}
    yield "qmoe", {"projector": QMoE(num_queries=3, width=16, num_layers=2, num_heads=2, num_experts=3)}
    for name in (
        "vision covft sparse",
        "vision covft random",
        "vision covft cve merged",
        "vision svpt",
        "vision qavit",
    ):
        yield name, {"vision": CASES[name].method}


@pytest.mark.parametrize(("name", "places"), list(heads_and_projectors()))
def test_methods_that_choose_by_numbers_are_estimated_without_any(name, places, text_encoder):
    """Their choices are spread evenly; what is kept is close to what a real choice keeps."""
    model = attached("llava", places, text_encoder).train()
    found = footprint(model, stage(), ASKED)
    batch = real_batch(model, found.shape)
    loss_of(model, batch, "float32")
    kept, _ = kept_by_a_real_forward(model, batch, "float32")
    assert kept == pytest.approx(found.activations, rel=0.15)


def test_estimating_changes_nothing_in_the_model(text_encoder):
    model = attached("llava", COVFT, text_encoder)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    training, checkpointed = model.training, [getattr(one, "gradient_checkpointing", None) for one in model.modules()]
    footprint(model, stage(gradient_checkpointing=True), ASKED)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model.training == training and not any(p.grad is not None for p in model.parameters())
    assert [getattr(one, "gradient_checkpointing", None) for one in model.modules()] == checkpointed


def test_a_model_on_the_meta_device_tells_the_same_as_one_with_weights(text_encoder):
    real = tiny.llava()[0]
    meta = base_on_meta(real.config.to_dict())
    for model in (real, meta):
        set_stage(model, None, build_all(COVFT), text_encoder=text_encoder)
    told = [footprint(model, stage(), ASKED).to_json() for model in (real, meta)]
    for one in told:  # the encoder's own weights are there in one of them alone
        one.pop("weights"), one.pop("peak")
    assert told[0] == told[1]


def test_devices_share_the_rows_out_and_each_keeps_a_copy_of_the_gradients(text_encoder):
    model = attached("llava", FULL, text_encoder)
    one, two = (footprint(model, stage(), Asked(tokens=96, devices=devices)) for devices in (1, 2))
    assert (one.shape.rows, two.shape.rows) == (8, 4) and one.buckets == 0 and two.buckets == two.gradients
    assert two.activations < 0.6 * one.activations and two.weights == one.weights


def test_what_is_asked_of_a_row_is_what_it_has(text_encoder):
    model = attached("llava", FULL, text_encoder)
    long = footprint(model, stage(max_tokens=50), Asked())
    assert (long.shape.tokens, long.shape.answer_tokens) == (50, 50 - 5 - 1)  # 4 image tokens, one between, one first
    few = footprint(model, stage(max_tokens=50), Asked(answer_tokens=4))
    assert few.logits < 0.2 * long.logits and few.logits_at_all_positions == few.logits * 50 // 4
    with pytest.raises(ConfigError, match="a row of 5 tokens is too short - 1 pictures of 4 tokens"):
        footprint(model, stage(), Asked(tokens=5))
    assert footprint(model, stage(), Asked(tokens=5, images=0)).activations > 0


def test_a_forward_that_needs_values_is_told_and_no_error_of_the_plan(text_encoder, monkeypatch):
    model = attached("llava", FULL, text_encoder)

    def reads_values(*args):
        raise RuntimeError("data dependent")

    model.model.multi_modal_projector.register_forward_pre_hook(reads_values)
    with pytest.raises(NotEstimated, match="data dependent"):
        footprint(model, stage(), ASKED)


def test_shapes_keep_whole_numbers_real_and_spread_choices_evenly():
    with Shapes() as shapes:
        scores = shapes.empty(6, 4)
        chosen = scores.topk(2, dim=-1).indices
        mask = torch.tensor([True, False, True, True, False, False])
        picked = scores[mask]
        assert picked.shape == (3, 4) and mask.nonzero().flatten().tolist() == [0, 2, 3]
        assert chosen.flatten().bincount(minlength=4).tolist() == [3, 3, 3, 3]
        assert len(set(chosen[0].tolist())) == 2 and float(scores.sum()) == 0.0
        before = shapes.live
        big = scores.expand(1000, 6, 4).contiguous()
        assert shapes.live - before == 1000 * 6 * 4 * 4
        del big
        assert shapes.live == before and shapes.peak >= before + 96_000


@pytest.mark.parametrize("name", ["covft-llava-1.5-7b", "covft-llava-1.5-13b"])
def test_a_large_recipe_is_planned_from_its_config_alone(name):
    """On two free cores the whole command takes some 8 seconds of processor time; here one stage runs."""
    recipe = load_recipe(name)
    model = base_on_meta(recipe.model.config)
    chosen = recipe.stages["instruct"]
    set_stage(model, None, build_all(chosen.train), text_encoder=recipe.question.text_encoder)
    start = time.process_time()
    found = footprint(model, chosen, Asked(tokens=700, answer_tokens=100))
    print(f"{name}: {time.process_time() - start:.1f} s of processor time")
    billions = 4 * 13.77e9 if "13b" in name else 4 * 7.48e9
    assert found.weights == pytest.approx(billions, rel=0.01)
    # Each language block keeps its input, 8 or 16 rows of 700 fp32 vectors, and the vision blocks theirs.
    text = recipe.model.config["text_config"]
    inputs = text["num_hidden_layers"] * found.shape.rows * 700 * text["hidden_size"] * 4
    assert inputs < found.activations < 1.4 * inputs and found.activations < found.if_not_checkpointed / 5


def test_the_verb_prints_every_term_and_json_carries_them(capsys):
    words = ["plan", "tinyworld", "--tokens", "64", "--answer-tokens", "9", "--devices", "2"]
    changes = [f"stages.instruct.{key}" for key in ("precision=bfloat16", "gradient_checkpointing=true")]
    assert run([*words, *changes]) == 0
    printed = capsys.readouterr().out
    for said in (
        "on each of 2 devices, bfloat16,", " rows of 64 tokens, 9 of them answer, 1 picture(s) each",
        "weights", "gradients", "optimizer state (AdamW)", "copy of the gradients (DDP)", "the most at once",
        "activations kept for backward", "bfloat16 copies of weights", "logits and their gradient",
        "without gradient checkpointing",
    ):  # fmt: skip
        assert said in printed, said
    assert run(["plan", "tinyworld", "--json"]) == 0
    (plan, *_) = json.loads(capsys.readouterr().out)
    terms = plan["footprint"]
    assert terms["gradients"] == plan["memory_bytes"]["gradients"] and terms["shape"]["rows"] > 0
    assert {"activations", "logits", "peak", "precision"} <= set(terms) and plan["rows"][0]["dtype"] == "float32"


def test_bytes_are_printed_in_a_unit_that_fits():
    assert [size(2**30 * 3), size(2**29), size(0)] == ["3.00 GiB", "512.0 MiB", "0.0 MiB"]
