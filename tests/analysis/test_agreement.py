"""Agreement of gradients against a direct SVD and slow loops, and where the answer is known."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from yarbus.analysis.agreement import (
    agreement,
    agreement_of,
    dominant_cosines,
    gram_matrix,
    leave_one_out_cosines,
)
from yarbus.core.errors import CheckpointError, ConfigError

FACTS = {
    "dim": "8", "layernorm_elements": "4", "all_elements": "20", "layernorm_kind": "exact", "all_kind": "sketch",
    "layernorm_names_sha256": "a", "all_names_sha256": "b",
}  # fmt: skip


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


def random_gradients(steps: int, dim: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    lengths = random.uniform(0.1, 5, (steps, 1))
    return (lengths * (random.standard_normal((steps, dim)) + 0.3)).astype(np.float32)


@given(steps=st.integers(2, 12), dim=st.integers(2, 30), seed=st.integers(0, 99))
def test_dominant_cosines_equal_those_with_the_first_right_singular_vector(steps, dim, seed):
    gradients = random_gradients(steps, dim, seed)
    _, _, right = np.linalg.svd(gradients.astype(np.float64))
    expected = np.array([cosine(gradient, right[0]) for gradient in gradients])
    expected *= 1 if expected.mean() >= 0 else -1
    np.testing.assert_allclose(dominant_cosines(gram_matrix(gradients)), expected, atol=1e-6)


@given(steps=st.integers(2, 12), dim=st.integers(2, 30), seed=st.integers(0, 99))
def test_leave_one_out_cosines_equal_a_loop_over_steps(steps, dim, seed):
    gradients = random_gradients(steps, dim, seed)
    expected = [
        cosine(gradients[step], np.delete(gradients, step, axis=0).astype(np.float64).mean(axis=0))
        for step in range(steps)
    ]
    np.testing.assert_allclose(leave_one_out_cosines(gram_matrix(gradients)), expected, atol=1e-6)


def test_the_gram_matrix_does_not_depend_on_its_blocks():
    gradients = random_gradients(3, 10_000)
    exact = gradients.astype(np.float64) @ gradients.astype(np.float64).T
    np.testing.assert_allclose(gram_matrix(gradients), exact, rtol=1e-12)


def test_equal_gradients_agree_wholly_whatever_their_lengths():
    gradients = np.outer([1, 2, 3, 0.1], [3, -1, 2]).astype(np.float32)
    found = agreement_of(gradients, [1, 2, 3, 4])
    for measure in ("dominant", "leave_one_out"):
        assert found[measure]["mean"] == pytest.approx(1, abs=1e-6)
        assert found[measure]["std"] == pytest.approx(0, abs=1e-6)
        assert found[measure]["histogram"]["counts"][-1] == 4
        assert sum(found[measure]["histogram"]["counts"]) == 4


def test_orthogonal_gradients_share_nothing_and_the_longest_is_the_dominant_direction():
    found = agreement_of(np.diag([3.0, 2.0, 1.0, 0.5]).astype(np.float32), [1, 2, 3, 4])
    assert found["dominant"]["mean"] == pytest.approx(1 / 4)
    assert found["dominant"]["std"] == pytest.approx(math.sqrt(3) / 4)
    assert found["leave_one_out"]["mean"] == pytest.approx(0, abs=1e-12)


def test_opposed_gradients_cancel_in_the_dominant_mean_and_oppose_the_others():
    forth, back = [1.0, 0.0], [-1.0, 0.0]
    found = agreement_of(np.array([forth, forth, back, back], dtype=np.float32), [1, 2, 3, 4])
    assert found["dominant"]["mean"] == pytest.approx(0, abs=1e-12)
    assert found["leave_one_out"]["mean"] == pytest.approx(-1)
    found = agreement_of(np.array([forth, back, forth], dtype=np.float32), [1, 2, 3])
    assert found["dominant"]["mean"] == pytest.approx(1 / 3)  # the sign of most
    assert found["leave_one_out"]["mean"] == pytest.approx(-1 / 3)  # forth: the others cancel, 0; back: -1


def test_noise_around_a_common_direction_has_the_cosine_of_its_signal():
    random = np.random.default_rng(0)
    signal, dim, steps = 0.5, 4000, 60
    noise = random.standard_normal((steps, dim)) / math.sqrt(dim)
    gradients = (noise + signal * np.eye(dim)[0]).astype(np.float32)
    expected = signal / math.sqrt(1 + signal**2)
    found = agreement_of(gradients, list(range(1, steps + 1)))
    # The others' mean keeps 1/59 of the noise's square beside the signal's.
    assert found["leave_one_out"]["mean"] == pytest.approx(
        expected * signal / math.sqrt(signal**2 + 1 / (steps - 1)), abs=0.01
    )
    assert found["dominant"]["mean"] == pytest.approx(expected, abs=0.03)
    pure = agreement_of(noise.astype(np.float32), list(range(1, steps + 1)))
    assert abs(pure["leave_one_out"]["mean"]) < 0.02


def test_quarters_are_measured_within_themselves():
    east, north = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    gradients = np.stack([east] * 4 + [north] * 4 + [east, north] * 4).astype(np.float32)
    quarters = agreement_of(gradients, list(range(10, 170, 10)))["by_quarter"]
    assert [(quarter["first_step"], quarter["last_step"]) for quarter in quarters] == [
        (10, 40), (50, 80), (90, 120), (130, 160),
    ]  # fmt: skip
    assert [quarter["dominant"] for quarter in quarters[:2]] == pytest.approx([1, 1])
    # Two of four are alike: each sees (1, 2) or (2, 1) in the others.
    assert [quarter["leave_one_out"] for quarter in quarters] == pytest.approx([1, 1, 5**-0.5, 5**-0.5])


def test_too_few_steps_have_no_quarters():
    assert agreement_of(random_gradients(7, 5), list(range(7)))["by_quarter"] == []
    assert len(agreement_of(random_gradients(8, 5), list(range(8)))["by_quarter"]) == 4


def test_steps_without_any_gradient_are_left_out_and_counted():
    gradients = random_gradients(9, 5)
    gradients[4] = 0
    found = agreement_of(gradients, list(range(9)))
    rest = agreement_of(np.delete(gradients, 4, axis=0), [0, 1, 2, 3, 5, 6, 7, 8])
    assert found == {**rest, "num_zero_steps": 1}


# ---- files ----


def write(run: Path, step: int, layernorm: np.ndarray, everything: np.ndarray, **facts: str) -> Path:
    folder = run / "stages" / "instruct" / "gradients"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{step:06d}.safetensors"
    vectors = {"layernorm": np.ascontiguousarray(layernorm), "all": np.ascontiguousarray(everything)}
    save_file(vectors, path, {**FACTS, "step": str(step), **facts})
    return path


@pytest.fixture
def run(tmp_path: Path) -> Path:
    gradients = random_gradients(10, 12)
    for number, row in enumerate(gradients):
        write(tmp_path, 10 * (number + 1), row[:4], row[4:])
    return tmp_path


def test_the_record_of_a_run_holds_both_sets(run):
    record = agreement(run, "instruct")
    gradients = random_gradients(10, 12)
    steps = list(range(10, 110, 10))
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert (record["stage"], record["num_steps"]) == ("instruct", 10)
    assert record["sets"] == {
        "layernorm": {"kind": "exact", "elements": 4, **agreement_of(gradients[:, :4], steps)},
        "all": {"kind": "sketch", "elements": 20, **agreement_of(gradients[:, 4:], steps)},
    }
    histogram = record["sets"]["all"]["dominant"]["histogram"]
    assert len(histogram["edges"]) == len(histogram["counts"]) + 1
    assert sum(histogram["counts"]) == 10


def test_steps_are_in_order_beyond_a_million(tmp_path):
    for number, step in enumerate([999_999, 1_000_000, 2_000_000, *range(3_000_000, 8_000_000, 1_000_000)]):
        write(tmp_path, step, random_gradients(8, 4)[number], random_gradients(8, 8)[number])
    quarters = agreement(tmp_path, "instruct")["sets"]["all"]["by_quarter"]
    assert quarters[0]["first_step"] == 999_999 and quarters[-1]["last_step"] == 7_000_000


def test_a_set_in_which_nothing_trains_is_left_out(tmp_path):
    for step in (1, 2):
        write(tmp_path, step, np.zeros(0, np.float32), random_gradients(2, 8)[step - 1], layernorm_elements="0")
    assert list(agreement(tmp_path, "instruct")["sets"]) == ["all"]


def test_a_run_without_recorded_gradients_is_told_how_to_record_them(tmp_path):
    with pytest.raises(ConfigError, match=r"no recorded gradients.*record: \{vision_gradient: \{every: 10\}\}"):
        agreement(tmp_path, "instruct")


def test_one_recorded_gradient_is_too_few(tmp_path):
    write(tmp_path, 10, np.ones(4, np.float32), np.ones(8, np.float32))
    with pytest.raises(ConfigError, match="1 recorded gradients"):
        agreement(tmp_path, "instruct")


def test_gradients_of_different_kinds_are_refused(run):
    write(run, 110, np.ones(4, np.float32), np.ones(6, np.float32), dim="6")
    with pytest.raises(ConfigError, match=r"cannot be compared.*step-000110.*dim is 6, in step-000010.safetensors 8"):
        agreement(run, "instruct")


@pytest.mark.parametrize("damage", ["cut", "no step", "empty"])
def test_a_damaged_file_is_named(run, damage):
    path = run / "stages/instruct/gradients/step-000050.safetensors"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-10])
    elif damage == "empty":
        path.write_bytes(b"")
    else:
        save_file({"layernorm": np.ones(4, np.float32), "all": np.ones(8, np.float32)}, path)
    with pytest.raises(CheckpointError, match="damaged record.*step-000050"):
        agreement(run, "instruct")


def test_what_training_records_is_what_agreement_reads(tmp_path):
    """The two rooms do not import each other: the file between them is their contract."""
    from torch import nn

    from yarbus.training.recording import gradient_vector, write_tensors

    folder = tmp_path / "stages/instruct/gradients"
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(0)
    weight = nn.Parameter(torch.zeros(40, 50))
    exact = []
    for step in range(1, 11):
        weight.grad = torch.randn(40, 50, generator=generator) + 0.5
        exact.append(weight.grad.flatten().numpy())
        vectors = {"layernorm": torch.zeros(0), "all": gradient_vector({"weight": weight}, "all", 1500)}
        facts = {**FACTS, "step": str(step), "layernorm_elements": "0", "all_elements": "2000"}
        write_tensors(vectors, facts, folder / f"step-{step:06d}.safetensors")
    found = agreement(tmp_path, "instruct")["sets"]["all"]
    truth = agreement_of(np.stack(exact), list(range(1, 11)))
    bound = 3 * math.sqrt(2 / 1500)
    assert found["leave_one_out"]["mean"] == pytest.approx(truth["leave_one_out"]["mean"], abs=bound)
    assert found["dominant"]["mean"] == pytest.approx(truth["dominant"]["mean"], abs=bound)
