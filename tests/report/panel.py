"""A made-up comparison with tasks of both kinds, and sweeps beside it."""

from pathlib import Path

import tests.report.synthetic as synthetic
from tests.report.synthetic import _write, write_comparison, write_run

CLASSES = {"classify": 0.1, "classify-ood": 0.1}
INSTRUCTIONS = {"read": 0.1, "exist": 0.5, "colour": 0.125}
MODELS = {"base": (-0.5, -0.1), "finetune": (0.3, -0.4), "carpe": (0.2, -0.1)}
"""Variant -> (skill at classification, skill at instructions)."""
QUESTION = ("what digit is it ?", "{digit}")


def write_model(run: Path, pictures: Path, skills: tuple[float, float], seed: int, num_scenes: int = 60) -> None:
    """One run that answered both kinds."""
    synthetic.QUESTIONS.update(dict.fromkeys(CLASSES, QUESTION))
    for tasks, skill in zip((CLASSES, INSTRUCTIONS), skills, strict=True):
        write_run(run, pictures, skill=skill, seed=seed, num_scenes=num_scenes, tasks=tasks)


def write_sweep(folder: Path, pictures: Path, seed: int, alphas=(0.0, 0.5, 1.0), kind: str = "model") -> Path:
    """A sweep from the base to the fine-tuned model."""
    points = []
    for alpha in alphas:
        name = f"alpha-{alpha:g}"
        skills = tuple((1 - alpha) * a + alpha * b for a, b in zip(MODELS["base"], MODELS["finetune"], strict=True))
        write_model(folder / name, pictures, (skills[0], skills[1]), seed)
        points.append({"alpha": alpha, "folder": name, "scores": {}})
    sides = {"a": {"name": "base", "kind": kind}, "b": {"name": "finetune", "kind": "adapter"}}
    _write(folder / "sweep.json", {"kind": "sweep", "points": points, "command": "yarbus interpolate a b", **sides})
    return folder


def write_panel(folder: Path, seeds: tuple[int, ...] = (0, 1), sweeps: bool = True, models=MODELS) -> Path:
    """The comparison, with one sweep for each seed."""
    write_comparison(folder, skills=dict.fromkeys(models, 0.0), seeds=seeds, num_scenes=2, tasks={"read": 0.1})
    for seed in seeds:
        for name, skills in models.items():
            write_model(folder / f"{name}-seed{seed}", folder / "pictures", skills, seed)
        if sweeps:
            write_sweep(folder / f"wise-ft-seed{seed}", folder / "pictures", seed)
    return folder
