"""NExT-GPT: the whole model as its first two stages train it, and projections before and behind the language model."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from omniform import index
from omniform.batch import Features, Tree
from omniform.connectors.grouping import Grouping
from omniform.connectors.query_transformer import QueryTransformer
from omniform.data.document import Document, Media, Text
from omniform.data.processor import Processor, Sample
from omniform.decoders.regressed_module import distance
from omniform.parts import Rules
from omniform.spec import Continuous, System
from omniform.systems.next_gpt import CAPTION, SYSTEM

from ..golden import Golden
from ._llava import IGNORED, padded
from ._load import build, load

OUT = ("fc.", "into."), ("tfm.", "transformer."), ("model.", "out."), ("query_embs", "queries")
CURRENT: Rules = (("in_fc.", "into."), ("out_fc.", "out."), *OUT)


def run(golden: Golden) -> dict[str, Any]:
    cases: Mapping[str, Callable[[Golden], dict[str, Tensor]]] = {
        "inproj_group": grouping, "outproj_current": current, "outproj_legacy_audio": legacy,
    }  # fmt: skip
    return cases.get(golden.case, whole)(golden)


# --- projections -------------------------------------------------------------------------------------------------


def grouping(golden: Golden) -> dict[str, Tensor]:
    said = golden.config
    spec = Grouping(
        width=said["embed_dim"], heads=said["num_heads"][0], tokens=tuple(said["num_group_tokens"][:-1]),
        groups=tuple(said["num_output_groups"]), depths=tuple(said["depths"]),
    )  # fmt: skip
    given, wanted = golden.inputs["x"], golden.expected["out"]
    module = spec.build(in_dim=given.shape[2], out_dim=wanted.shape[2]).eval()
    load(module, golden.params, (("", ""),))
    return {"out": module(Features(given, given.shape[1:2])).values}


def legacy(golden: Golden) -> dict[str, Tensor]:
    found = projected(golden, OUT)
    rows = ((found - golden.inputs["target"]) ** 2).sum(-1).sqrt()
    return {"embeddings": found, "l2_loss_rows": rows}


def current(golden: Golden) -> dict[str, Tensor]:
    return {"out": projected(golden, CURRENT)}


def projected(golden: Golden, rules: Rules) -> Tensor:
    """Hidden states at signal tokens and the tokens' embeddings through an output projection."""
    params, given = golden.params, golden.inputs
    queries = params["query_embs"]
    layers = len({key.split(".")[3] for key in params if key.startswith("tfm.encoder.layers.")})
    heads = int(re.match(r"\d+", str(golden.config["nhead"]))[0])  # type: ignore[index]
    spec = QueryTransformer(
        positions=queries.shape[1], width=queries.shape[2], layers=layers, heads=heads,
        mlp_dim=len(params["tfm.encoder.layers.0.linear1.bias"]),
    )  # fmt: skip
    read = given["hidden_states"] + given["signal_token_embeddings"]
    ends = next(params[key] for key in ("out_fc.bias", "model.bias") if key in params)
    module = spec.build(in_dim=read.shape[2], out_dim=len(ends)).eval()
    load(module, params, rules)
    return module(Features(read, read.shape[1:2])).values


# --- the whole model ---------------------------------------------------------------------------------------------


class Letters:
    """Letter by letter; blanks beside added tokens are swallowed, as the slow LLaMA tokenizer does."""

    bos_id: int | None = 1
    eos_id: int | None = 2

    def __init__(self, added: Sequence[str], first: int) -> None:
        self.added = {token: first + number for number, token in enumerate(added)}
        self.size = first + len(added)
        self.pattern = re.compile(" ?(" + "|".join(map(re.escape, added)) + ") ?|(?s:.)")

    def encode(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        found = list(self.pattern.finditer(text))
        return [self.added.get(m[1]) or 3 + ord(m[0]) % 90 for m in found], [m.span() for m in found]

    def ids_of(self, tokens: Sequence[str]) -> list[int]:
        return [self.added[token] for token in tokens]


def whole(golden: Golden) -> dict[str, Tensor]:
    params = dict(golden.params)
    assert torch.equal(params.pop("input_embeddings.weight"), params["llama_model.model.embed_tokens.weight"])
    system = sized(golden.config)
    model = build(system, params, {"visual_encoder.": "inputs.audio.encoder.", "llama_model.": "backbone.lm."})
    traced = Traced(golden, model)
    image, heard = traced.made("image"), traced.read()
    found = {f"img_{name}": value for name, value in image.items()} | heard
    found |= {f"aud_{name}": value for name, value in traced.made("audio").items()}
    # where rows of what is compared are real, for both lengths
    return {**found, "attention_mask": image["attention_mask"], "decoder_attention_mask": heard["enc_mask"]}


def sized(config: Mapping[str, Any]) -> System:
    """The system at the golden's sizes, with what the file holds: the audio tower, heads of pictures and sound."""
    rows = config["llama"]["vocab_size"] + len(config["added"])
    tokens = {f"num_gen_{kind}_tokens": number for kind, number in config["tokens"].items()}
    system = index.release(
        SYSTEM.slug,
        {**config["llama"], "vocab_size": rows, "freeze_lm": True, "imagebind_config": config["imagebind"],
         "num_clip_tokens": config["num_clip_tokens"], **tokens},
    )  # fmt: skip
    head = {"width": 16, "layers": 1, "heads": 2, "mlp_dim": 32}
    conditions = {"image": {"text_width": 14, "text_positions": config["num_clip_tokens"]}, "audio": {"shared": 9}}
    outputs = {
        modality: form.but(
            head=form.head.but(**head), diffusion=form.diffusion.but(**conditions[modality]), rendered=False
        )
        for modality, form in ((m, system.outputs[m]) for m in conditions)
    }
    heard = system.continuous("audio")
    audio = Continuous(encoder=heard.encoder, connector=heard.connector, views=heard.views, fusion=heard.fusion)
    rules = tuple((a, b.replace("inputs.image.", "inputs.audio.")) for a, b in system.layout.rules)
    return replace(
        system,
        inputs={"audio": audio},
        outputs={"text": system.outputs["text"], **outputs},
        layout=replace(system.layout, rules=rules),
        special_tokens=tuple(config["added"]),
    )


class Traced:
    """The golden's captions through the model."""

    def __init__(self, golden: Golden, model: Any) -> None:
        self.golden, self.model = golden, model
        self.captions = golden.config["captions"]
        tokens: Any = Letters(golden.config["added"], golden.config["llama"]["vocab_size"])
        self.processor = Processor(model.system, tokens)

    def made(self, modality: str) -> dict[str, Tensor]:
        """Captions that are repeated, with a signal behind them."""
        samples = [
            self.processor.sample(Document((Text(c), Text(c, "assistant"), Media(modality, b"", "assistant"))))
            for c in self.captions
        ]
        rows = [self.model.backbone.embed(torch.from_numpy(sample.ids)) for sample in samples]
        found, hidden = self.through(samples, rows)
        starts = np.cumsum([0, *(len(sample) for sample in samples[:-1])])
        places = [torch.from_numpy(s.aims[0].at + start) for s, start in zip(samples, starts, strict=True)]
        at, ids = torch.stack(places), torch.cat([torch.from_numpy(sample.ids) for sample in samples])
        condition = self.model.part(f"{modality}.decoder").condition(self.model.backbone, hidden[at], ids[at])
        target = self.golden.inputs[f"caption_embs_{modality}"].view_as(condition)
        loss = distance(condition, target).mean()[None]
        total = found.pop("loss") + loss
        return {**found, "gen_emb": condition, "embed_loss": loss, "total_loss": total}

    def read(self) -> dict[str, Tensor]:
        """Captions of sounds."""
        sound = (np.zeros(16000, dtype=np.float32), 16000)
        samples = [
            self.processor.sample(Document((Media("audio", sound), Text(c, "assistant"))), prompt=CAPTION)
            for c in self.captions
        ]
        stream, heard = self.model.stream("audio"), self.golden.inputs["audio"]
        rows = []
        for sample, clips in zip(samples, heard, strict=True):
            embedded = self.model.backbone.embed(torch.from_numpy(sample.ids))
            embedding = stream.encoder(clips).values.mean(0, keepdim=True)
            row = stream.connector(Features(embedding, (1,))).values[0]
            rows.append(embedded.index_copy(0, torch.from_numpy(sample.media[0].at), row))
        found, _ = self.through(samples, rows)
        return {
            "enc_inputs_embeds": found["inputs_embeds"], "enc_labels": found["labels"], "enc_loss": found["loss"],
            "enc_mask": found["attention_mask"],
        }  # fmt: skip

    def through(self, samples: list[Sample], rows: list[Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        """Padded embeddings, labels, logits and their loss; and packed hidden states."""
        lengths = [len(sample) for sample in samples]
        mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
        places = torch.cat([torch.arange(n) for n in lengths])
        hidden = self.model.backbone(torch.cat(rows), places, Tree.of(lengths))
        logits = padded(self.model.backbone.logits(hidden), mask)
        ids, learn = (torch.from_numpy(np.concatenate([getattr(s, n) for s in samples])) for n in ("ids", "learn"))
        labels = torch.full(mask.shape, IGNORED)
        labels[mask] = ids.masked_fill(~learn, IGNORED)
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED)[None]
        found = {
            "inputs_embeds": padded(torch.cat(rows), mask), "labels": labels, "attention_mask": mask.long(),
            "logits": logits, "loss": loss,
        }  # fmt: skip
        return found, hidden
