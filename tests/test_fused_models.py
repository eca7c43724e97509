"""Whole models whose fusions work inside the layers: packed trees, answers and conversations; sizes of a release."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from engines import GREEDY, TOKENIZER, picture

from omniform import index
from omniform.backbones.llama import LLAMA_2_7B
from omniform.connectors.glu import Glu
from omniform.data.document import Document, Text
from omniform.data.packing import pack
from omniform.data.processor import Processor
from omniform.encoders.eva2_clip import EVA2_CLIP_E_490
from omniform.fusion.adapter_prompts import AdapterPrompts
from omniform.fusion.visual_expert import VisualExpert
from omniform.inference.chat import Chat
from omniform.inference.engine import Engine
from omniform.parts import Fusion
from omniform.views.fixed import Fixed

ASKED = [Document.ask(f"what shape ?{q}", answer=f"a red box {q}", image=picture(p)) for p in (0, 1) for q in range(3)]
ASKED.append(Document.ask("the red", answer="circle"))
CASES = pytest.mark.parametrize("fusion", [VisualExpert(), AdapterPrompts(length=3, layers=1)], ids=str)


def engine(fusion: Fusion) -> Engine:
    llava = index.system("llava-1.5").shrunk("tiny")
    views = Fixed(fit="squash", begin="boi", newline="eoi", still=True)
    image = replace(llava.continuous("image"), views=views, fusion=fusion)
    system = llava.but({"inputs": {"image": image}, "backbone.vocab": TOKENIZER.size})
    torch.manual_seed(0)
    model = system.build()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, mean=float(parameter.ndim == 1), std=0.2)
    return Engine(model, Processor(system, TOKENIZER))


@CASES
@torch.no_grad()
def test_a_packed_tree_loses_what_its_documents_lose_alone(fusion: Fusion) -> None:
    made = engine(fusion)
    samples = [made.processor.sample(document) for document in ASKED]
    batch = pack(samples, made.load)
    together = made.model(batch)["text"].total
    alone = sum(made.model(pack([sample], made.load))["text"].total for sample in samples)
    assert len(batch.tree.leaves) == len(samples) and batch.tree.length < sum(map(len, samples))
    assert float(together) == pytest.approx(float(alone), rel=1e-5)


@CASES
def test_answers_do_not_depend_on_the_batch(fusion: Fusion) -> None:
    made = engine(fusion)
    together = made.generate(ASKED, GREEDY)
    alone = [made.generate([document], GREEDY)[0] for document in ASKED]
    assert [a.tokens for a in together] == [a.tokens for a in alone]
    assert len({a.tokens for a in together}) > 2


@CASES
def test_a_conversation_answers_as_its_document_from_scratch(fusion: Fusion) -> None:
    made = engine(fusion)
    chat = Chat(made, GREEDY)
    for number, (text, media) in enumerate([("what ?", {"image": picture(0)}), ("the red", {}), ("box", {})]):
        answer = chat.ask(text, **media)
        whole = replace(chat.document, segments=chat.document.segments[:-1])
        assert isinstance(whole.segments[-1], Text)
        assert made.generate([whole], GREEDY)[0].tokens == answer.tokens, number


def test_rows_that_stand_still_take_one_position_id() -> None:
    sample = engine(VisualExpert()).processor.sample(ASKED[0])
    at = sample.media[0].at
    start = int(at[0])
    assert len(at) == 18
    assert sample.positions[at].tolist() == [start, *[start + 1] * 16, start + 2]
    assert sample.positions[: start + 1].tolist() == list(range(start + 1))
    assert sample.positions[-1] == len(sample) - 1 - 15


def test_parts_have_the_sizes_of_the_release() -> None:
    """17,639,685,440 with the 64 constants of the rotation that the release holds."""
    expert, connector = VisualExpert().num_params(LLAMA_2_7B, 4096), Glu().num_params(in_dim=1792, out_dim=4096)
    assert (EVA2_CLIP_E_490.num_params(), connector, expert) == (4282641664, 142614528, 6476005376)
    rows = 2 * LLAMA_2_7B.dim
    assert expert + connector + rows + EVA2_CLIP_E_490.num_params() + LLAMA_2_7B.num_params() == 17639685440 - 64
