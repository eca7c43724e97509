"""What is exported is loaded by transformers' own classes and gives the same numbers."""

import json
import os

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, AutoTokenizer
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES

from omniform import index
from omniform.connectors.mlp import Mlp
from omniform.data.document import Document, Media, Text
from omniform.data.media import frames_of, views_of
from omniform.data.packing import pack
from omniform.data.processor import Processor
from omniform.data.tokenizer import train_tokenizer
from omniform.views.fixed import Fixed
from omniform.weights import export
from omniform.weights.export import ExportError, export_transformers
from omniform.weights.layout import CheckpointError

TOLERANCE = 1e-4
SPECIAL = (
    "<|im_start|>", "<|im_end|>", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "\n\n",
)  # fmt: skip


def sizes():
    """Every system that names a class, and its other sizes, by family of the language model."""
    for slug in index.names("systems"):
        base = index.system(slug)
        if base.layout.transformers:
            kinds = {type(base.variant(v).backbone).__name__: v for v in [*base.variants][::-1]}
            yield from [slug, *(f"{slug}:{v}" for v in kinds.values())]


def picture(width, height):
    pixels = np.random.default_rng(width * height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["what is this cat and that dog"], special=SPECIAL, size=300)


def tiny(name, **changes):
    torch.manual_seed(7)
    return index.system(name).shrunk("tiny").but({"backbone.vocab": 400, **changes}).build().eval()


class Pair:
    """Our model and what transformers made of its export."""

    def __init__(self, model, tokenizer, folder):
        export_transformers(model, tokenizer.inner, folder)
        self.model, self.folder = model, folder
        self.theirs = AutoModelForImageTextToText.from_pretrained(folder)
        self.processor = Processor(model.system, tokenizer)

    def pixels(self, images):
        """What the exported image processor gives; older transformers finds it by name only beside torchvision."""
        name = IMAGE_PROCESSOR_MAPPING_NAMES[self.theirs.config.model_type]["pil"]
        return getattr(transformers, name).from_pretrained(self.folder)(images=images, return_tensors="pt")

    def load(self, item):
        return views_of(frames_of(item.media), item.plan, self.model.system.continuous("image").encoder.resample)

    def compare(self, document, **fed):
        """Largest difference of the logits over the largest logit, and the ids that transformers is given."""
        sample = self.processor.sample(document, answer_next=True)
        ids = torch.from_numpy(sample.ids.copy())[None]
        for item in sample.media:
            ids[0, item.at] = self.theirs.config.to_dict()[f"{item.modality}_token_index"]
        with torch.no_grad():
            ours = self.model.backbone.logits(self.model.hidden(pack([sample], self.load)))
            theirs = self.theirs(input_ids=ids, **fed).logits[0, :, : ours.shape[1]]
        assert ours.abs().max() > 0.01
        return float((ours - theirs).abs().max() / ours.abs().max()), ids


HEAD = r"transformers has no place for backbone\.lm\.lm_head\.bias"
REFUSED = {
    "bunny": "S2", "bunny:v1.1-4b": "S2", "imp": HEAD, "imp:3b-196": HEAD, "tinyllava": HEAD,
    "tinyllava:phi-2-base": HEAD, "tinyllava:gemma-2b": "GemmaModule",
}  # fmt: skip


@pytest.mark.parametrize("name", [n for n in sizes() if n not in REFUSED])
@pytest.mark.parametrize("size", [(40, 30), (60, 20)], ids=str)
def test_the_same_logits(name, size, tokenizer, tmp_path):
    pair = Pair(tiny(name), tokenizer, tmp_path / "out")
    assert type(pair.theirs).__name__ == pair.model.system.layout.transformers
    pixels = pair.pixels(picture(*size))
    error, _ = pair.compare(Document.ask("what is this", image=picture(*size)), **pixels)
    assert error <= TOLERANCE


@pytest.mark.parametrize("fit", ["crop", "squash", "pad"])
def test_every_way_to_fit_a_picture(fit, tokenizer, tmp_path):
    model = tiny("llava-1.5", **{"inputs.image.views": Fixed(fit=fit)})
    pair = Pair(model, tokenizer, tmp_path / "out")
    pixels = pair.pixels(picture(50, 33))
    error, _ = pair.compare(Document.ask("what is this", image=picture(50, 33)), **pixels)
    assert error <= TOLERANCE


@pytest.mark.parametrize("name", [n for n in sizes() if ":" not in n and n not in REFUSED and n != "llava-onevision"])
def test_the_processor_gives_our_ids(name, tokenizer, tmp_path):
    """Text with one mark for a picture becomes as many positions as we plan."""
    pair = Pair(tiny(name), tokenizer, tmp_path / "out")
    document = Document.ask("what is this", image=picture(60, 20))
    prompt = pair.model.system.prompt.render(document.turns(), answer_next=True)
    text = "".join("<image>" if p.media is not None else p.text for p in prompt)
    inputs = AutoProcessor.from_pretrained(tmp_path / "out")(text=text, images=picture(60, 20), return_tensors="pt")
    error, ids = pair.compare(document, **{k: v for k, v in inputs.items() if k not in ("input_ids", "attention_mask")})
    assert error <= TOLERANCE
    own = ids[0, 1:] if pair.model.system.prompt.bos else ids[0]  # this tokenizer adds no begin token by itself
    assert torch.equal(inputs["input_ids"][0], own)


def test_video_and_several_pictures(tokenizer, tmp_path):
    name = next(n for n in sizes() if "video" in index.system(n).inputs)
    pair = Pair(tiny(name), tokenizer, tmp_path / "out")
    normalise = pair.model.inputs.image.encoder.normalise
    document = Document.ask("what is this", video=[picture(30, 20) for _ in range(3)])
    frames = normalise(pair.load(pair.processor.sample(document).media[0]))
    error, _ = pair.compare(document, pixel_values_videos=frames[None])
    assert error <= TOLERANCE
    two = (Media("image", picture(40, 30)), Text(" and "), Media("image", picture(20, 30)), Text(" what"))
    images = [[picture(40, 30), picture(20, 30)]]
    pixels = pair.pixels(images)
    error, _ = pair.compare(Document(two), **pixels)
    assert error <= TOLERANCE
    video = json.loads((tmp_path / "out" / "video_preprocessor_config.json").read_text())
    assert video["size"] == {"height": 24, "width": 24} and video["image_mean"] == [0.5, 0.5, 0.5]


def test_the_image_token_takes_a_row_of_its_own(tokenizer, tmp_path):
    exact = tokenizer.size
    model = tiny("llava-1.5", **{"backbone.vocab": exact})
    pair = Pair(model, tokenizer, tmp_path / "out")
    token = AutoTokenizer.from_pretrained(tmp_path / "out").convert_tokens_to_ids("<image>")
    assert pair.theirs.config.image_token_index == token == exact
    rows = pair.theirs.get_input_embeddings().weight
    assert rows.shape == (exact + 1, 32)
    assert torch.allclose(rows[-1], rows[:-1].mean(0), atol=1e-6)
    assert tokenizer.size == exact  # the caller's stays as it is
    pixels = pair.pixels(picture(40, 40))
    assert pair.compare(Document.ask("what", image=picture(40, 40)), **pixels)[0] <= TOLERANCE


def test_tied_embeddings_and_precision(tokenizer, tmp_path):
    model = tiny("llava-1.5", **{"backbone.tied": True}).bfloat16()
    export_transformers(model, tokenizer.inner, tmp_path / "out")
    theirs = AutoModelForImageTextToText.from_pretrained(tmp_path / "out", dtype="auto")
    assert theirs.dtype == torch.bfloat16
    assert theirs.lm_head.weight is theirs.get_input_embeddings().weight
    assert torch.equal(theirs.lm_head.weight[:400], model.backbone.lm.lm_head.weight)


@pytest.mark.parametrize("name", REFUSED)
def test_what_differs_is_refused(name, tokenizer, tmp_path):
    with pytest.raises(ExportError, match=REFUSED[name]) as caught:
        export_transformers(tiny(name), tokenizer.inner, tmp_path / "out")
    assert "cannot be exported" in str(caught.value) and os.listdir(tmp_path) == []


@pytest.mark.parametrize("slug", [s for s in index.names("systems") if not index.system(s).layout.transformers])
def test_systems_without_a_class_are_refused(slug, tokenizer, tmp_path):
    with pytest.raises(ExportError, match=f"^{slug} cannot be exported"):
        export_transformers(tiny(slug), tokenizer.inner, tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inputs.image.connector": Mlp(depth=3)}, r"connector Mlp\(depth=3\) is not the MLP of two layers"),
        ({"inputs.image.views": Fixed(fit="pad", fill=(0, 0, 0))}, "padded with the mean colour"),
        ({"layout.transformers": ""}, r"transformers has no class for it \(Layout\.transformers\)"),
        ({"layout.transformers": "AutoTokenizer"}, rf"transformers {transformers.__version__} has no AutoTokenizer"),
    ],
)
def test_changes_that_do_not_fit(changes, message, tokenizer, tmp_path):
    with pytest.raises(ExportError, match=message):
        export_transformers(tiny("llava-1.5", **changes), tokenizer.inner, tmp_path / "out")


def test_a_failing_export_leaves_nothing(tokenizer, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export, "_save_processor", full)
    with pytest.raises(CheckpointError, match=r"cannot write .*out: .*No space left"):
        export_transformers(tiny("llava-1.5"), tokenizer.inner, tmp_path / "out")
    assert os.listdir(tmp_path) == []
