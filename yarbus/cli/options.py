"""Options that several verbs share, and how a verb prints a record."""

import json
from typing import Annotated, Any

import typer

RecipeArgument = Annotated[str, typer.Argument(help="Name of a shipped recipe, or a YAML file.", metavar="RECIPE")]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="Changes by dotted path, for example seed=1.", metavar="[KEY=VALUE ...]")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Threads = Annotated[int, typer.Option("--threads", min=1, help="Threads of torch.")]


def names(text: str | None) -> list[str] | None:
    """``a,b`` as a list; None stays None."""
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def print_json(value: Any) -> None:
    """A record on standard output, for other programs."""
    print(json.dumps(value, indent=1, default=str))


def quieten(threads: int | None = None) -> None:
    """Torch on so many threads, and libraries' own bars and notices off: ours say what is going on."""
    import torch
    import transformers

    if threads is not None:
        torch.set_num_threads(threads)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
