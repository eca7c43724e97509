"""Tiny engines with random weights, and documents to ask them."""

from dataclasses import replace

import numpy as np
import torch
from PIL import Image

from omniform import index
from omniform.backbones.llama import LLAMA_7B, Llama
from omniform.backbones.mamba import MAMBA_2_8B
from omniform.backbones.mistral import MISTRAL_7B_V01
from omniform.data.document import Document, Media, Text
from omniform.data.processor import Processor
from omniform.data.tokenizer import train_tokenizer
from omniform.inference.engine import Engine
from omniform.inference.sampling import GenerationConfig

WORDS = "what shape and colour is in the picture ? a red circle on the left of the blue box USER: ASSISTANT: é ü 漢字"
NEW = 12
GREEDY = GenerationConfig(max_new_tokens=NEW)
SAMPLED = GenerationConfig(max_new_tokens=NEW, temperature=1.0, top_p=0.9, seed=3)
MIXED_ENDS = replace(SAMPLED, stop=("e", "a", "i"))
"""Answers of different lengths."""


class Alone(Llama):
    """A backbone whose documents cannot share positions."""

    trees = False


BACKBONES = {
    "llama": LLAMA_7B,
    "grouped queries": LLAMA_7B.but(kv_heads=8),
    "window": MISTRAL_7B_V01.but(window=512),  # 8 positions at tiny size
    "state": MAMBA_2_8B,
    "no trees": Alone(**{**vars(LLAMA_7B), "name": ""}),
}


TOKENIZER = train_tokenizer([WORDS] * 3, size=400)


def make_engine(backbone=LLAMA_7B, positions=4096):
    """A tiny system with random weights large enough that answers differ."""
    small = backbone.shrunk("tiny").but(vocab=TOKENIZER.size)
    system = index.system("llava-1.5").shrunk("tiny").but({"backbone": small})
    torch.manual_seed(0)
    model = system.build()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    return Engine(model, Processor(system, TOKENIZER), positions=positions)


def picture(seed):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (20, 30, 3), dtype=np.uint8))


def documents():
    """Families of 1, 3 and 19 about one picture, questions of mixed lengths, words only, two pictures, two turns."""
    asked = [
        Document.ask(f"what {'shape ' * (q % 5)}?{q}", image=picture(p))
        for p, n in ((0, 1), (1, 3), (2, 19))
        for q in range(n)
    ]
    others = [
        Document.ask("the red"),
        Document((Media("image", picture(0)), Text("left of"), Media("image", picture(3)), Text("?"))),
        Document((Media("image", picture(1)), Text("what?"), Text("box", "assistant"), Text("colour?"))),
        Document.ask("blue circle " * 9, system="in the picture"),
    ]
    mixed = [asked[i] for i in np.random.default_rng(0).permutation(len(asked))] + others
    return [Document(d.segments, str(i)) for i, d in enumerate(mixed)]
