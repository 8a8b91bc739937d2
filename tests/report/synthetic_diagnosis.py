"""Made-up records of a diagnosis, by seed: what ``yarbus conflict`` would have written, without a model.

``python -m tests.report.synthetic_diagnosis FOLDER [PICTURES]`` writes a conflict folder and a comparison with
diagnosed runs and draws both pages, to be looked at; PICTURES is a folder of PNG files to show instead of made-up ones.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

TASKS = ("read", "locate", "exist", "colour", "caption", "lean", "size")
GROUP = {"read": 0, "exist": 0, "caption": 0, "colour": 1, "locate": 2, "lean": 2, "size": 2}
"""Which tasks want alike things in the made-up world."""


def estimate(mean: float, half: float) -> dict[str, float]:
    return {"mean": float(mean), "low": float(mean - half), "high": float(mean + half)}


def write(path: Path, value: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


def gradients(tasks: tuple[str, ...] = TASKS, num_blocks: int = 6, clash: float = 0.5, seed: int = 0) -> dict[str, Any]:
    """Gradients whose tasks agree less the deeper the block; ``clash`` 0 is no conflict."""
    random = np.random.default_rng(seed)
    rows = []
    for block in range(num_blocks):
        depth = block / max(num_blocks - 1, 1)
        same = 0.52 - 0.08 * depth + 0.02 * random.standard_normal()
        across = same * (1 - clash * (0.7 + 0.5 * depth)) + 0.01 * random.standard_normal()
        rows.append(
            {
                "block": block, "same_task": estimate(same, 0.04), "across": estimate(across, 0.05),
                "corrected": estimate(across / same, 0.09), "opposing": 0.04 + 0.35 * clash * depth,
                "opposing_same_task": 0.02,
            }
        )  # fmt: skip
    overall = {
        key: {end: float(np.mean([row[key][end] for row in rows])) for end in ("mean", "low", "high")}
        for key in ("same_task", "across", "corrected")
    }
    cosine = np.eye(len(tasks))
    for i, one in enumerate(tasks):
        for j, other in enumerate(tasks[:i]):
            base = 0.75 if GROUP.get(one) == GROUP.get(other) else 0.35 - 1.1 * clash
            cosine[i, j] = cosine[j, i] = base + 0.12 * random.standard_normal()
        cosine[i, i] = 0.5 + 0.05 * random.standard_normal()
    pulls = [
        {
            "task": task, "share": 1 / len(tasks), "same_task": estimate(float(cosine[i, i]), 0.05),
            "pull": estimate(float(cosine[i].sum() - cosine[i, i]) / 2, 0.35),
        }
        for i, task in enumerate(tasks)
    ]  # fmt: skip
    return {
        "by_task": pulls,
        "num_batches": 16 * len(tasks), "batch": 16, "blocks": list(range(num_blocks)), "tasks": list(tasks),
        "by_block": rows,
        "overall": {**overall, "opposing": 0.12, "opposing_same_task": 0.02, "opposing_pairs_of_tasks": [6, 21]},
        "matrix": {
            "tasks": list(tasks), "cosine": cosine.tolist(), "low": (cosine - 0.11).tolist(),
            "high": (cosine + 0.11).tolist(),
        },
    }  # fmt: skip


def drift(tasks: tuple[str, ...] = TASKS, num_blocks: int = 6, clash: float = 0.9) -> dict[str, Any]:
    """Weight changes of short runs: alike within a task, hardly between tasks; L2 distances that hide it."""
    random = np.random.default_rng(3)
    across, same = [], []
    for block in range(num_blocks):
        control = 0.4 - 0.015 * block
        same.append({"block": block, "cosine": estimate(control, 0.03), "l2": 1.79 - 0.03 * block})
        value = control * (1 - clash) + 0.01 * random.standard_normal()
        across.append({"block": block, "cosine": estimate(value, 0.02), "l2": 1.92 - 0.025 * block})
    cosine = np.full((len(tasks), len(tasks)), 0.03) + 0.05 * random.standard_normal((len(tasks), len(tasks)))
    cosine = (cosine + cosine.T) / 2
    np.fill_diagonal(cosine, 0.36)
    return {
        "steps": 150, "rate": 1e-3, "blocks": list(range(num_blocks)), "tasks": list(tasks), "across": across,
        "same_task": same,
        "overall": {"across": estimate(0.04, 0.015), "same_task": estimate(0.36, 0.02), "ratio": estimate(0.11, 0.05)},
        "matrix": {"tasks": list(tasks), "cosine": cosine.tolist()},
    }  # fmt: skip


def gap(tasks: tuple[str, ...] = TASKS) -> dict[str, Any]:
    """Short runs: sharing costs the later tasks, tuning brings all of them something."""
    rows = {}
    for number, task in enumerate(tasks):
        alone, cost, gain = 0.3 + 0.07 * number, 0.02 * number - 0.025, 0.05 + 0.02 * number
        rows[task] = {
            "num_rows": 256, "alone": alone, "mix": alone + cost, "frozen": alone + cost + gain,
            "gap": estimate(cost, 0.02), "gain": estimate(gain, 0.03),
        }  # fmt: skip
    return {"unit": "nats per answer token, held-out rows", "steps": 150, "seeds": 2, "tasks": rows}


ADVICE = {
    "verdict": "conflict",
    "action": "condition",
    "sureness": "Fairly sure: the interval of the corrected cosine lies below the threshold in all later blocks.",
    "headline": "The tasks pull the later vision blocks in different directions: let the question steer blocks 3 to 5.",
    "sentences": [
        "Batches of different tasks agree at 0.21 of what batches of one task reach in blocks 3 to 5.",
        "Tasks that want digits (read, exist, caption) oppose tasks that want places (locate, lean, size).",
        "Full tuning would make the tasks share these blocks; freezing them gives up what both could learn.",
    ],
    "blocks": [3, 4, 5],
    "figures": [
        {"name": "corrected cosine, blocks 3 to 5", "value": {"mean": 0.21, "low": 0.13, "high": 0.29}, "unit": ""},
        {"name": "ceiling", "value": {"mean": 0.48, "low": 0.45, "high": 0.52}, "unit": ""},
        {"name": "opposing pairs of tasks", "value": 6.0, "unit": "of 21"},
    ],
    "thresholds": {"corrected cosine, blocks 3 to 5": 0.5, "least_ceiling": 0.1},
    "thresholds_from": "Thresholds were set on six other mixtures of the embedded world, data seeds 11 to 13.",
}


def conflict_record(**parts: Any) -> dict[str, Any]:
    """A whole conflict.json; parts are replaced by name."""
    record = {
        "kind": "conflict",
        "name": "tinyworld",
        "recipe": {"model": {"base": "tinyworld:base"}, "stages": {"instruct": {"batch": 64}}},
        "stage": "instruct",
        "seed": 0,
        "command": "yarbus conflict tinyworld",
        "note": None,
        "start": "the pretrained tower with the projector of align-1cae33ad1b48",
        "machine": {"python": "3.11.7", "machine": {"system": "Linux", "cpus": 2, "accelerators": []}},
        "grouping": {
            "by": "task",
            "tasks": {
                task: {"num_rows": 4000, "num_samples": 256, "examples": [f"Which {task} is it?", f"Say the {task}."]}
                for task in TASKS
            },
        },
        "gradients": gradients(),
        "drift": drift(),
        "gap": gap(),
        "run": None,
        "missing": ["contexts: needs --run", "routing: needs --run", "gaze: needs --run", "swapped: needs --run"],
        "advice": ADVICE,
    }
    return {**record, **parts}


def write_conflict(folder: Path, **parts: Any) -> Path:
    write(folder / "conflict.json", conflict_record(**parts))
    return folder


def sample_of(index: int, pictures: list[str], task: str | None = None) -> dict[str, Any]:
    """One sample; the task and the picture follow from its number."""
    task = task or TASKS[index % len(TASKS)]
    picture = pictures[index % len(pictures)] if pictures else None
    return {"id": f"{task}-{index}", "task": task, "question": f"Question {index}: say the {task}.", "image": picture}


def contexts(pictures: list[str], num_samples: int = 420, spread: float = 0.5, seed: int = 0) -> dict[str, Any]:
    """Contexts that lie in a heap per task, wider heaps with more ``spread``; texts in wider ones."""
    random = np.random.default_rng(seed)
    samples: list[dict[str, Any]] = []
    for index in range(num_samples):
        sample = sample_of(index, pictures)
        number = TASKS.index(sample["task"])
        x, y = 2.2 * np.cos(number * 0.9), 1.5 * np.sin(number * 0.9)
        dx, dy, tx, ty = random.standard_normal(4)
        cluster = number if random.random() < 0.8 else int(random.integers(7))
        samples.append(
            {
                **sample, "x": float(x + spread * dx), "y": float(y + spread * dy), "text_x": float(x / 2 + tx),
                "text_y": float(y / 2 + 0.6 * ty), "cluster": cluster, "text_cluster": int(random.integers(7)),
            }
        )  # fmt: skip
    clusters = []
    for cluster in range(7):
        members = [sample for sample in samples if sample["cluster"] == cluster]
        tasks: dict[str, int] = {}
        for sample in members:
            tasks[sample["task"]] = tasks.get(sample["task"], 0) + 1
        nearest = [sample["id"] for sample in members[:4]]
        clusters.append({"cluster": cluster, "size": len(members), "tasks": tasks, "nearest": nearest})
    points = [
        [float(x), float(min(1, 0.6 * x + 0.1 * random.standard_normal() + 0.25))] for x in random.uniform(0, 1, 400)
    ]
    return {
        "block": 5, "num_samples": num_samples, "by": "task", "samples": samples, "explained": [0.34, 0.21],
        "text_explained": [0.22, 0.17],
        "context": {
            "k": 7, "silhouette": 0.31 - 0.2 * (spread - 0.5), "mutual_information": estimate(0.95 - spread / 2, 0.03),
            "clusters": clusters,
        },
        "text": {"k": 7, "silhouette": 0.18, "mutual_information": estimate(0.52, 0.04), "clusters": []},
        "similarity": {
            "visual": {"intra": 0.62, "inter": 0.52, "relative": 0.192, "intra_centred": 0.2, "inter_centred": -0.01},
            "text": {"intra": 0.93, "inter": 0.84, "relative": 0.107, "intra_centred": 0.41, "inter_centred": -0.06},
        },
        "routing_similarity": {
            "pearson": 0.82, "spearman": 0.79, "pearson_centred": 0.61, "spearman_centred": 0.58, "num_pairs": 200_000,
            "points": points,
        },
    }  # fmt: skip


def routing(num_experts: int = 4, sharp: float = 1.2, blocks: tuple[int, ...] = (3, 4, 5)) -> dict[str, Any]:
    """Routing by task; ``sharp`` 0 routes everything evenly."""
    random = np.random.default_rng(5)
    most = float(np.log(num_experts))
    rows = []
    for block in blocks:
        by_task, entropies = {}, []
        for task in TASKS:
            weights = np.exp(
                sharp * random.standard_normal(num_experts) + sharp * (GROUP[task] == np.arange(num_experts))
            )
            weights /= weights.sum()
            entropy = float(-(weights * np.log(weights)).sum())
            entropies.append(entropy)
            by_task[task] = {"weights": weights.tolist(), "entropy": estimate(entropy, 0.02)}
        rows.append(
            {
                "block": block, "entropy": estimate(float(np.mean(entropies)), 0.02), "max_entropy": most,
                "by_task": by_task, "between_tasks": 0.31 * min(1.0, sharp) + 0.004, "expert_distance": 0.08 * block,
            }
        )  # fmt: skip
    return {
        "blocks": list(blocks), "num_experts": num_experts, "tasks": dict.fromkeys(TASKS, 60), "by_block": rows,
    }  # fmt: skip


def routing_lines(steps: int = 900, every: int = 10, fall: float = 0.3, uniform: bool = False) -> list[dict[str, Any]]:
    """routing.jsonl of a router whose entropy falls by a share of its maximum, or of one that never chooses."""
    random = np.random.default_rng(9)
    lines = []
    for step in range(0, steps + 1, every):
        part = step / steps
        blocks: list[dict[str, Any]] = []
        for block in (3, 4, 5):
            row: dict[str, Any] = {"block": block, "expert_distance": 0.01 + 0.05 * block * part}
            entropy = float(np.log(4) * (1 - fall * part**1.5 * (block - 2) / 3) - 0.002 * random.random())
            known = {"entropy": entropy, "max_entropy": float(np.log(4)), "mean_weights": [0.25] * 4, "by_task": {}}
            blocks.append({**row, **({"entropy": None, "max_entropy": None} if uniform else known)})
        lines.append({"step": step, "blocks": blocks})
    return lines


def gaze(pictures: list[str], side: int = 6, num_samples: int = 40, still: bool = False) -> dict[str, Any]:
    """A soft spot per question on a grid of patches; ``still`` never moves it."""
    random = np.random.default_rng(11)
    rows, columns = np.mgrid[0:side, 0:side]

    def look() -> list[float]:
        row, column, width = [*random.uniform(0, side - 1, 2).tolist(), random.uniform(0.7, 1.6)]
        weights = np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / (2 * width**2)).ravel() + 0.01
        return (weights / weights.sum()).tolist()

    samples = []
    for index in range(num_samples):
        sample = sample_of(index, pictures)
        other = sample_of(index, pictures, TASKS[(index + 3) % len(TASKS)])
        one = look()
        two = one if still else look()
        distance = 0.5 * float(np.abs(np.array(one) - np.array(two)).sum())
        samples.append(
            {
                **sample, "gaze": one, "prefix": 0.06, "distance": distance, "grid": [side, side],
                "other": {
                    "id": other["id"], "task": other["task"], "question": other["question"], "gaze": two,
                    "prefix": 0.05,
                },
            }
        )  # fmt: skip
    mean = float(np.mean([sample["distance"] for sample in samples]))
    return {
        "block": 5, "grid": [side, side], "samples": samples, "distance": estimate(mean, 0.04),
        "entropy": estimate(2.6, 0.08), "max_entropy": float(np.log(side * side)), "prefix": estimate(0.06, 0.01),
        "distance_same_task": estimate(mean / 2, 0.03), "distance_other_task": estimate(mean, 0.04), "num_pairs": 300,
    }  # fmt: skip


def agreement(level: float = 0.19, spread: float = 0.05, seed: int = 0) -> dict[str, Any]:
    """Cosines of 90 steps around a level, for both sets of parameters and both definitions."""
    random = np.random.default_rng([seed, round(1000 * level)])

    def part(mean: float) -> dict[str, Any]:
        values = mean + spread * random.standard_normal(90)
        counts, edges = np.histogram(values, bins=40, range=(-1, 1))
        histogram = {"edges": edges.tolist(), "counts": counts.tolist()}
        return {"mean": float(values.mean()), "std": float(values.std()), "histogram": histogram}

    def of_set(scale: float, kind: str, elements: int) -> dict[str, Any]:
        quarters = [
            {
                "first_step": 225 * q,
                "last_step": 225 * q + 224,
                "dominant": scale * level,
                "leave_one_out": scale * level * (1.2 - 0.2 * q),
            }
            for q in range(4)
        ]
        return {
            "kind": kind, "elements": elements, "dominant": part(scale * level * 1.3),
            "leave_one_out": part(scale * level), "by_quarter": quarters,
        }  # fmt: skip

    return {
        "stage": "instruct", "num_steps": 90,
        "sets": {"layernorm": of_set(1.0, "exact", 2304), "all": of_set(0.6, "sketch", 812_000)},
    }  # fmt: skip


def swapped(cost: float = 0.3, seed: int = 0) -> dict[str, Any]:
    """Accuracy with the own and with wrong questions; ``cost`` 0 never notices."""
    random = np.random.default_rng(seed)
    tasks: dict[str, Any] = {}
    for number, task in enumerate(TASKS):
        own = 0.6 + 0.05 * number
        same, other = 0.02 * random.random(), cost * (0.4 + random.random())
        tasks[task] = {
            "n": 200, "right": int(200 * own), "own": own, "same_task": own - same, "other_task": own - other,
            "loss_same_task": estimate(same, 0.03), "loss_other_task": estimate(other, 0.04),
        }  # fmt: skip
    keys = ("own", "same_task", "other_task")
    mean: dict[str, Any] = {key: float(np.mean([row[key] for row in tasks.values()])) for key in keys}
    for key, half in (("loss_same_task", 0.012), ("loss_other_task", 0.018)):
        mean[key] = estimate(float(np.mean([row[key]["mean"] for row in tasks.values()])), half)
    return {"tasks": tasks, "mean": mean, "rule": "The wrong question is the next one in the order of a hash."}


def make_pictures(folder: Path, count: int = 12, side: int = 48) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(2)
    paths = []
    for number in range(count):
        path = folder / f"{number:03d}.png"
        pixels = np.kron(random.integers(20, 230, (6, 6, 3)), np.ones((side // 6, side // 6, 1)))
        Image.fromarray(pixels.astype(np.uint8)).save(path)
        paths.append(str(path))
    return paths


def diagnose(run: Path, pictures: list[str], *, routed: bool, strength: float = 1.0, seed: int = 0) -> None:
    """The records of a diagnosed run: a tower without a router has agreement alone."""
    write(run / "analysis" / "agreement.json", agreement(0.1 + 0.1 * strength * routed, seed=seed))
    if not routed:
        return
    write(run / "analysis" / "contexts.json", contexts(pictures, spread=1.1 - 0.6 * strength, seed=seed))
    write(run / "analysis" / "routing.json", routing(sharp=1.2 * strength))
    write(run / "analysis" / "gaze.json", gaze(pictures))
    write(run / "analysis" / "swapped.json", swapped(0.3 * strength, seed))
    lines = "".join(json.dumps(line) + "\n" for line in routing_lines(fall=0.5 * strength))
    stage = run / "stages" / "instruct"
    stage.mkdir(parents=True, exist_ok=True)
    (stage / "routing.jsonl").write_text(lines)


if __name__ == "__main__":
    import sys

    from tests.report.synthetic import write_comparison
    from yarbus.report.digest import digest_of
    from yarbus.report.html import write_report
    from yarbus.report.runs import read_comparison

    target = Path(sys.argv[1])
    shown = (
        sorted(map(str, Path(sys.argv[2]).glob("*.png")))[:400] if sys.argv[2:] else make_pictures(target / "pictures")
    )
    comparison = write_comparison(target / "comparison", num_scenes=200, seeds=(0, 1))
    for place in sorted(comparison.glob("*-seed*")):
        strength = 0.3 if "merged" in place.name else 1.0
        diagnose(place, shown, routed="covft" in place.name, strength=strength, seed=int(place.name[-1]))
    write(comparison / "conflict.json", conflict_record())
    study = write_comparison(target / "study", num_scenes=600, seeds=(0, 1, 2))
    write(study / "digest.json", digest_of(read_comparison(study)))
    record = json.loads((comparison / "comparison.json").read_text())
    write(comparison / "comparison.json", {**record, "beside": str(study)})
    conflict = write_conflict(target / "conflict", run=str(comparison / "covft-dense-seed0"), missing=[])
    print(write_report(comparison), write_report(conflict), write_report(write_conflict(target / "bare")))
