"""Conversation templates that several systems share.

Each names the lines of the code base that it was read from; what is learned follows that code's label masks. A picture
stands before its turn's words, on a line of its own, unless a template says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from omniform.frozen import FrozenMap
from omniform.prompt import Join, Prompt

ASSISTANT = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
HUMAN = ASSISTANT.replace("curious user", "curious human").replace("the user's", "the human's")
HELPFUL = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the user "
    "provides, and assist the user with a variety of tasks using natural language."
)
IN_FRONT: Mapping[str, str] = FrozenMap(image="{media}\n")
"""haotian-liu/LLaVA@c121f04 llava/train/train.py:317-321."""

# haotian-liu/LLaVA@c121f04 llava/conversation.py:242-252, labels llava/train/train.py:414-497: the blank after the
# header is learned with the answer
VICUNA_V1 = Prompt(
    system=ASSISTANT,
    system_turn="{system} ",
    user="USER: {media}{text} ",
    header="ASSISTANT:",
    answer=" {text}</s>",
    media=IN_FRONT,
    stop=("</s>",),
)
# conversation.py:291-299, labels train.py:588-607: the user's words are dropped
PLAIN = Prompt(user="{media}", header="", answer="{text}\n", media={"image": "{media}"}, stop=("\n",))

# haotian-liu/LLaVA@ddcd5ac llava/train/train.py:238-267: every turn begins with a sign. It is learned where it ends an
# answer, and before a user's words too, because the mask leaves out two tokens; a last sign closes the conversation
V0 = Prompt(
    system=HUMAN,
    system_turn="{system}\n\n",
    user="### Human: {content}\n",
    user_learned="###",
    join=Join(lead="\n"),
    header="### Assistant:",
    learn_header=True,
    answer=" {text}\n",
    last_answer=" {text}\n### ",
    media={"image": "{media}"},
    stop=("###",),
)

# haotian-liu/LLaVA@c121f04 llava/conversation.py:73-93, 267-278, labels llava/train/train.py:332-411: the blanks
# around an answer are learned with it
LLAMA_2 = Prompt(
    system=HELPFUL,
    system_turn="<<SYS>>\n{system}\n<</SYS>>\n\n",
    first_user="[INST] {system}{media}{text} [/INST]",
    user="<s>[INST] {media}{text} [/INST]",
    header="",
    answer=" {text} </s>",
    media=IN_FRONT,
    stop=("</s>",),
)

# haotian-liu/LLaVA@c121f04 llava/conversation.py:64-72, 361-370: no new line between turns
CHATML_DIRECT = Prompt(
    system="Answer the questions.",
    system_turn="<|im_start|>system\n{system}<|im_end|>",
    user="<|im_start|>user\n{media}{text}<|im_end|>",
    header="<|im_start|>assistant\n",
    answer="{text}<|im_end|>",
    media=IN_FRONT,
    stop=("<|im_end|>",),
)

# LLaVA-VL/LLaVA-NeXT@df17966 llava/conversation.py:85-95, 443-452, labels llava/train/train.py:563-636: headers are
# learned too, and every marker and new line of all turns. A picture alone in its turn moves to the front
# (train.py:391-395); of several each stays where it stands
QWEN_1_5 = Prompt(
    system="You are a helpful assistant.",
    system_turn="<|im_start|>system\n{system}<|im_end|>\n",
    user="<|im_start|>user\n{content}<|im_end|>\n",
    join=Join(lead="\n", lone_first=True),
    header="<|im_start|>assistant\n",
    learn_header=True,
    answer="{text}<|im_end|>\n",
    media={"image": "{media}", "video": "{media}"},
    always_learned=("<|im_start|>", "<|im_end|>", "\n"),
    bos=False,
    stop=("<|im_end|>",),
)


def ending(sign: str, *, bos: bool) -> Prompt:
    """`VICUNA_V1` with another sign after answers, which stops them."""
    return replace(VICUNA_V1, answer=f" {{text}}{sign}", stop=(sign,), bos=bos)
