"""GILL: CLIP ViT-L/14 -> four rows -> OPT-6.7B, frozen; answers in text and with pictures, drawn or found."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from omniform.backbones.opt import OPT_6_7B
from omniform.connectors.query_transformer import QueryTransformer
from omniform.connectors.spread import Spread
from omniform.decoders.retrieved import Retrieved
from omniform.decoders.text import Text
from omniform.diffusion.stable_diffusion import STABLE_DIFFUSION_1_5
from omniform.encoders.clip import CLIP_L_224_POOLED
from omniform.frozen import FrozenMap
from omniform.fusion.splice import Splice
from omniform.parts import Rules
from omniform.prompt import Prompt
from omniform.spec import Continuous, Layout, Learn, Recast, Source, Stage, System, Undisclosed
from omniform.views.fixed import Fixed

IMAGES = tuple(f"[IMG{number}]" for number in range(8))
# gill/models.py:593-615: pictures and words as they stand, <s> (OPT's </s>) once, before the first words; 637-648: an
# answer ends with its first new line
PLAIN = Prompt(
    user="{content}",
    header="",
    answer="{text}",
    media=FrozenMap(image="{media}"),
    stop=("\n",),
)
# gill/models.py:185-250: a picture's rows before </s> and its caption; or the caption and, as the answer, the signal
CAPTION = Prompt(
    user="{content}", header="</s>", answer="{text}", media=FrozenMap(image="{media}"), bos=False, stop=("\n",),
    learn_header=True,
)  # fmt: skip

ENCODER, CONNECTOR, OUTPUT = "inputs.image.encoder.", "inputs.image.connector.", "outputs.image."
MAPPER = "model.gen_text_hidden_fcs.0."
TABLE = "backbone.lm.model.decoder.embed_tokens."
RULES: Rules = (
    ("model.visual_model.", ENCODER),
    ("model.visual_embeddings.", CONNECTOR + "layer."),
    ("model.visual_fc.", OUTPUT + "media."),
    ("model.ret_text_hidden_fcs.0.model.", OUTPUT + "words."),
    ("model.logit_scale", OUTPUT + "scale"),
    (MAPPER + "fc.", OUTPUT + "head.into."),
    (MAPPER + "tfm.", OUTPUT + "head.transformer."),
    (MAPPER + "query_embs", OUTPUT + "head.queries"),
    (MAPPER + "model.", OUTPUT + "head.out."),
    ("model.input_embeddings.", TABLE),
)
DECISION, DIFFUSION = "decision_model.pth.tar", "stable-diffusion-v1-5/stable-diffusion-v1-5"

TRAIN = Stage(
    name="train",
    learn=(
        Learn(part="image.connector", lr=1e-3),
        Learn(part="image.decoder", lr=1e-3),
        Learn(part="backbone", lr=1e-3, tokens=IMAGES),
    ),
    data="cc3m: each picture with its caption, and each caption with its picture as the answer",
    batch=400,  # 200 pairs, two documents each
    steps=20000,
    schedule=Undisclosed("a tenth after 5 epochs of 2,000 steps"),
    warmup=0.1,
    weight_decay=0.01,
    clip_norm=1.0,
    max_positions=2048,
    prompt=CAPTION,
    source="main.py:62-150, 470-560; section 4 of arXiv:2305.17216",
)

SYSTEM = System(
    slug="gill",
    title="GILL",
    date="2023/05",
    inputs={
        "image": Continuous(
            encoder=CLIP_L_224_POOLED, connector=Spread(positions=4), views=Fixed(fit="crop"), fusion=Splice()
        )
    },
    # gill/models.py:69: one row for each token; the added ones begin in the padding of OPT's table
    backbone=OPT_6_7B.but(vocab=50274),
    outputs={
        # captions count once, and those before a signal half for retrieval and half for generation (main.py:483-490):
        # the sum of the means over both documents of a pair
        "text": Text(weight=2.0),
        "image": Retrieved(
            tokens=IMAGES, learned=1, embedded=True, head=QueryTransformer(), diffusion=STABLE_DIFFUSION_1_5
        ),
    },
    prompt=PLAIN,
    stages=(TRAIN,),
    layout=Layout(
        rules=RULES,
        separate={
            ENCODER: "openai/clip-vit-large-patch14",
            "backbone.lm.": "facebook/opt-6.7b",
            OUTPUT + "choice.": DECISION,
            "diffusion.image.": DIFFUSION,
        },
        separate_rules={DECISION: (("1.", OUTPUT + "choice."),)},
        configured=False,
        recast=(Recast(ends=("embed_tokens.weight",), form="last rows", rows=len(IMAGES)),),
    ),
    source=Source(
        paper="arXiv:2305.17216",
        code="kohjingyu/gill@4600b71",
        notes="Losses here are means over a step's learned tokens and media; the original adds three means, of its "
        "three passes over each pair. It joins two pairs in half of its sequences, cuts captions to 32 tokens with the "
        "signal, and gives the [IMG] rows the mean length of the others after each step; that is not here. The "
        "classifier that decides between drawing and finding was learned apart (TrainDecisionClassifier.ipynb) and is "
        "loaded only. Stable Diffusion was fetched from runwayml/stable-diffusion-v1-5, which is gone; its copy is "
        "named here.",
    ),
    special_tokens=("<|image|>", *IMAGES),
    published_params={
        "image.encoder": 303179776, "image.connector": 16793600, "image.decoder": 31958784 + 1048832 + 262400 + 1,
        "backbone": 6658482176, "image.diffusion": 859520964 + 83653863 + 123060480,
    },
)  # fmt: skip


def from_release(config: Mapping[str, Any]) -> System:
    """The system at the sizes of a model_args.json; "opt" and "clip" hold those of its frozen models, where given."""
    image, drawn = SYSTEM.continuous("image"), SYSTEM.outputs["image"]
    encoder, backbone = image.encoder, SYSTEM.backbone
    if "clip" in config:
        names = {"width": "hidden", "layers": "layers", "heads": "heads", "mlp_dim": "intermediate", "image": "img",
                 "patch": "patch", "activation": "act"}  # fmt: skip
        encoder = encoder.but(**{field: config["clip"][key] for field, key in names.items()})
    if "opt" in config:
        sizes, heads = config["opt"], config["opt"]["heads"]
        backbone = backbone.but(
            dim=sizes["hidden"], layers=sizes["layers"], heads=heads, kv_heads=heads, mlp_dim=sizes["ffn"],
            vocab=sizes["vocab"], context=sizes["max_pos"],
        )  # fmt: skip
    fields = {"width": "mapper_hidden", "layers": "mapper_enc", "heads": "mapper_heads", "positions": "num_clip_tokens"}
    head = QueryTransformer(**{field: config[key] for field, key in fields.items() if key in config})
    head = head.but(mlp_dim=4 * head.width)
    tokens = tuple(f"[IMG{number}]" for number in range(config["num_tokens"]))
    return replace(
        SYSTEM,
        inputs={"image": replace(image, encoder=encoder, connector=Spread(positions=config["n_visual_tokens"]))},
        backbone=backbone,
        outputs={**SYSTEM.outputs, "image": drawn.but(tokens=tokens, shared=config["ret_emb_dim"], head=head)},
        special_tokens=("<|image|>", *tokens),
        stages=(),
        published_params=FrozenMap(),
    )
