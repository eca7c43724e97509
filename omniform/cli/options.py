"""Arguments and options that several commands take, and what options of several forms come to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

if TYPE_CHECKING:
    from omniform.inference.sampling import GenerationConfig

Device: TypeAlias = Annotated[str, typer.Option(help="cpu, cuda ...; by default the accelerator if there is one.")]
Json: TypeAlias = Annotated[bool, typer.Option("--json", help="JSON instead of text.")]

# --- training ----------------------------------------------------------------------------------------------------

Recipe: TypeAlias = Annotated[Path, typer.Argument(help="A recipe (YAML), or a run's directory to go on with.")]
Overrides: TypeAlias = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Changes of the recipe, such as seed=3.")
]
RunOut: TypeAlias = Annotated[Path | None, typer.Option(help="Run directory instead of the recipe's.")]
UsePrevious: TypeAlias = Annotated[
    bool, typer.Option("--use-previous", help="Where the newest checkpoint is damaged, take the one before.")
]

# --- measuring ---------------------------------------------------------------------------------------------------

Data: TypeAlias = Annotated[str, typer.Option(help="One of the recipe's datasets, instead of its own choice.")]
ResultsOut: TypeAlias = Annotated[Path | None, typer.Option(help="Where results go; the run's directory.")]

# --- answering ---------------------------------------------------------------------------------------------------

Model: TypeAlias = Annotated[str, typer.Argument(help="A run, or a folder or hub id with a saved or released model.")]
ReleaseOf: TypeAlias = Annotated[str, typer.Option(help="Of a release that does not say whose it is.")]
SystemText: TypeAlias = Annotated[str, typer.Option(help="System text instead of the model's own.")]
NewTokens: TypeAlias = Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")]
Seed: TypeAlias = Annotated[int, typer.Option(help="Fixes all random choices.")]
Modality: TypeAlias = Annotated[
    list[str] | None, typer.Option(help="What may come, such as image; all by default; may be given again.")
]
First: TypeAlias = Annotated[str, typer.Option(help="Modality that the answer begins with.")]

OWN = "MODALITY=NUMBER is for codes of that modality, which else are chosen as words are; may be given again."
Temperature: TypeAlias = Annotated[
    list[str] | None, typer.Option(metavar="NUMBER", help=f"0, the default, always takes the likeliest token. {OWN}")
]
TopK: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(metavar="NUMBER", help="Only the k likeliest tokens; 0, the default, is all. Also MODALITY=NUMBER."),
]
TopP: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NUMBER", help="Only the likeliest tokens of this mass; 1, the default, is all. Also MODALITY=NUMBER."
    ),
]
Guidance: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        metavar="MODALITY=SCALE",
        help="Classifier-free guidance, such as image=3; a scale for each context of codes, image=1.2,3; the "
        "published ones by default; may be given again.",
    ),
]
Steps: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        metavar="MODALITY=NUMBER", help="Denoising steps of a diffusion model; the published number by default."
    ),
]
RepetitionPenalty: TypeAlias = Annotated[
    float, typer.Option(help="Words that were there before become less likely by this factor; 1 is none.")
]
Stop: TypeAlias = Annotated[
    list[str] | None, typer.Option(help="Words that end the answer and are left out; may be given again.")
]

WORDS = "text"
"""What an option is for that is given without a modality."""


def generation(
    temperature: Sequence[str] | None,
    top_k: Sequence[str] | None,
    top_p: Sequence[str] | None,
    guidance: Sequence[str] | None,
    steps: Sequence[str] | None,
    **more: Any,
) -> GenerationConfig:
    """How answers are generated, from options as they were given; `more` as it is.

    Raises:
        SamplingError: an option that is not of its form, or a number that no choice can be made with.
    """
    from omniform.inference.sampling import GenerationConfig, MediaSampling, SamplingError

    choosing = {
        "temperature": _each("temperature", temperature, float, "0.7 or image=1"),
        "top_k": _each("top-k", top_k, int, "50 or image=2000"),
        "top_p": _each("top-p", top_p, float, "0.9 or image=1"),
    }
    made = {
        "guidance": _each("guidance", guidance, _scales, "image=3"),
        "steps": _each("steps", steps, int, "image=25"),
    }
    words = {name: given.get(WORDS, getattr(GenerationConfig, name)) for name, given in choosing.items()}
    media = {}
    for modality in dict.fromkeys(m for given in (*choosing.values(), *made.values()) for m in given if m != WORDS):
        own = {name: given[modality] for name, given in {**choosing, **made}.items() if modality in given}
        try:
            media[modality] = MediaSampling(**{**words, **own})
        except SamplingError as error:
            raise SamplingError(f"{modality}: {error}") from error
    return GenerationConfig(**words, media=media, **more)


def _each(option: str, given: Sequence[str] | None, read: Callable[[str], Any], form: str) -> Mapping[str, Any]:
    """Modality -> value; where the form allows for it, what is given without a modality is for words."""
    from omniform.inference.sampling import SamplingError

    found = {}
    for text in given or ():
        modality, equals, value = text.rpartition("=")
        try:
            if not (modality if equals else " or " in form):
                raise ValueError("no modality")
            found[modality.strip() if equals else WORDS] = read(value)
        except ValueError:
            raise SamplingError(f"--{option} {text}: give it as {form}") from None
    return found


def _scales(text: str) -> tuple[float, ...]:
    return tuple(float(scale) for scale in text.split(","))
