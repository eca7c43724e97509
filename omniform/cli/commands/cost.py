"""`omniform cost`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from omniform.cli import options
from omniform.frozen import FrozenMap

if TYPE_CHECKING:
    from omniform.geometry import MediaSize

RATE = 16000
"""Samples a second of a sound whose length is given."""
FPS = 25
"""Frames a second of a video whose length is given."""
FORMS = {
    "image": (r"(\d+)x(\d+)", "WIDTHxHEIGHT, such as 640x480"),
    "video": (
        r"(\d+)x(\d+)x(?:(\d+)|(\d+(?:\.\d+)?) ?s)(?:@(\d+(?:\.\d+)?))?",
        "WIDTHxHEIGHTxFRAMES or WIDTHxHEIGHTxSECONDSs, such as 640x480x16 or 640x480x8s, then @FPS where it is known",
    ),
    "audio": (r"(\d+(?:\.\d+)?) ?s?", "seconds, such as 12.5"),
}


def command(
    system: Annotated[str, typer.Argument(help="Name of a system, or name:variant.", show_default=False)],
    image: Annotated[
        list[str] | None, typer.Option(metavar="WxH", help="Size of a picture; may be given again.")
    ] = None,
    video: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WxHxLENGTH",
            help="Size of a video and its length: so many frames, or seconds as 8s at 25 frames a second; @FPS behind "
            "it is another rate; may be given again.",
        ),
    ] = None,
    audio: Annotated[
        list[str] | None, typer.Option(metavar="SECONDS", help="Length of a sound; may be given again.")
    ] = None,
    text: Annotated[int, typer.Option(min=1, help="Tokens of text beside the media.")] = 128,
    documents: Annotated[int, typer.Option(min=1, help="Documents in memory at once in training.")] = 1,
    json: options.Json = False,
) -> None:
    """Reckon positions, FLOPs and memory.

    Of one document with media of the given sizes; without any, of one picture or sound of the encoder's own size.
    """
    from omniform import cost, index
    from omniform.cli.output import print_json

    sized = index.system(system)
    given = {"image": image or (), "video": video or (), "audio": audio or ()}
    media = [item for modality, sizes in given.items() for item in _sizes(modality, sizes)] or _default(sized)
    found = cost.cost(sized, media, text, documents=documents).as_dict()
    if json:
        print_json(found)
    else:
        _show(found, text, documents)


def _sizes(modality: str, given: Iterable[str]) -> list[tuple[str, MediaSize]]:
    """ "640x480", "640x480x8s" and seconds as sizes."""
    from omniform.geometry import SpecError

    pattern, form = FORMS[modality]
    found = []
    for words in given:
        match = re.fullmatch(pattern, words.strip().lower())
        if not match:
            raise SpecError(f"--{modality} {words}: give {form}")
        found.append((modality, MADE[modality](*match.groups())))
    return found


def _picture(width: str, height: str) -> MediaSize:
    from omniform.geometry import MediaSize

    return MediaSize(width=int(width), height=int(height))


def _video(width: str, height: str, frames: str | None, seconds: str | None, fps: str | None) -> MediaSize:
    from omniform.geometry import MediaSize

    rate = float(fps or FPS)
    count = int(frames) if frames else round(float(seconds or 0) * rate)
    return MediaSize(width=int(width), height=int(height), frames=count, fps=rate if seconds or fps else None)


def _sound(seconds: str) -> MediaSize:
    from omniform.geometry import MediaSize

    return MediaSize(samples=round(float(seconds) * RATE), rate=RATE)


MADE: Mapping[str, Callable[..., MediaSize]] = FrozenMap(image=_picture, video=_video, audio=_sound)


def _default(system: Any) -> list[tuple[str, MediaSize]]:
    """One picture of the usual size, or sound, if the system reads any."""
    read = [modality for modality in MADE if modality in system.inputs]
    return [(m, system.read(m).usual) for m in read[:1]]


def _show(found: dict[str, Any], text: int, documents: int) -> None:
    from omniform.cli.output import count, memory_size, print_pairs

    blocks: dict[str, dict[str, str]] = {
        "Parameters": {part: count(number) for part, number in found["parameters"].items()},
        "Positions": {**dict(map(_medium, found["media"])), "text": f"{text:,}", "total": f"{found['positions']:,}"},
        "Reading the document": {p: f"{count(n)}FLOPs" for p, n in found["prefill_flops"].items()},
        "Answering": {
            "each token": f"{count(found['decode_flops'])}FLOPs",
            "keys and values": f"{memory_size(found['kv_cache_bytes'])} in bfloat16",
        },
        f"Memory to train, {documents} document{'s'[: documents > 1]} at once, float32": {
            stage: _memory(memory) for stage, memory in found["training"].items()
        },
    }
    for number, (name, pairs) in enumerate(blocks.items()):
        print(f"{chr(10) * bool(number)}{name}")
        print_pairs(pairs, indent=2)


def _medium(medium: dict[str, Any]) -> tuple[str, str]:
    from omniform.cli.output import taken

    seconds = medium["samples"] / medium["rate"] if "samples" in medium else 0.0
    if seconds:
        size = f"{seconds:g} s"
    else:
        size = f"{medium['width']} x {medium['height']}" + (f" x {medium['frames']}" if medium["frames"] > 1 else "")
        size += f" at {medium['fps']:g}/s" if "fps" in medium else ""
    words = taken(medium["positions"], medium["views"], seconds, medium.get("heard", 0.0))
    return f"{medium['modality']} {size}", words


def _memory(memory: Any) -> str:
    from omniform.cli.output import memory_size

    parts = ", ".join(f"{name} {memory_size(number)}" for name, number in memory.items() if name != "total")
    return f"{memory_size(memory['total'])} ({parts})"
