"""Options that several verbs share, and how a verb prints a record."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from yarbus.core.errors import ConfigError

if TYPE_CHECKING:
    from yarbus.core.recipe import Recipe

RecipeArgument = Annotated[str, typer.Argument(help="Name of a shipped recipe, or a YAML file.", metavar="RECIPE")]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="Changes by dotted path, for example seed=1.", metavar="[KEY=VALUE ...]")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Threads = Annotated[int, typer.Option("--threads", min=1, help="Threads of torch.")]


def _place(text: str) -> Any:
    return typer.Option(help=f"{text}: methods, options in brackets (lora\\[rank=8]), or variants of the recipe; a,b.")


VisionVariants = Annotated[str | None, _place("Vision tower")]
ProjectorVariants = Annotated[str | None, _place("Projector")]
LanguageVariants = Annotated[str | None, _place("Language model")]
HeadVariants = Annotated[str | None, _place("Head")]


def names(text: str | None) -> list[str] | None:
    """``a,b`` as a list; None stays None."""
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def named_variants(recipe: "Recipe", places: dict[str, str | None], variants: str | None) -> Any:
    """What a study takes as variants: names of the recipe's own, changes by name, or None where nothing is named."""
    named = {place: text for place, text in places.items() if text is not None}
    if not named:
        return names(variants)
    if variants is not None:
        given = ", ".join(f"--{place}" for place in named)
        fix = "name the recipe's variants in the place's list, too"
        raise ConfigError(f"--variants and {given} are both given", fix=fix)
    from yarbus.studies.variants import variants_of

    return variants_of(recipe, named)


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
