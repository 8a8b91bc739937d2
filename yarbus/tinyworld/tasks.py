"""Instruction tasks over the same scenes that want different things from the eyes.

A task asks of a scene's description and knows the one right answer, a few words of a closed vocabulary, so
exact match is the score. Train asks in some phrasings; validation and test ask in others (``held_out``) made
of words that train has taught.
"""

from collections.abc import Callable
from dataclasses import dataclass

from numpy.random import Generator

from yarbus.tinyworld.scene import COLOURS, LEANS, SIZES, Digit, Scene

NUM_CELLS = 16

Ask = Callable[[Scene, Generator], tuple[dict[str, str], str]]
"""Scene, chance -> the words that a phrasing is filled with, and the answer."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """One kind of question."""

    name: str
    chance: float
    """Accuracy of the best answer that never looks at the picture."""
    phrasings: tuple[str, ...]
    held_out: tuple[str, ...]
    ask: Ask


@dataclass(frozen=True, kw_only=True)
class Question:
    """A task put to a scene."""

    task: str
    instruction: str
    answer: str


def pose(task: Task, scene: Scene, rng: Generator, *, held_out: bool) -> Question:
    """The task's question about this scene; ``rng`` chooses the digit it asks for and the phrasing."""
    words, answer = task.ask(scene, rng)
    phrasings = task.held_out if held_out else task.phrasings
    instruction = phrasings[rng.integers(len(phrasings))].format(**words)
    return Question(task=task.name, instruction=instruction, answer=answer)


def _choose(scene: Scene, rng: Generator) -> Digit:
    return scene.digits[rng.integers(len(scene.digits))]


def _point_out(digit: Digit, rng: Generator) -> dict[str, str]:
    """By its digit or by its colour: either is enough, as no two digits of a scene share one."""
    return {"thing": f"the {digit.digit}" if rng.integers(2) else f"the {digit.colour} digit"}


def _ask_read(scene: Scene, rng: Generator) -> tuple[dict[str, str], str]:
    digit = _choose(scene, rng)
    return {"colour": digit.colour}, str(digit.digit)


def _ask_colour(scene: Scene, rng: Generator) -> tuple[dict[str, str], str]:
    digit = _choose(scene, rng)
    return {"digit": str(digit.digit)}, digit.colour


def _ask_locate(scene: Scene, rng: Generator) -> tuple[dict[str, str], str]:
    digit = _choose(scene, rng)
    return _point_out(digit, rng), digit.cell


def _ask_size(scene: Scene, rng: Generator) -> tuple[dict[str, str], str]:
    digit = _choose(scene, rng)
    return _point_out(digit, rng), digit.size


def _ask_lean(scene: Scene, rng: Generator) -> tuple[dict[str, str], str]:
    digit = _choose(scene, rng)
    return _point_out(digit, rng), digit.lean


def _ask_exist(scene: Scene, rng: Generator) -> tuple[dict[str, str], str]:
    """Scenes with an even number hold what is asked for. In the others one half of the pair is there, or both apart."""
    digit = _choose(scene, rng)
    if scene.seed[-1] % 2 == 0:
        return {"pair": f"{digit.colour} {digit.digit}"}, "yes"
    here = {(other.digit, other.colour) for other in scene.digits}
    near = [(other.digit, digit.colour) for other in scene.digits] + [(digit.digit, other) for other in COLOURS]
    near += [(other, digit.colour) for other in range(10)]
    absent = [pair for pair in near if pair not in here]
    wrong_digit, wrong_colour = absent[rng.integers(len(absent))]
    return {"pair": f"{wrong_colour} {wrong_digit}"}, "no"


def caption(scene: Scene) -> str:
    """Colour and digit of everything, from left to right: ``red 7 blue 3``."""
    return " ".join(f"{digit.colour} {digit.digit}" for digit in scene.digits)


def description(scene: Scene) -> str:
    """All there is to say of every digit, from left to right: ``red 7 small left b2 blue 3 large straight d1``."""
    return " ".join(f"{digit.colour} {digit.digit} {digit.size} {digit.lean} {digit.cell}" for digit in scene.digits)


def _ask_describe(scene: Scene, rng: Generator) -> tuple[dict[str, str], str]:
    return {}, description(scene)


def _ask_caption(scene: Scene, rng: Generator) -> tuple[dict[str, str], str]:
    return {}, caption(scene)


TASKS = {
    task.name: task
    for task in (
        Task(
            name="read",
            chance=1 / 10,
            phrasings=(
                "which digit is {colour} ?",
                "read the {colour} digit .",
                "what is the {colour} digit ?",
                "name the digit that is {colour} .",
                "what digit has the colour {colour} ?",
                "give the {colour} digit .",
                "tell me which digit is {colour} .",
            ),
            held_out=("what digit is {colour} ?", "tell me what the {colour} digit is ."),
            ask=_ask_read,
        ),
        Task(
            name="locate",
            chance=1 / NUM_CELLS,
            phrasings=(
                "where is {thing} ?",
                "in which cell is {thing} ?",
                "find {thing} .",
                "give the cell of {thing} .",
                "what is the cell of {thing} ?",
                "tell me where {thing} is .",
                "which cell has {thing} ?",
            ),
            held_out=("find the cell of {thing} .", "which cell is {thing} in ?"),
            ask=_ask_locate,
        ),
        Task(
            name="exist",
            chance=1 / 2,
            phrasings=(
                "is there a {pair} ?",
                "do you see a {pair} ?",
                "does the picture show a {pair} ?",
                "can you find a {pair} ?",
                "is a {pair} in the picture ?",
                "tell me if there is a {pair} .",
                "can you tell if you see a {pair} ?",
                "do you find a {pair} in the picture ?",
            ),
            held_out=("can you see a {pair} ?", "is there a {pair} in the picture ?"),
            ask=_ask_exist,
        ),
        Task(
            name="colour",
            chance=1 / len(COLOURS),
            phrasings=(
                "what colour is the {digit} ?",
                "which colour has the {digit} ?",
                "name the colour of the {digit} .",
                "in what colour is the {digit} ?",
                "tell me the colour of the {digit} .",
                "which colour is the {digit} ?",
                "what colour has the {digit} ?",
            ),
            held_out=("what is the colour of the {digit} ?", "give the colour of the {digit} ."),
            ask=_ask_colour,
        ),
        Task(
            name="caption",
            chance=0.0,
            phrasings=(
                "describe the picture .",
                "what do you see ?",
                "what does the picture show ?",
                "read the picture .",
                "tell me what you see .",
                "name what you see in the picture .",
                "what is in the picture ?",
                "describe what is in the picture .",
            ),
            held_out=("describe what you see .", "what do you see in the picture ?"),
            ask=_ask_caption,
        ),
        Task(
            name="size",
            chance=1 / len(SIZES),
            phrasings=(
                "how big is {thing} ?",
                "what size is {thing} ?",
                "name the size of {thing} .",
                "which size has {thing} ?",
                "tell me how big {thing} is .",
                "tell me the size of {thing} .",
                "what size has {thing} ?",
            ),
            held_out=("what is the size of {thing} ?", "give the size of {thing} ."),
            ask=_ask_size,
        ),
        Task(
            name="lean",
            chance=1 / len(LEANS),
            phrasings=(
                "how does {thing} lean ?",
                "which way does {thing} lean ?",
                "name the way {thing} does lean .",
                "what is the lean of {thing} ?",
                "tell me how {thing} does lean .",
                "tell me the lean of {thing} .",
                "which lean has {thing} ?",
            ),
            held_out=("what way does {thing} lean ?", "give the lean of {thing} ."),
            ask=_ask_lean,
        ),
    )
}

DESCRIBE = Task(
    name="describe",
    chance=0.0,
    phrasings=("describe every digit .", "describe every digit you see .", "tell me how every digit is ."),
    held_out=("describe every digit in the picture .",),
    ask=_ask_describe,
)
"""What the projector is aligned on; no benchmark."""

LEARNED = (*TASKS.values(), DESCRIBE)
"""What the base's language model and text encoder learn."""
