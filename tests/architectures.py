"""The architectures that users align, as tiny random-weight models of their real classes: what each reads and needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import factories
import numpy as np
import transformers as hf
from encoder_decoder_factories import bart, t5, t5gemma
from factories import _text_sizes, tokenizer
from multimodal_factories import (
    GEMMA3,
    built,
    gemma3_vision,
    idefics3,
    internvl,
    llava,
    llava_next,
    llava_onevision,
    paligemma,
    video_llava,
)
from qwen_factories import qwen, qwen2_audio, qwen_omni

from omnipref.preferences import Case, Comparison, Message, Part, Preference, pair, ranked


def text(config: type, **changes: Any) -> Callable[[], tuple[Any, Any]]:
    """A factory of text models."""
    return lambda: (built(config(**_text_sizes(**changes)), hf.AutoModelForCausalLM), tokenizer())


@dataclass(frozen=True)
class Architecture:
    """A model class, what it reads, and the layout that its policy chooses.

    Args:
        make: returns model and processor.
        reads: kinds of media.
        layout: `forest`, or `rows` or `encoder-decoder` with a reason.
        reason: why rows.
        answer_type: token type of the answer in the model's own forward pass.
        note: what is particular to it, for the table in the documentation.
        chat: whether it has a chat template.
        float32_inside: whether its layers compute in float32 even in a float64 model: it agrees to 1e-6 then, and a row
            of padding wider than a window overflows.
    """

    make: Callable[[], tuple[Any, Any]]
    reads: tuple[str, ...] = ()
    layout: str = "forest"
    reason: str = ""
    answer_type: int = 0
    note: str = ""
    chat: bool = True
    float32_inside: bool = False

    @property
    def tolerance(self) -> float:
        """Largest difference in nats that the model's own precision explains."""
        return 1e-6 if self.float32_inside else 1e-10


# The grouped products that experts run as by default know no float64.
EXPERTS: dict[str, Any] = {"num_experts_per_tok": 2, "experts_implementation": "eager"}
ENCODER_DECODER = "is an encoder-decoder"
PICTURES = ("image",)
CLIPS = ("image", "video")
NEXT: dict[str, Any] = {
    "head_dim": 8,
    "linear_num_value_heads": 2,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "num_experts": 4,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
    "layer_types": ["linear_attention", "full_attention"],
}

ARCHITECTURES: dict[str, Architecture] = {
    "LlamaForCausalLM": Architecture(text(hf.LlamaConfig)),
    "Qwen2ForCausalLM": Architecture(
        text(hf.Qwen2Config, use_sliding_window=True, sliding_window=6, max_window_layers=1),
        note="full layers, then sliding windows",
    ),
    "Qwen3ForCausalLM": Architecture(text(hf.Qwen3Config, head_dim=8)),
    "Gemma2ForCausalLM": Architecture(
        text(hf.Gemma2Config, head_dim=8, query_pre_attn_scalar=8, sliding_window=6, final_logit_softcapping=2.0),
        note="sliding windows and full layers in turn; soft-capped logits",
        float32_inside=True,
    ),
    "Gemma3ForCausalLM": Architecture(
        text(hf.Gemma3TextConfig, **GEMMA3, sliding_window=6),
        note="sliding windows and full layers in turn, each with rotary positions of its own",
    ),
    "MistralForCausalLM": Architecture(text(hf.MistralConfig, sliding_window=6), note="sliding windows throughout"),
    "MixtralForCausalLM": Architecture(text(hf.MixtralConfig, num_local_experts=4, **EXPERTS), note="experts"),
    "Qwen3MoeForCausalLM": Architecture(
        text(hf.Qwen3MoeConfig, head_dim=8, num_experts=4, moe_intermediate_size=32, **EXPERTS), note="experts"
    ),
    "Llama4ForCausalLM": Architecture(
        text(hf.Llama4TextConfig, attention_chunk_size=6, intermediate_size_mlp=64, head_dim=8, **EXPERTS),
        note="chunks and full layers in turn; experts",
    ),
    "GPTNeoXForCausalLM": Architecture(text(hf.GPTNeoXConfig), note="rotary positions on a part of each head"),
    "GraniteForCausalLM": Architecture(
        text(hf.GraniteConfig, logits_scaling=4.0, embedding_multiplier=3.0), note="scaled logits"
    ),
    "CohereForCausalLM": Architecture(text(hf.CohereConfig, logit_scale=0.5), note="scaled logits"),
    "Cohere2ForCausalLM": Architecture(
        text(hf.Cohere2Config, sliding_window=6, layer_types=["sliding_attention", "full_attention"], head_dim=8),
        note="sliding windows with positions, full layers without; scaled logits",
    ),
    "MambaForCausalLM": Architecture(
        text(hf.MambaConfig, state_size=4),
        layout="rows",
        reason="is recurrent: its state cannot branch",
        float32_inside=True,
    ),
    "Qwen3NextForCausalLM": Architecture(
        text(hf.Qwen3NextConfig, **NEXT, **EXPERTS),
        layout="rows",
        reason="is recurrent: its state cannot branch (layers: linear_attention)",
    ),
    "T5ForConditionalGeneration": Architecture(
        t5, layout="encoder-decoder", reason=ENCODER_DECODER, chat=False, note="each prompt is read once; scaled logits"
    ),
    "BartForConditionalGeneration": Architecture(
        bart, layout="encoder-decoder", reason=ENCODER_DECODER, chat=False, note="each prompt is read once"
    ),
    "T5GemmaForConditionalGeneration": Architecture(
        t5gemma,
        layout="encoder-decoder",
        reason=ENCODER_DECODER,
        chat=False,
        note="each prompt is read once; soft-capped logits",
        float32_inside=True,
    ),
    "LlavaForConditionalGeneration": Architecture(llava, PICTURES),
    "LlavaNextForConditionalGeneration": Architecture(llava_next, PICTURES, note="tiles by the picture's shape"),
    "LlavaNextVideoForConditionalGeneration": Architecture(
        lambda: llava_next(video=True), CLIPS, note="tiles by the picture's shape"
    ),
    "LlavaOnevisionForConditionalGeneration": Architecture(
        llava_onevision, CLIPS, note="tiles for a picture alone, one view each for several"
    ),
    "Qwen2VLForConditionalGeneration": Architecture(qwen("Qwen2VL"), CLIPS, note="multimodal rotary positions"),
    "Qwen2_5_VLForConditionalGeneration": Architecture(qwen("Qwen2_5_VL"), CLIPS, note="multimodal rotary positions"),
    "Qwen3VLForConditionalGeneration": Architecture(
        qwen("Qwen3VL"), CLIPS, note="multimodal rotary positions; picture features for several layers"
    ),
    "Idefics3ForConditionalGeneration": Architecture(idefics3, PICTURES, note="tiles with marks between them"),
    "InternVLForConditionalGeneration": Architecture(internvl, PICTURES, note="tiles by the picture's shape"),
    "PaliGemmaForConditionalGeneration": Architecture(
        paligemma(), PICTURES, answer_type=1, chat=False, note="the prompt is read in both directions"
    ),
    "PaliGemmaForConditionalGeneration, Gemma 2": Architecture(
        paligemma(second=True),
        PICTURES,
        layout="rows",
        reason="its sliding window of 40 tokens is shorter than the longest case; set --max-length 40",
        answer_type=1,
        chat=False,
        note="a forest where `max_length` keeps cases within its window",
        float32_inside=True,
    ),
    "Gemma3ForConditionalGeneration": Architecture(
        gemma3_vision, PICTURES, note="tokens of a picture see each other; sliding windows and full layers in turn"
    ),
    "VideoLlavaForConditionalGeneration": Architecture(video_llava, CLIPS),
    "Qwen2AudioForConditionalGeneration": Architecture(
        qwen2_audio, ("audio",), note="takes no encoded sound: encoded once for each tree"
    ),
    "Qwen2_5OmniThinkerForConditionalGeneration": Architecture(
        qwen_omni, ("image", "audio"), note="multimodal rotary positions; sound is encoded once for each tree"
    ),
}
"""By model class; what the tests run on and what the table of the documentation shows."""

WINS = Comparison("chosen", "rejected")
QUESTION = "What is left of the two cups on the table?"


def media(kind: str, seed: int) -> Part:
    """Noise of a kind; media of different seeds differ in size too."""
    if kind == "image":
        return Part("image", factories.picture(seed, 32 + 32 * (seed % 2), 32))
    draw = np.random.default_rng(seed)
    if kind == "video":
        return Part("video", draw.integers(0, 255, (4, 32, 32, 3), dtype=np.uint8))
    return Part("audio", {"array": draw.normal(size=8000 + 4000 * seed).astype(np.float32), "sampling_rate": 16000})


def context(each: Architecture, *parts: Part | str) -> tuple[Message, ...]:
    """A user's turn, or plain text where there is no chat template."""
    return (Message.of("user" if each.chat else "raw", *parts),)


def case(each: Architecture, before: tuple[Message, ...], answer: str) -> Case:
    """An answer to a context."""
    return Case(before, (Message.of("assistant" if each.chat else "raw", answer),))


def records_of(each: Architecture) -> list[Preference]:
    """A pair, a list of four, answers that begin alike, and for every kind of medium one, two and exchanged media."""
    plain = [
        pair(QUESTION, "a fork and a spoon", "a fork and a ball; no"),
        ranked(QUESTION, ["a red cube", "a blue ball", "a tree", "two cups, a fork and a spoon on the table"]),
    ]
    found = plain if not each.reads else [pair(context(each, QUESTION), "yes", "no")] if each.chat else []
    for kind in each.reads:
        one, two = media(kind, 0), media(kind, 1)
        first, second = context(each, one, QUESTION), context(each, two, QUESTION)
        both, turned = context(each, one, two, QUESTION), context(each, two, one, QUESTION)
        conditional = [case(each, first, "a red cube"), case(each, second, "a red cube"), case(each, first, "a tree")]
        order = [case(each, both, "yes"), case(each, turned, "yes"), case(each, both, "no")]
        for cases in (conditional, order, [case(each, first, answer) for answer in ("one", "two", "two cups")]):
            roles: dict[str, Case] = dict(zip(("chosen", "rejected", "response_2"), cases, strict=True))
            found.append(Preference(roles, (WINS,)))
    return found
