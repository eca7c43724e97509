"""What `cost` predicts of every system's media is what its processor makes of real ones, at full size."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from omniform import cost, index
from omniform.data.document import Document, Media
from omniform.data.loader import views_for
from omniform.data.media import size_of
from omniform.data.processor import MediaItem, Processor, Sample
from omniform.geometry import Flat
from omniform.spec import Discrete, System

SIZES = ((336, 336), (1024, 768), (1920, 1080))
SECONDS = (10, 95)
SYSTEMS = index.names("systems")
OTHERS = [
    f"{slug}:{name}"
    for slug in SYSTEMS
    for name in index.system(slug).variants
    if index.system(f"{slug}:{name}").inputs != index.system(slug).inputs
]
"""Variants that read media in another way."""


class Letters:
    """A tokenizer without training: one id a character, and one for every token that is asked for."""

    bos_id, eos_id, size = 1, 2, 1 << 20

    def __init__(self) -> None:
        self.known: dict[str, int] = {}

    def encode(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        return [ord(c) for c in text], [(i, i + 1) for i in range(len(text))]

    def decode(self, ids: Any) -> str:
        return "".join(map(chr, ids))

    def id_of(self, token: str) -> int:
        return self.known.setdefault(token, 200_000 + len(self.known))

    def ids_of(self, tokens: Any) -> list[int]:
        return [self.id_of(token) for token in tokens]

    def like(self, pattern: str) -> list[int]:
        return []


def processor(system: System, share: float = 1.0) -> Processor:
    """Media that become codes, or of which an encoder chooses cells, get that share of the most there can be."""

    def encode(item: MediaItem) -> Any:
        codec = system.codecs[item.modality]
        return np.zeros(int(share * codec.codes(codec.extent(item.plan.size)) * len(item.plan.views)), np.int64)

    def choose(item: MediaItem) -> list[tuple[int, ...]]:
        cells = [block.positions for block in item.plan.blocks if isinstance(block, Flat)]
        return [tuple(range(int(share * count))) for count in cells]

    return Processor(system, Letters(), encode, choose)


def made(sample: Sample) -> list[int]:
    """Positions of each medium, in order."""
    return [len(item.at) for item in sorted((*sample.media, *sample.coded), key=lambda item: item.first)]


def pictures() -> list[Media]:
    return [Media("image", Image.new("RGB", size, (9, 99, 200))) for size in SIZES]


def sounds() -> list[Media]:
    return [Media("audio", (np.zeros(rate * s, np.float32), rate)) for s in SECONDS for rate in (16000, 44100)]


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[Media]:
    """8 seconds: an animation of 5 frames a second, and frames whose rate is not known."""
    frames = [Image.new("RGB", (320, 180), (n, 0, 0)) for n in range(40)]
    path = tmp_path_factory.mktemp("video") / "eight.webp"
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=200, lossless=True)
    return [Media("video", path), Media("video", frames)]


def media_of(system: System, videos: list[Media]) -> list[Media]:
    return [m for m in (*pictures(), *sounds(), *videos) if m.modality in system.inputs]


def predicted(system: System, media: list[Media]) -> list[cost.report.MediumCost]:
    return list(cost.cost(system, [(m.modality, size_of(m)) for m in media], 1).media)


@pytest.mark.parametrize("slug", SYSTEMS)
def test_positions_and_views_of_one_medium(slug: str, videos: list[Media]) -> None:
    system = index.system(slug)
    media = media_of(system, videos)
    assert media, f"{slug} reads none of the media here"
    for medium in media:
        (claimed,) = predicted(system, [medium])
        sample = processor(system).sample(Document.ask("what?", **{medium.modality: medium.source}))
        assert made(sample) == [claimed.positions] == [cost.positions(system, medium.modality, size_of(medium))]
        found = cost.cost(system, [(medium.modality, size_of(medium))], len(sample) - claimed.positions)
        assert found.positions == len(sample)
        (item,) = (*sample.media, *sample.coded)
        assert len(item.plan.views) == claimed.views


@pytest.mark.parametrize("slug", [*SYSTEMS, *OTHERS])
def test_positions_of_several_media(slug: str, videos: list[Media]) -> None:
    """Views may depend on how many media stand together."""
    system = index.system(slug)
    media = media_of(system, videos)
    sample = processor(system).sample(Document((*media, *Document.ask("what?").segments)))
    assert made(sample) == [claimed.positions for claimed in predicted(system, media)]


@pytest.mark.parametrize("slug", SYSTEMS)
def test_views_of_real_media_are_as_many_and_as_large(slug: str, videos: list[Media]) -> None:
    system = index.system(slug)
    for medium in media_of(system, videos):
        sample = processor(system).sample(Document.ask("what?", **{medium.modality: medium.source}))
        (item,) = (*sample.media, *sample.coded)
        views = views_for(reader(system, medium.modality), item)
        assert views.shape[:1] + views.shape[-2:] == (predicted(system, [medium])[0].views, *item.plan.size)


def reader(system: System, modality: str) -> Any:
    """The encoder or codec that reads a modality."""
    entry = system.read(modality)
    return entry.codec if isinstance(entry, Discrete) else entry.encoder


@pytest.mark.parametrize(("slug", "positions"), [("speechgpt", 251), ("lavit", 128)])
def test_what_only_the_medium_tells_is_predicted_as_the_most_there_can_be(slug: str, positions: int) -> None:
    """Repeated units of speech are one; an encoder drops patches that tell little."""
    system = index.system(slug)
    medium = next(m for m in (*pictures(), *sounds()) if m.modality in system.inputs)
    (claimed,) = predicted(system, [medium])
    sample = processor(system, share=0.5).sample(Document.ask("what?", **{medium.modality: medium.source}))
    assert made(sample) == [positions] and positions < claimed.positions


# --- sound that is longer than a system takes --------------------------------------------------------------------

HEARD = {
    "llama-omni": (100, 300, 30),
    "next-gpt": (1, 1, 6),
    "qwen-audio": (252, 752, 30),
    "qwen2-audio": (250, 750, 30),
    "salmonn": (88, 88, 30),
    "slam-asr": (99, 599, 60),
    "speechgpt": (501, 4751, 95),
}
"""Positions of 10 and of 95 seconds, and how much of these is heard: the first window, clips of it, or all."""


def test_every_system_that_hears_is_here() -> None:
    assert set(HEARD) == {slug for slug in SYSTEMS if "audio" in index.system(slug).inputs}


@pytest.mark.parametrize("slug", HEARD)
def test_of_longer_sound_as_much_is_heard_as_is_said(slug: str) -> None:
    system = index.system(slug)
    sound = np.random.default_rng(0).uniform(-1, 1, 95 * 16000).astype(np.float32)
    short, long = (Media("audio", (sound[: seconds * 16000], 16000)) for seconds in SECONDS)
    claimed = predicted(system, [short])[0], predicted(system, [long])[0]
    sample = processor(system).sample(Document.ask("what?", audio=long.source))
    assert (claimed[0].positions, *made(sample)) == HEARD[slug][:2]
    assert (claimed[0].heard, claimed[1].heard) == pytest.approx((min(10, HEARD[slug][2]), HEARD[slug][2]), abs=1e-3)
    (item,) = (*sample.media, *sample.coded)
    views = views_for(reader(system, "audio"), item)
    assert views.count_nonzero() == pytest.approx(HEARD[slug][2] * 16000, rel=1e-3)  # the rest is silence, or not there
