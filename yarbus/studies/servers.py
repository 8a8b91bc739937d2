"""Who serves what ``export`` wrote: who runs all of it, who refuses it, who would leave out what was trained.

``ignores`` is the dangerous word: the server starts, answers, and answers as if nothing had been trained. Of what a
program does with weights it does not know, we say what follows from how it chooses the architecture.
"""

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["honours", "refuses", "ignores"]
Kind = Literal["plain", "registers", "full"]
"""An ordinary folder; ordinary tensors of a model that drops its tower's registers, which Yarbus alone does; a full
yarbus model."""


@dataclass(frozen=True, kw_only=True)
class Server:
    """One program, and what it does with each kind of folder."""

    name: str
    plain: Verdict
    """With an ordinary folder, whose every tensor has a place in the library's own model."""
    plain_why: str
    registers: Verdict
    """With ordinary tensors of a model that drops its tower's registers."""
    registers_why: str
    full: Verdict
    """With a full yarbus model, whose inserted modules the library does not know."""
    full_why: str


SERVERS = (
    Server(
        name="yarbus.load",
        plain="honours",
        plain_why="it reads ordinary folders too",
        registers="honours",
        registers_why="it drops the registers, as config.json says",
        full="honours",
        full_why="it attaches what config.json describes before it reads the weights",
    ),
    Server(
        name="transformers",
        plain="honours",
        plain_why="an ordinary checkpoint of its own class",
        registers="refuses",
        registers_why="it loads the weights and fails at the first picture, which has more features than places",
        full="refuses",
        full_why="the weights carry the variant 'yarbus', so from_pretrained finds none",
    ),
    Server(
        name="vLLM",
        plain="honours",
        plain_why="if it serves the base: same architecture, same tensor names",
        registers="refuses",
        registers_why="it knows no tower with registers in a LLaVA",
        full="refuses",
        full_why="config.json names an architecture (Context...) that it does not have",
    ),
    Server(
        name="SGLang",
        plain="honours",
        plain_why="if it serves the base: same architecture, same tensor names",
        registers="ignores",
        registers_why="if it loads the tower at all: a picture then has more features than places, and there are "
        "versions that cut them with a warning instead of stopping",
        full="refuses",
        full_why="config.json names an architecture (Context...) that it does not have",
    ),
    Server(
        name="TGI",
        plain="honours",
        plain_why="if it serves the base: same architecture, same tensor names",
        registers="refuses",
        registers_why="it knows no tower with registers in a LLaVA",
        full="ignores",
        full_why="it goes by model_type, which is the base's: tensors beside the base's own (prompts, a head) are left "
        "out without a word; where a module was replaced it fails for want of the old tensors",
    ),
    Server(
        name="llama.cpp, Ollama",
        plain="honours",
        plain_why="if both halves are converted from this folder; a ready-made vision file (mmproj), or a tower "
        "taken from its original repository as older LLaVA instructions have it, is the untuned one",
        registers="refuses",
        registers_why="its converter knows no tower with registers in a LLaVA",
        full="refuses",
        full_why="the converter goes by the architecture's name; beside the base's ready-made files nothing of this "
        "folder would be used",
    ),
    Server(
        name="ONNX (optimum)",
        plain="honours",
        plain_why="if it exports the base's architecture",
        registers="refuses",
        registers_why="it exports what transformers computes, which fails at the first picture",
        full="refuses",
        full_why="it loads with transformers, which finds no weights; an exported tower would have no input for the "
        "question",
    ),
)


def verdicts(kind: Kind) -> list[dict[str, str]]:
    """What each program does with a folder of this kind: name, verdict and reason."""
    return [
        {"server": server.name, "verdict": getattr(server, kind), "why": getattr(server, f"{kind}_why")}
        for server in SERVERS
    ]
