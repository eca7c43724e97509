"""DeCo: LLaVA-1.5 whose feature map is averaged to 144 cells before the MLP."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from omniform.connectors.pooled_mlp import PooledMlp
from omniform.spec import Layout, Learn, Source, Stage, System, Undisclosed
from omniform.systems import llava_1_5
from omniform.systems._conversations import PLAIN
from omniform.systems._llava_release import CONNECTOR, NAMED_IN, llava_release
from omniform.views.fixed import Fixed

UNPUBLISHED = Undisclosed("the repository holds no training code")

SYSTEM = replace(
    llava_1_5.SYSTEM,
    slug="deco",
    title="DeCo",
    date="2024/05",
    inputs={"image": replace(llava_1_5.SYSTEM.continuous("image"), connector=PooledMlp(positions=144, depth=2))},
    stages=(
        Stage(
            name="align",
            learn=(Learn(part="image.connector", lr=UNPUBLISHED),),
            data="llava-pretrain-558k",
            batch=UNPUBLISHED,
            epochs=UNPUBLISHED,
            schedule=UNPUBLISHED,
            warmup=UNPUBLISHED,
            weight_decay=UNPUBLISHED,
            max_positions=UNPUBLISHED,
            prompt=PLAIN,
            views={"image": Fixed(fit="crop")},
            source="arXiv:2405.20985 section 4: trained on what LLaVA-1.5 is trained on",
        ),
        Stage(
            name="instruct",
            learn=(Learn(part="image.connector", lr=UNPUBLISHED), Learn(part="backbone", lr=UNPUBLISHED)),
            data="llava-mix-665k",
            batch=UNPUBLISHED,
            epochs=UNPUBLISHED,
            schedule=UNPUBLISHED,
            warmup=UNPUBLISHED,
            weight_decay=UNPUBLISHED,
            max_positions=UNPUBLISHED,
            source="arXiv:2405.20985 section 4: trained on what LLaVA-1.5 is trained on",
        ),
    ),
    # only the connector's class was published; the rest is what it was trained on
    layout=Layout(
        rules=(("mlp_projector.", CONNECTOR + "layers."),),
        separate={
            "inputs.image.encoder.": "openai/clip-vit-large-patch14-336",
            "backbone.lm.": "lmsys/vicuna-7b-v1.5",
        },
        named_in=NAMED_IN,
    ),
    source=Source(
        paper="arXiv:2405.20985",
        code="yaolinli/DeCo@103416e README.md:26-58",
        notes="Only the connector was published; prompt, encoder and views are those of LLaVA-1.5, which it builds on.",
    ),
    published_params={"image.encoder": 303507456, "image.connector": 20979712, "backbone": 6738415616},
    variants={"64": {"inputs.image.connector": PooledMlp(positions=64, depth=2)}},
)


def from_release(config: Mapping[str, Any]) -> System:
    """The system for a LLaVA-1.5 config.json; sizes of the connector are the published class's arguments."""
    connector = PooledMlp(positions=config.get("query_num", 144), depth=config.get("layer_num", 2))
    return llava_release(SYSTEM, config, connector=connector)
