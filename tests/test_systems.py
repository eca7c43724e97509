"""Systems as written down: every size shrinks and builds, every stage says where it is from, prompts are literal."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from omniform import index, survey
from omniform.cost.parameters import parameters
from omniform.prompt import Piece, Turn
from omniform.spec import Stage, System, Undisclosed

SYSTEMS = index.names("systems")
TURNS = (
    Turn("user", (("image", 0), "What is this?")),
    Turn("assistant", ("A cat.",)),
    Turn("user", ("Why?",)),
    Turn("assistant", ("Ears.",)),
)
PLACE = re.compile(r":\d|\.(sh|py|yaml|json|md)\b|arXiv:\d|https://")
"""A file, at best with its line; a paper, or a page."""

USER = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
HUMAN = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)
HELPFUL = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the user "
    "provides, and assist the user with a variety of tasks using natural language."
)
VICUNA = USER + " USER: <image>\nWhat is this? ASSISTANT: A cat.{0}USER: Why? ASSISTANT: Ears.{0}"
MARKED = USER + " USER: <im_start><image><im_end>{0}What is this? ASSISTANT: A cat.</s>USER: Why? ASSISTANT: Ears.</s>"
V0 = HUMAN + "\n\n### Human: {0}\nWhat is this?\n### Assistant: A cat.\n### Human: Why?\n### Assistant: Ears.\n### "
CHATML = (
    "<|im_start|>system\n{0}<|im_end|>{1}<|im_start|>user\n<image>{2}What is this?<|im_end|>{1}<|im_start|>assistant\n"
    "A cat.<|im_end|>{1}<|im_start|>user\nWhy?<|im_end|>{1}<|im_start|>assistant\nEars.<|im_end|>{1}"
)
LLAMA_3 = (
    "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n" + HELPFUL + "{0}"
    "<|start_header_id|>user<|end_header_id|>\n\n<image>\nWhat is this?{0}"
    "<|start_header_id|>{1}<|end_header_id|>\n\nA cat.{0}<|start_header_id|>user<|end_header_id|>\n\nWhy?{0}"
    "<|start_header_id|>{1}<|end_header_id|>\n\nEars.{2}"
)
LLAMA_2 = "<image>\nWhat is this? [/INST] A cat. </s>{0}[INST] Why? [/INST] Ears. </s>"
IMP_QWEN = CHATML.format(USER, "\n", "\n").removesuffix("\n")
PROMPTS = {
    "llava": (MARKED.format("\n"), ("</s>",)),
    "llava:7b-v0": (V0.format("<im_start><image><im_end>"), ("###",)),
    "llava:13b-336": (VICUNA.format("</s>"), ("</s>",)),
    "llava:7b-llama-2": (f"[INST] <<SYS>>\n{HELPFUL}\n<</SYS>>\n\n" + LLAMA_2.format("<s>"), ("</s>",)),
    "llava:7b-mpt": (
        CHATML.format(
            "A conversation between a user and an LLM-based AI assistant. The assistant gives helpful and honest "
            "answers.", "", "\n",
        ),
        ("<|im_end|>",),
    ),
    "llava-1.5": (VICUNA.format("</s>"), ("</s>",)),
    "llava-next": (VICUNA.format("</s>"), ("</s>",)),
    "llava-next:mistral-7b": ("[INST] " + LLAMA_2.format(""), ("</s>",)),
    "llava-next:34b": (CHATML.format("Answer the questions.", "", "\n"), ("<|im_end|>",)),
    "llava-next:llama3-8b": (LLAMA_3.format("<|eot_id|>", "assistant", "<|eot_id|>"), ("<|eot_id|>",)),
    "llava-next:72b": (CHATML.format("You are a helpful assistant.", "\n", "\n"), ("<|im_end|>",)),
    "llava-onevision": (CHATML.format("You are a helpful assistant.", "\n", "\n"), ("<|im_end|>",)),
    "sharegpt4v": (VICUNA.format("</s>"), ("</s>",)),
    "deco": (VICUNA.format("</s>"), ("</s>",)),
    "yi-vl": (
        V0.replace(
            HUMAN,
            "This is a chat between an inquisitive human and an AI assistant. Assume the role of the AI assistant. "
            "Read all the images carefully, and respond to the human's questions with informative, helpful, detailed "
            "and polite answers. 这是一个好奇的人类和一个人工智能助手之间的对话。假设你扮演这个AI助手的角色。"
            "仔细阅读所有的图像，并对人类的问题做出信息丰富、有帮助、详细的和礼貌的回答。",  # noqa: RUF001
        ).format("<image>"),
        ("###",),
    ),
    "imp": (VICUNA.format("</s>"), ("</s>",)),
    "imp:2b": (IMP_QWEN, ("<|im_end|>",)),
    "imp:4b": (
        IMP_QWEN.replace("<|im_end|>", "<|end|>").replace("<|im_start|>system", "<|system|>")
        .replace("<|im_start|>user", "<|user|>").replace("<|im_start|>assistant", "<|assistant|>"),
        ("<|end|>",),
    ),
    "bunny": (VICUNA.format("<|end_of_text|>"), ("<|end_of_text|>",)),
    "bunny:v1.1-4b": (VICUNA.format("<|endoftext|>"), ("<|endoftext|>",)),
    "bunny:v1.0-3b": (VICUNA.format("<|endoftext|>"), ("<|endoftext|>",)),
    "tinyllava": (VICUNA.format("<|endoftext|>"), ("<|endoftext|>",)),
    "tinyllava:gemma-2b": (VICUNA.format("<eos>"), ("<eos>",)),
    "tinyllava:tinyllama": (VICUNA.format("</s>"), ("</s>",)),
    "tinyllava:qwen2-0.5b-instruct": (VICUNA.format("<|im_end|>"), ("<|im_end|>",)),
    "shikra": (MARKED.format(" "), ("</s>",)),
    "vila": (LLAMA_3.format("<|end_of_text|>", "system", "<|end_of_text|>"), ("<|end_of_text|>",)),
    "vila:1.5-8b-fix": (
        LLAMA_3.format("<|eot_id|>", "assistant", "<|end_of_text|>"), ("<|eot_id|>", "<|end_of_text|>"),
    ),
    "vila:1.5-3b": (VICUNA.format("</s>"), ("</s>",)),
    "qwen2-vl": (
        CHATML.replace("<image>", "<|vision_start|><image><|vision_end|>").format(
            "You are a helpful assistant.", "\n", ""
        ),
        ("<|im_end|>",),
    ),
    "vila:nvila-8b": (CHATML.format("You are a helpful assistant", "\n", ""), ("<|im_end|>",)),
    "cogvlm": ("<image>Question: What is this? Answer: A cat.\nQuestion: Why? Answer:Ears.</s>", ("</s>",)),
    "cogvlm:vqa": (
        "<image>Question: What is this? Short answer:A cat.</s>Question: Why? Short answer:Ears.</s>", ("</s>",),
    ),
    "cogvlm2": (
        "<image>Question: What is this? Answer: A cat.\nQuestion: Why? Answer:Ears.<|end_of_text|>",
        ("<|end_of_text|>",),
    ),
    "glm-4v": (
        "[gMASK]<sop><|user|>\n<image>What is this?<|assistant|>\nA cat.<|user|>\nWhy?<|assistant|>\nEars.",
        ("<|user|>", "<|observation|>", "<|endoftext|>"),
    ),
    "cogvlm:grounding-generalist": ("<image>What is this?A cat.</s>Why?Ears.</s>", ("</s>",)),
}  # fmt: skip
"""System or size -> its prompt for two turns about a picture, and what ends an answer."""

LEARNED = {
    "llava-1.5": [" A cat.</s>", " Ears.</s>"],
    "llava:7b-v0": ["###", "### Assistant: A cat.\n###", "### Assistant: Ears.\n### "],
    "llava-next:mistral-7b": [" A cat. </s>", " Ears. </s>"],
    "llava-next:34b": ["A cat.<|im_end|>", "Ears.<|im_end|>"],
    "llava-onevision": ["<|im_start|>assistant\nA cat.<|im_end|>\n", "<|im_start|>assistant\nEars.<|im_end|>\n"],
    "imp:2b": ["A cat.<|im_end|>", "Ears.<|im_end|>"],
    "qwen2-vl": ["A cat.<|im_end|>\n", "Ears.<|im_end|>\n"],
    "vila:nvila-8b": ["A cat.<|im_end|>", "Ears.<|im_end|>"],
    "cogvlm": [" A cat.\n", "Ears.</s>"],
    "cogvlm2": [" A cat.\n", "Ears.<|end_of_text|>"],
    "glm-4v": ["<|assistant|>\nA cat.", "<|assistant|>\nEars."],
    "cogvlm:base-490": ["A cat.</s>", "Ears.</s>"],
}
"""System or size -> the runs of characters that are learned."""


def sizes(slug: str) -> Iterator[System]:
    whole = index.system(slug)
    yield whole
    yield from (whole.variant(name) for name in whole.variants)


def string(pieces: list[Piece]) -> str:
    return "".join("<image>" if p.media is not None else p.text for p in pieces)


# --- prompts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PROMPTS)
def test_prompts_are_literal(name: str) -> None:
    prompt = index.system(name).prompt
    assert string(prompt.render(TURNS)) == PROMPTS[name][0]
    assert prompt.stop == PROMPTS[name][1]


@pytest.mark.parametrize("name", PROMPTS)
def test_a_question_ends_where_the_answer_is_learned(name: str) -> None:
    prompt = index.system(name).prompt
    asked = string(prompt.render(TURNS[:3], answer_next=True))
    assert asked.endswith(prompt.header)
    assert PROMPTS[name][0].startswith(asked)
    assert PROMPTS[name][0].removeprefix(asked).strip().startswith("Ears.")


@pytest.mark.parametrize("name", LEARNED)
def test_what_is_learned(name: str) -> None:
    pieces = index.system(name).prompt.render(TURNS)
    runs = re.split("\0+", "".join(p.text if p.learn else "\0" for p in pieces))
    assert [run for run in runs if run] == LEARNED[name]


@pytest.mark.parametrize("slug", ["llava-1.5", "sharegpt4v", "llava-next", "imp", "bunny", "tinyllava", "vila", "deco"])
def test_the_first_stage_learns_captions_alone(slug: str) -> None:
    plain = index.system(slug).stages[0].prompt
    assert plain is not None
    pieces = plain.render(TURNS[:2])
    assert string(pieces) == "<image>A cat.\n"
    assert [p.text for p in pieces if p.learn] == ["A cat.", "\n"]


# --- sizes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slug", SYSTEMS)
def test_types_equal_the_survey(slug: str) -> None:
    if slug in survey.by_slug():
        row = survey.row(slug)
        for system in sizes(slug):
            assert (system.input_type, str(system.output_type)) == (row.input_type, row.output_type)


@pytest.mark.parametrize("slug", SYSTEMS)
def test_every_size_declares_the_published_counts(slug: str) -> None:
    whole = index.system(slug)
    stated = [v for v, changes in whole.variants.items() if "published_params" in changes]
    for system in (whole, *map(whole.variant, stated)):
        declared = parameters(system)
        declared["total"] = sum(declared.values())
        for part, published in system.published_params.items():
            assert declared[part] == pytest.approx(published, rel=0.01), part


@pytest.mark.parametrize("slug", SYSTEMS)
def test_every_size_shrinks_and_builds(slug: str) -> None:
    for system in sizes(slug):
        small = system.shrunk("tiny")
        model = small.build()
        assert sum(p.numel() for p in model.parameters()) < 1_000_000
        assert small.prompt == system.prompt
        assert [s.name for s in small.stages] == [s.name for s in system.stages]
    nano = index.system(slug).shrunk("nano").build()
    assert sum(p.numel() for p in nano.parameters()) < 10_000_000


# --- stages ------------------------------------------------------------------------------------------------------


def numbers(stage: Stage) -> list[Any]:
    """Every number of a stage that its source must tell."""
    rates = [item.lr for item in stage.learn] + ([stage.lora.lr] if stage.lora else [])
    return [*rates, stage.batch, stage.epochs, stage.schedule, stage.warmup, stage.weight_decay, stage.max_positions]


@pytest.mark.parametrize("slug", SYSTEMS)
def test_every_stage_says_where_its_numbers_stand(slug: str) -> None:
    for system in sizes(slug):
        assert system.stages
        assert len({s.name for s in system.stages}) == len(system.stages)
        for stage in system.stages:
            assert stage.learn or stage.lora
            assert PLACE.search(stage.source), f"{stage.name}: {stage.source!r} names no file, paper or page"
            for value in numbers(stage):
                assert not isinstance(value, Undisclosed) or value.note


# --- releases ----------------------------------------------------------------------------------------------------

LLAMA = {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "intermediate_size": 11008}
CLIP = {"mm_vision_select_layer": -2, "mm_vision_select_feature": "patch", "mm_hidden_size": 1024}
YI = {**LLAMA, "vocab_size": 64000, "num_key_value_heads": 4, "rope_theta": 5e6, "rms_norm_eps": 1e-5}
QWEN = {
    "hidden_size": 896, "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2,
    "intermediate_size": 4864, "rope_theta": 1e6, "tie_word_embeddings": True, "max_position_embeddings": 32768,
}  # fmt: skip
SIGLIP = {
    "model_type": "siglip_vision_model", "hidden_size": 1152, "num_hidden_layers": 27, "num_attention_heads": 16,
    "intermediate_size": 4304, "patch_size": 14, "image_size": 448, "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
}  # fmt: skip
PHI = {
    "hidden_size": 2560, "num_hidden_layers": 32, "num_attention_heads": 32, "intermediate_size": 10240,
    "vocab_size": 51200, "partial_rotary_factor": 0.4, "max_position_embeddings": 2048,
}  # fmt: skip
EVA_E = {
    "hidden_size": 1792, "image_size": 490, "intermediate_size": 15360, "num_heads": 16, "num_hidden_layers": 63,
    "patch_size": 14, "layer_norm_eps": 1e-6, "hidden_act": "gelu", "num_positions": 1226,
}  # fmt: skip
RELEASES = {
    "llava-1.5": (
        {**LLAMA, **CLIP, "vocab_size": 32000, "rms_norm_eps": 1e-5, "max_position_embeddings": 4096,
         "mm_projector_type": "mlp2x_gelu", "image_aspect_ratio": "pad", "architectures": ["LlavaLlamaForCausalLM"]},
        "llava-1.5",
    ),
    "llava": ({**LLAMA, **CLIP, "vocab_size": 32004, "rms_norm_eps": 1e-6}, "llava:7b-v0"),
    "llava-next": (
        {**LLAMA, **CLIP, "vocab_size": 32000, "num_key_value_heads": 8, "intermediate_size": 14336,
         "rms_norm_eps": 1e-5, "rope_theta": 1e6, "max_position_embeddings": 32768, "sliding_window": None,
         "mm_projector_type": "mlp2x_gelu", "image_aspect_ratio": "anyres", "mm_patch_merge_type": "spatial_unpad",
         "image_grid_pinpoints": "[(336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008)]",
         "architectures": ["LlavaMistralForCausalLM"]},
        "llava-next:mistral-7b",
    ),
    "llava-onevision": (
        {**QWEN, "vocab_size": 151936, "mm_projector_type": "mlp2x_gelu", "image_aspect_ratio": "anyres_max_9",
         "image_grid_pinpoints": "(1x1),...,(6x6)", "mm_hidden_size": 1152, "mm_vision_select_layer": -2,
         "architectures": ["LlavaQwenForCausalLM"]},
        "llava-onevision:0.5b",
    ),
    "yi-vl": (
        {**YI, **CLIP, "mm_projector_type": "mlp2x_gelu_Norm", "image_aspect_ratio": "pad", "mm_hidden_size": 1280,
         "max_position_embeddings": 4096},
        "yi-vl",
    ),
    "bunny": (
        {**PHI, "mm_projector_type": "mlp2x_gelu", "image_aspect_ratio": "pad", "mm_hidden_size": 1152,
         "architectures": ["BunnyPhiForCausalLM"]},
        "bunny:v1.0-3b",
    ),
    "imp": (
        {**PHI, "mm_projector_type": "mlp2x_gelu", "image_aspect_ratio": "square", "mm_vision_select_layer": -2},
        "imp",
    ),
    "tinyllava": (
        {"text_config": {**QWEN, "model_type": "qwen2", "vocab_size": 151936}, "connector_type": "mlp2x_gelu",
         "image_aspect_ratio": "square"},
        "tinyllava:qwen2-0.5b",
    ),
    "qwen2-vl": (
        {**QWEN, "hidden_size": 1536, "num_hidden_layers": 28, "num_attention_heads": 12, "intermediate_size": 8960,
         "vocab_size": 151936, "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
         "vision_config": {"depth": 32, "embed_dim": 1280, "mlp_ratio": 4, "num_heads": 16, "hidden_size": 1536,
                           "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2},
         "architectures": ["Qwen2VLForConditionalGeneration"]},
        "qwen2-vl:2b",
    ),
    "cogvlm": (
        {**LLAMA, "vocab_size": 32000, "rms_norm_eps": 1e-5, "max_position_embeddings": 4096,
         "template_version": "chat", "vision_config": EVA_E,
         "architectures": ["CogVLMForCausalLM"]},
        "cogvlm:chat-hf",
    ),
    "cogvlm2": (
        {**LLAMA, "vocab_size": 128256, "num_multi_query_heads": 8, "intermediate_size": 14336, "rms_norm_eps": 1e-5,
         "max_position_embeddings": 8192, "template_version": "chat",
         "vision_config": {**EVA_E, "image_size": 1344, "num_positions": 9217},
         "architectures": ["CogVLMForCausalLM"]},
        "cogvlm2",
    ),
    "glm-4v": (
        {"hidden_size": 4096, "num_layers": 40, "num_attention_heads": 32, "multi_query_group_num": 2,
         "ffn_hidden_size": 13696, "kv_channels": 128, "padded_vocab_size": 151552, "seq_length": 8192,
         "layernorm_epsilon": 1.5625e-07, "rope_ratio": 1, "add_qkv_bias": True,
         "vision_config": {**EVA_E, "image_size": 1120, "num_positions": 6401, "scaling_factor": 8}},
        "glm-4v",
    ),
    "vila": (
        {"llm": {**QWEN, "hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28, "vocab_size": 151648,
                 "num_key_value_heads": 4, "intermediate_size": 18944, "tie_word_embeddings": False,
                 "model_type": "qwen2"},
         "vision_tower": SIGLIP, "mm_projector": {"mm_projector_type": "mlp_downsample"}, "dynamic_s2": True,
         "image_aspect_ratio": "dynamic_s2", "s2_scales": "448,896,1344", "mm_vision_select_feature": "cls_patch"},
        "vila:nvila-8b",
    ),
}  # fmt: skip
"""System -> the configuration of one release, and the size that it is."""


@pytest.mark.parametrize("slug", RELEASES)
def test_a_configuration_gives_the_size_it_was_released_for(slug: str) -> None:
    config, name = RELEASES[slug]
    found, wanted = index.release(slug, config), index.system(name)
    assert found.backbone == wanted.backbone
    assert found.inputs == wanted.inputs
    assert (found.prompt, found.layout) == (wanted.prompt, wanted.layout)
