"""Imp: SigLIP-SO400M at 384 px -> 2-layer MLP -> Phi-2, tuned by low-rank adapters."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from omniform.backbones.phi import PHI_2
from omniform.backbones.phi3 import PHI_3_MINI_4K
from omniform.backbones.qwen2 import QWEN1_5_1_8B
from omniform.connectors.mlp import Mlp
from omniform.decoders.text import Text
from omniform.encoders.siglip import SIGLIP_SO400M_384, SigLip
from omniform.fusion.splice import Splice
from omniform.prompt import Prompt
from omniform.spec import Continuous, Layout, Learn, Lora, Source, Stage, System
from omniform.systems._conversations import ASSISTANT, IN_FRONT, PLAIN, ending
from omniform.systems._llava_release import MLP_RULES, NAMED_IN, llava_release, variant_of
from omniform.views.fixed import Fixed

PHI2 = ending("</s>", bos=False)
# imp_llava/conversation.py:72-80, 419-429: a turn ends at its sign, the new line begins the next
QWEN2 = Prompt(
    system=ASSISTANT,
    system_turn="<|im_start|>system\n{system}<|im_end|>",
    user="\n<|im_start|>user\n{media}{text}<|im_end|>",
    header="\n<|im_start|>assistant\n",
    answer="{text}<|im_end|>",
    media=IN_FRONT,
    bos=False,
    stop=("<|im_end|>",),
)
# imp_llava/conversation.py:81-92, 337-347
PHI3 = Prompt(
    system=ASSISTANT,
    system_turn="<|system|>\n{system}<|end|>",
    user="\n<|user|>\n{media}{text}<|end|>",
    header="\n<|assistant|>\n",
    answer="{text}<|end|>",
    media=IN_FRONT,
    stop=("<|end|>",),
)

PRETRAIN = Stage(
    name="pretrain",
    learn=(Learn(part="image.connector", lr=1e-3),),
    data="llava-pretrain-558k",
    batch=256,
    max_positions=3072,
    prompt=replace(PLAIN, bos=False),
    source="scripts/pretrain.sh:15-41, on 8 GPUs",
)

SYSTEM = System(
    slug="imp",
    title="Imp",
    date="2024/05",
    inputs={
        "image": Continuous(
            # the layers after the chosen one are deleted, norm and head left out
            # (imp_llava/model/multimodal_encoder/clip_encoder.py:19-100)
            encoder=SIGLIP_SO400M_384.but(layers=26, feature_layer=-1, post_norm=False, head=False),
            connector=Mlp(depth=2),
            views=Fixed(fit="squash"),
            fusion=Splice(),
        )
    },
    backbone=PHI_2,
    outputs={"text": Text()},
    prompt=PHI2,
    special_tokens=("</s>",),
    stages=(
        PRETRAIN,
        Stage(
            name="finetune",
            learn=(Learn(part="image.connector", lr=2e-5),),
            lora=Lora(rank=256, alpha=256, dropout=0.05, lr=2e-4),
            data="llava-mix-665k",
            batch=128,
            epochs=2.0,
            max_positions=3072,
            source="scripts/finetune_lora.sh:13-44, on 8 GPUs; dropout imp_llava/train/train.py:107-112",
        ),
    ),
    layout=Layout(
        rules=MLP_RULES,
        named_in=NAMED_IN,
        architectures=("ImpForCausalLM",),
        transformers="LlavaForConditionalGeneration",
    ),
    source=Source(
        paper="arXiv:2405.12107",
        code="MILVLG/imp@363a9bb",
        notes="The adapters also cover the output head (imp_llava/train/train.py:174-188). Version 1.5 adds about 1M "
        "samples that were not published.",
    ),
    published_params={"image.encoder": 397745440, "image.connector": 9507840, "backbone": 2779683840},
    survey_notes={"llm_backbone": "the survey leaves out the sizes on Qwen1.5 and Phi-3"},
    variants={
        "3b-196": {"inputs.image.encoder.image": 196},
        "2b": {
            "backbone": QWEN1_5_1_8B, "prompt": QWEN2, "special_tokens": (),
            "layout.architectures": ("ImpQwen2ForCausalLM",), "published_params": {"total": 2241131808},
        },
        "4b": {
            "backbone": PHI_3_MINI_4K, "prompt": PHI3, "special_tokens": (), "stages.pretrain.prompt": PLAIN,
            "layout.architectures": ("ImpPhi3ForCausalLM",), "published_params": {"total": 4231807264},
        },
    },
)  # fmt: skip


def from_release(config: Mapping[str, Any]) -> System:
    """The system as a release's config.json has it; the tower keeps the layers up to the chosen one."""
    system = variant_of(SYSTEM, config)
    encoder: Any = system.continuous("image").encoder
    own = config.get("vision_config") or config.get("vision_tower_config")
    if own:
        fields = SigLip.fields_of(own)
        run = fields["layers"] + 1 + config.get("mm_vision_select_layer", -2)
        encoder = encoder.but(**{**fields, "layers": run})
    return llava_release(system, config, encoder=encoder)
