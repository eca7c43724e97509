"""LLaMA-Omni: the whole model on two sounds of a padded batch, its two losses, and an answer with its units."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from omniform import index
from omniform.batch import Batch, Features, Told, Tree
from omniform.inference.cache import KeyValues

from ..golden import Golden
from ..runner import GIVEN
from ._llava import IGNORED, Habits, Traced, of_rows, padded
from ._load import build

CODEC = "codec."


def run(golden: Golden) -> dict[str, Any]:
    return geometry(golden) if golden.data else whole(golden)


# --- pure functions ----------------------------------------------------------------------------------------------


def geometry(golden: Golden) -> dict[str, Any]:
    system = index.system(golden.slug)
    found: dict[str, Any] = {}
    for i, case in enumerate(golden.data["lengths"]):
        columns = case["mel_frames"]
        heard = system.continuous("audio").encoder.cells((1, columns * 160))
        kept = system.continuous("audio").cells((1, columns * 160))[0]
        told = {"after_conv": heard[0], "projector_out_for_that_length": kept, "kept_tokens_formula": kept}
        found |= {f"lengths/{i}/{key}": value for key, value in {**told, "mel_frames": GIVEN}.items()}
    decoder = system.shrunk("tiny").outputs["audio"].build(dim=1)
    for i, case in enumerate(golden.data["uniform_assignment"]):
        states = torch.arange(case["src_len"])[:, None].float()
        decoder.spec = decoder.spec.but(copies=1)
        index_of = decoder.copied(states, case["tgt_len"])[:, 0].long().tolist()
        given = {"src_len": GIVEN, "tgt_len": GIVEN}
        found |= {f"uniform_assignment/{i}/{k}": v for k, v in {**given, "index": index_of}.items()}
    blank = system.outputs["audio"].blank  # type: ignore[attr-defined]
    decoder.spec = decoder.spec.but(codec=decoder.spec.codec.but(units=blank))
    for i, case in enumerate(golden.data["ctc_collapse_blank_1000"]):
        found |= {
            f"ctc_collapse_blank_1000/{i}/raw": GIVEN,
            f"ctc_collapse_blank_1000/{i}/units": decoder.units(case["raw"]),
        }
    return found


# --- the whole model ---------------------------------------------------------------------------------------------


def whole(golden: Golden) -> dict[str, Tensor]:
    model = model_of(golden)
    given, stream, decoder = golden.inputs, model.stream("audio"), model.part("audio.decoder")
    encoded = stream.encoder(given["speech"].transpose(1, 2))
    counts = stream.connector.spec.cells
    rows = [
        stream.connector(Features(x[None, :n], (n,))).values[0]
        for x, n in zip(encoded.values, ((given["speech_lengths"] + 1) // 2).tolist(), strict=True)
    ]
    assert [counts((n,))[0] for n in ((given["speech_lengths"] + 1) // 2).tolist()] == [len(r) for r in rows]
    traced = of_rows(golden, model, rows, ([], [], []), Habits(modality="audio"))
    mask = (torch.arange(max(traced.lengths)) < torch.tensor(traced.lengths)[:, None]).long()
    hidden = model.backbone(traced.embeds, traced.positions, Tree.of(traced.lengths))
    told = spoken(golden, traced)
    batch = Batch(ids=traced.labels, positions=traced.positions, tree=Tree.of(traced.lengths), told={"audio": told})
    ctc = decoder.loss(model.backbone, hidden, batch).mean[None]
    text = F.cross_entropy(*learned(traced))[None]
    weight = model.system.outputs["audio"].weight
    return {
        "expanded_labels": padded(traced.labels, mask, IGNORED), "expanded_mask": mask, "attention_mask": mask,
        "inputs_embeds": padded(traced.embeds, mask), "last_hidden": padded(hidden, mask),
        "logits": padded(traced.logits, mask), "lm_loss": text, "ctc_loss": ctc, "total_loss": text + weight * ctc,
        **{f"speech_features{i}": r for i, r in enumerate(rows)},
        **copies(golden, decoder, [hidden[t.at] for t in told], [len(t.codes) for t in told]),
        **answer(golden, model, traced),
    }  # fmt: skip


def model_of(golden: Golden) -> Any:
    """The golden's weights, and a codec with fresh ones of its own: the original reads units made before."""
    config = golden.config
    system = index.release(golden.slug, config)
    told: Any = system.outputs["audio"]
    tiny = told.codec.shrunk("tiny").but(units=told.codec.units)
    hidden = config["projector_hidden(original hard-codes 2048)"]
    system = system.but({"outputs.audio.codec": tiny, "inputs.audio.connector.hidden": hidden})
    codec = {CODEC + key: tensor for key, tensor in tiny.build().state_dict().items()}
    return build(
        system.but({"layout.separate": {}, "layout.separate_rules": {}}),
        {**golden.params, **codec},
        {CODEC: "codecs.audio."},
    )


def spoken(golden: Golden, traced: Traced) -> tuple[Told, ...]:
    """Of each row the positions of its labels, and its units."""
    starts = torch.tensor([0, *traced.lengths]).cumsum(0)
    at = (traced.labels != IGNORED).nonzero()[:, 0]
    rows = [at[(at >= a) & (at < b)] for a, b in pairwise(starts.tolist())]
    return tuple(Told(p, u[u != IGNORED]) for p, u in zip(rows, golden.inputs["tgt_units"], strict=True))


def learned(traced: Traced) -> tuple[Tensor, Tensor]:
    """Logits and labels of what text learns; no row begins with a label."""
    at = (traced.labels != IGNORED).nonzero()[:, 0]
    return traced.logits[at - 1], traced.labels[at]


def copies(golden: Golden, decoder: Any, states: list[Tensor], least: list[int]) -> dict[str, Tensor]:
    logits = decoder(states, least)
    mask = torch.arange(max(map(len, logits))) < torch.tensor([len(x) for x in logits])[:, None]
    copied = [decoder.copied(h, n) for h, n in zip(states, least, strict=True)]
    return {
        "ctc_upsampled": padded(torch.cat(copied), mask), "ctc_mask": mask,
        "ctc_logits_masked": padded(torch.cat(logits), mask), "ctc_pred_row0": decoder.symbols(states[0])[None],
    }  # fmt: skip


def answer(golden: Golden, model: Any, traced: Traced) -> dict[str, Tensor]:
    """The likeliest tokens after the first row's prompt; its units told at once, and token after token."""
    length = int((traced.labels == IGNORED)[: traced.lengths[0]].sum())
    count, cache = golden.expected["greedy_sequence"].shape[1], KeyValues()
    backbone, decoder, more = model.backbone, model.part("audio.decoder"), KeyValues()
    state = backbone(traced.embeds[:length], torch.arange(length), Tree.of([length]), cache)[-1:]
    states, ids, along = [], [], []
    for number in range(count):
        states.append(state)
        along.append(decoder.symbols(state, more, number))
        ids.append(backbone.logits(state).argmax(-1))
        place = torch.tensor([[length + number]])
        state = backbone.step(backbone.embed(ids[-1])[None], place, None, cache)[0]
    at_once = decoder.symbols(torch.cat(states))
    return {
        "greedy_sequence": torch.cat(ids)[None], "greedy_ctc_pred": at_once[None],
        "greedy_stream_ctc_pred": torch.cat(along)[None],
    }  # fmt: skip
