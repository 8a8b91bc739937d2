"""Made-up records of a comparison, by seed: what ``studies`` would have written, without a model.

``python -m tests.report.synthetic FOLDER`` writes one of few variants and one of many, and draws their pages.
"""

import json
import sys
from math import exp
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

TASKS = {"read": 0.1, "locate": 1 / 9, "exist": 0.5, "colour": 0.125, "caption": 0.0}
COLOURS = {"red": "#e33", "green": "#3c3", "blue": "#48f", "yellow": "#fd2", "white": "#eee"}
SKILL = {"frozen": 0.0, "full": 0.05, "covft-dense": 0.09, "covft-merged": 0.07}
QUESTIONS = {
    "read": ("Which digit is {colour}?", "{digit}"),
    "locate": ("Where is the {digit}? Answer with the cell.", "top left"),
    "exist": ("Is there a {digit} in the picture?", "yes"),
    "colour": ("What colour is the {digit}?", "{colour}"),
    "caption": ("Describe the picture.", "a {colour} {digit} at the top left of a picture"),
    "size": ("How large is the {digit}?", "small"),
    "lean": ("Which way does the {digit} lean?", "left"),
}


def _write(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def _lines(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _picture(path: Path, digit: int, colour: str, random: np.random.Generator) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    ground = random.integers(20, 90, (48, 48, 3), dtype=np.uint8)
    picture = Image.fromarray(ground)
    ImageDraw.Draw(picture).text(tuple(random.integers(2, 30, 2)), str(digit), fill=COLOURS[colour], font_size=20)
    picture.save(path)


def _metrics(steps: int, start: float, end: float, random: np.random.Generator, seconds: float) -> list[dict]:
    rows = []
    for step in range(10, steps + 1, 10):
        loss = end + (start - end) * exp(-4 * step / steps) + 0.04 * random.standard_normal()
        rate = {"learning_rate_projector": 1e-3}
        times = {"wall_seconds": seconds * step / steps, "peak_bytes": round(2e9 + 1e7 * seconds)}
        rows.append({"step": step, "loss": loss, **rate, **times, "tokens": 900})
    rows.append({"event": "end"})
    return rows


def _plan(method: str, trained: int) -> list[dict]:
    """plan.json: one row for the tower, one for the rest."""
    row = {"block": None, "group": "vision", "parameters": 400_000, "declared": trained, "trained": trained * 9 // 10}
    rest = {"place": "language", "block": None, "method": "full", "group": "language"} | dict.fromkeys(
        ("parameters", "declared", "trained"), 1_000_000
    )
    rates = {"vision": 5e-4, "language": 1e-3} if trained else {"language": 1e-3}
    return [{"stage": "instruct", "rows": [{"place": "vision", "method": method, **row}, rest], "learning_rate": rates}]


def write_evaluation(run: Path, benchmark: str, rows: list[dict], chance: float | None) -> None:
    """replies.jsonl and scores.json of one benchmark."""
    folder = run / "evaluation" / "final" / f"{benchmark}@official"
    right = sum(row["is_correct"] for row in rows) / max(len(rows), 1)
    score = {"value": right, "n": len(rows), "low": 0.0, "high": 1.0, "interval": "wilson", "chance": chance}
    _lines(folder / "replies.jsonl", rows)
    _write(folder / "scores.json", {"benchmark": benchmark, "protocol": "official", "metrics": {"accuracy": score}})


def write_run(
    run: Path,
    pictures: Path,
    *,
    skill: float,
    seed: int,
    num_scenes: int,
    tasks: dict[str, float] = TASKS,
    steps: int = 600,
) -> None:
    """One run folder. Scenes and questions depend on nothing; answers on skill and seed."""
    run.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng([seed, 10_000 + round(1000 * skill)] if skill < 0 else [seed, round(1000 * skill)])
    method = run.name.split("-")[0]
    (run / "recipe.yaml").write_text(
        f"stages: {{instruct: {{steps: 600, train: {{vision: {{method: {method}}}}}}}}}\n"
        f"evaluation: {[f'tinyworld/{task}' for task in tasks]}\nseed: 0\n"
    )
    _write(
        run / "environment.json",
        {"python": "3.11.9", "packages": {"torch": "2.13.0", "transformers": "5.23.0"}, "machine": {"threads": 1}},
    )
    _write(run / "plan.json", _plan(method, 0 if method == "frozen" else round(9e5 * (skill + 0.4))))
    curve = _metrics(steps, 3.2, 0.55 - skill, random, 83 * (1 + 4 * skill))
    _lines(run / "stages" / "instruct" / "metrics.jsonl", curve)
    for number, (task, chance) in enumerate(tasks.items()):
        rows = []
        for scene in range(num_scenes):
            world = np.random.default_rng([scene, 7])
            digit, colour, ease = int(world.integers(10)), str(world.choice(list(COLOURS))), world.uniform(-0.3, 0.3)
            picture = pictures / f"{scene:04d}.png"
            if not picture.exists():
                _picture(picture, digit, colour, world)
            question, answer = (text.format(digit=digit, colour=colour) for text in QUESTIONS[task])
            is_correct = bool(
                random.random() < chance + (1 - chance) * min(1, max(0, 0.5 + 0.08 * number + ease + skill))
            )
            rows.append(
                {
                    "sample_id": f"{scene}-{task}", "task": task, "group": str(scene), "question": question,
                    "images": [str(picture)], "reply": answer if is_correct else f"not {answer}", "answer": answer,
                    "is_correct": is_correct, "error": None, "source": "llava", "where": f"test.json:{scene}",
                    "sample_hash": "0",
                }
            )  # fmt: skip
        write_evaluation(run, f"tinyworld/{task}", rows, chance)


def write_comparison(
    folder: Path,
    *,
    skills: dict[str, float] = SKILL,
    seeds: tuple[int, ...] = (0,),
    num_scenes: int = 60,
    tasks: dict[str, float] = TASKS,
    note: str | None = None,
) -> Path:
    """A finished comparison of made-up variants; returns its folder."""
    runs = {}
    for variant, skill in skills.items():
        for seed in seeds:
            name = f"{variant}-seed{seed}"
            write_run(folder / name, folder / "pictures", skill=skill, seed=seed, num_scenes=num_scenes, tasks=tasks)
            runs[name] = {"variant": variant, "seed": seed, "folder": name, "jobs": 2}
    random = np.random.default_rng(1)
    _lines(folder / "align-0a1b2c3d" / "stages" / "align" / "metrics.jsonl", _metrics(250, 4.6, 1.8, random, 17))
    _write(
        folder / "comparison.json",
        {
            "recipe": {"model": {"base": "tinyworld:base"}, "stages": {"align": {}, "instruct": {}}},
            "variants": list(skills),
            "seeds": list(seeds),
            "runs": runs,
            "command": "yarbus quickstart --seeds 1",
            "tasks": [f"tinyworld/{task}" for task in tasks],
            "note": note,
        },
    )
    return folder


MANY_TASKS = TASKS | {"size": 1 / 3, "lean": 1 / 3}
MANY = {
    "frozen": 0.0, "full": 0.05, "bitfit": 0.01, "layernorm": 0.02, "lora-rank-64": 0.045, "vpt": -0.04, "svpt": -0.02,
    "qavit": 0.03, "covft": 0.06, "covft-merged-num_experts-8": 0.055, "covft-text": 0.025,
    "covft-sparse-top_k-2": 0.04,
}  # fmt: skip
"""As many variants and tasks as the papers' tables have."""


if __name__ == "__main__":
    from yarbus.report.html import write_report

    for name, skills, tasks in (("few", SKILL, TASKS), ("many", MANY, MANY_TASKS)):
        folder = write_comparison(Path(sys.argv[1]) / name, skills=skills, tasks=tasks, num_scenes=400, seeds=(0, 1))
        print(write_report(folder))
