"""What a Q-Former that reads text learns before it meets a language model (BLIP-2, arXiv:2301.12597 section 3.1).

salesforce/LAVIS@506965b lavis/models/blip2_models/blip2_qformer.py:88-280, Qformer.py:1060-1085.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from omniform.connectors.qformer import QFormer
from omniform.connectors.qformer_module import QFormerModule

SMOOTHING = 0.1
TEMPERATURE = 0.07


class QFormerObjectives(nn.Module):
    """Heads of the three losses; the Q-Former itself is given to each call.

    Captions are (pictures, words) ids that begin with one sign and end in padding; for the caption loss the first id
    gives way to the last of the vocabulary.
    """

    def __init__(self, spec: QFormer, embed_dim: int = 256) -> None:
        super().__init__()
        width = spec.width
        self.vision_proj = nn.Linear(width, embed_dim)
        self.text_proj = nn.Linear(width, embed_dim)
        self.itm_head = nn.Linear(width, 2)
        self.temp = nn.Parameter(torch.tensor(TEMPERATURE))
        self.transform = nn.ModuleDict(
            {"dense": nn.Linear(width, width), "LayerNorm": nn.LayerNorm(width, eps=spec.norm_eps)}
        )
        self.bias = nn.Parameter(torch.zeros(spec.words))
        self.spec = spec

    def forward(
        self,
        former: QFormerModule,
        features: Float[Tensor, "pictures cells in_dim"],
        words: Int[Tensor, "pictures words"],
        kept: Bool[Tensor, "pictures words"],
    ) -> dict[str, Float[Tensor, ""]]:
        """Losses by name: "contrast", "match", "caption"; their sum is learned.

        Args:
            features: normed.
            kept: which words are no padding.
        """
        i2t, t2i = self.similarities(former, features, words, kept)
        own = torch.arange(len(words), device=words.device)
        contrast = [F.cross_entropy(s, own, label_smoothing=SMOOTHING) for s in (i2t, t2i)]
        return {
            "contrast": (contrast[0] + contrast[1]) / 2,
            "match": self._match(former, features, words, kept, (other(i2t), other(t2i))),
            "caption": self._caption(former, features, words, kept),
        }

    def pictures(
        self, former: QFormerModule, features: Float[Tensor, "pictures cells in_dim"]
    ) -> Float[Tensor, "pictures queries embed"]:
        """Unit vectors of each query."""
        return F.normalize(self.vision_proj(former.read(features)), dim=-1)

    def texts(
        self, former: QFormerModule, words: Int[Tensor, "texts words"], kept: Bool[Tensor, "texts words"]
    ) -> Float[Tensor, "texts words embed"]:
        """Unit vectors of each word; the first stands for the text."""
        return F.normalize(self.text_proj(former.bert(None, words, None, kept[:, None])), dim=-1)

    def similarities(
        self,
        former: QFormerModule,
        features: Float[Tensor, "pictures cells in_dim"],
        words: Int[Tensor, "texts words"],
        kept: Bool[Tensor, "texts words"],
    ) -> tuple[Float[Tensor, "pictures texts"], Float[Tensor, "texts pictures"]]:
        """Similarity of pictures and texts over the temperature, by the query that is closest."""
        pictures, texts = self.pictures(former, features), self.texts(former, words, kept)[:, 0]
        closest = torch.einsum("pqe,te->ptq", pictures, texts).amax(-1) / self.temp
        return closest, closest.T

    def together(
        self,
        former: QFormerModule,
        features: Float[Tensor, "pairs cells in_dim"],
        words: Int[Tensor, "pairs words"],
        kept: Bool[Tensor, "pairs words"],
    ) -> Float[Tensor, "pairs queries width"]:
        """Queries that have read a picture and a text."""
        queries = self.spec.positions
        return former.read(features, words, F.pad(kept, (queries, 0), value=True)[:, None])[:, :queries]

    def matches(
        self,
        former: QFormerModule,
        features: Float[Tensor, "pairs cells in_dim"],
        words: Int[Tensor, "pairs words"],
        kept: Bool[Tensor, "pairs words"],
    ) -> Float[Tensor, "pairs 2"]:
        """Logits of "they do not belong together" and "they do"."""
        return self.itm_head(self.together(former, features, words, kept)).mean(1)

    def _match(
        self, former: QFormerModule, features: Tensor, words: Tensor, kept: Tensor, others: tuple[Tensor, Tensor]
    ) -> Tensor:
        """Right pairs, wrong pictures, wrong texts."""
        text, picture = others
        seen = torch.cat([features, features[picture], features])
        said, kept = (torch.cat([x, x, x[text]]) for x in (words, kept))
        right = torch.arange(len(said), device=said.device) < len(words)
        return F.cross_entropy(self.matches(former, seen, said, kept), right.long())

    def _caption(self, former: QFormerModule, features: Tensor, words: Tensor, kept: Tensor) -> Tensor:
        """Each word from the words before it and the queries, which see no words."""
        queries, length = self.spec.positions, words.shape[1]
        said = words.index_fill(1, torch.zeros(1, dtype=torch.long, device=words.device), self.spec.words - 1)
        seen = torch.ones(queries + length, queries + length, dtype=torch.bool, device=words.device).tril()
        seen[:queries, :queries] = True
        allowed = seen & F.pad(kept, (queries, 0), value=True)[:, None]
        hidden = former.read(features, said, allowed)[:, queries:-1]
        shaped = self.transform["LayerNorm"](F.gelu(self.transform["dense"](hidden)))
        logits = F.linear(shaped, former.bert.embeddings["word_embeddings"].weight, self.bias)  # type: ignore[arg-type]
        learned = kept[:, 1:]
        return F.cross_entropy(logits[learned].float(), said[:, 1:][learned], label_smoothing=SMOOTHING)


@torch.no_grad()
def other(similarity: Float[Tensor, "here there"]) -> Int[Tensor, " here"]:
    """For each row another column, drawn the likelier the more similar it is."""
    hard = similarity.masked_fill(torch.eye(len(similarity), dtype=torch.bool, device=similarity.device), -1e4)
    return torch.multinomial(hard.softmax(1), 1)[:, 0]
