"""Tiny random-weight models that read pictures, clips and sound, each of its real class with its real processor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers as hf
from factories import CHAT_TEMPLATE, _text_sizes, tokenizer
from tokenizers import Tokenizer

MARKS: dict[str, Any] = {"image": "<image>", "video": "<video>", "audio": "<|AUDIO|>"}


def words(template: str | None = None, **special: str) -> hf.PreTrainedTokenizerFast:
    """The tests' tokenizer with further special tokens under the names that processors look for."""
    made = hf.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(tokenizer().backend_tokenizer.to_str()),
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        extra_special_tokens=special,
    )
    made.add_special_tokens({"additional_special_tokens": ["<video>", "<|AUDIO|>", *special.values()]})
    made.chat_template = template or template_with(image="<image>")
    return made


def template_with(**marks: str) -> str:
    """The chat template of the tests, writing these marks."""
    places = {**MARKS, **marks}
    media = "".join(f"{{% elif part['type'] == '{name}' %}}{mark}" for name, mark in places.items())
    return CHAT_TEMPLATE.replace("{% if part['type'] == 'image' %}IMAGE_MARK", "{% if false %}" + media)


def text_sizes(made: Any, **changes: Any) -> dict[str, Any]:
    """A tiny text model's configuration for a tokenizer."""
    return _text_sizes(vocab_size=len(made) + 8, **changes)


def built(config: Any, loader: Any = hf.AutoModelForImageTextToText) -> Any:
    """A model with seeded weights; parameters that the library leaves at zero are drawn too."""
    torch.manual_seed(0)
    model = loader.from_config(config).eval()
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return model


GEMMA3: dict[str, Any] = {
    "head_dim": 8,
    "query_pre_attn_scalar": 8,
    "layer_types": ["sliding_attention", "full_attention"],
}


VISION: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
}
SQUARE: dict[str, Any] = {"height": 32, "width": 32}
PATCHES: dict[str, Any] = {
    "patch_size": 8,
    "vision_feature_select_strategy": "default",
    "num_additional_image_tokens": 1,
}
GRIDS = [[32, 64], [64, 32], [64, 64]]


def llava() -> tuple[Any, Any]:
    """One size of picture."""
    made = words()
    config = hf.LlavaConfig(
        vision_config=hf.CLIPVisionConfig(**VISION),
        text_config=hf.LlamaConfig(**text_sizes(made)),
        image_token_index=made.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
    )
    images = hf.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=SQUARE)
    return built(config), hf.LlavaProcessor(images, made, chat_template=made.chat_template, **PATCHES)


def llava_next(video: bool = False) -> tuple[Any, Any]:
    """Pictures cut into tiles by their shape."""
    made = words()
    ids = made.convert_tokens_to_ids
    family = hf.LlavaNextVideoConfig if video else hf.LlavaNextConfig
    config = family(
        vision_config=hf.CLIPVisionConfig(**VISION),
        text_config=hf.LlamaConfig(**text_sizes(made)),
        image_token_index=ids("<image>"),
        vision_feature_layer=-1,
        image_grid_pinpoints=GRIDS,
        **({"video_token_index": ids("<video>")} if video else {}),
    )
    images = hf.LlavaNextImageProcessorPil(size={"shortest_edge": 32}, crop_size=SQUARE, image_grid_pinpoints=GRIDS)
    if not video:
        return built(config), hf.LlavaNextProcessor(images, made, chat_template=made.chat_template, **PATCHES)
    videos = hf.LlavaNextVideoVideoProcessor(size={"shortest_edge": 32}, crop_size=SQUARE)
    return built(config), hf.LlavaNextVideoProcessor(videos, images, made, made.chat_template, **PATCHES)


def llava_onevision() -> tuple[Any, Any]:
    """Tiles for a picture alone, one view each for several."""
    made = words()
    ids = made.convert_tokens_to_ids
    config = hf.LlavaOnevisionConfig(
        vision_config=hf.SiglipVisionConfig(**VISION, vision_use_head=False),
        text_config=hf.Qwen2Config(**text_sizes(made)),
        image_token_index=ids("<image>"),
        video_token_index=ids("<video>"),
        image_grid_pinpoints=GRIDS,
    )
    images = hf.LlavaOnevisionImageProcessorPil(size=SQUARE, image_grid_pinpoints=GRIDS)
    videos = hf.LlavaOnevisionVideoProcessor(size=SQUARE)
    processor = hf.LlavaOnevisionProcessor(
        images,
        made,
        videos,
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        chat_template=made.chat_template,
    )
    return built(config), processor


def idefics3() -> tuple[Any, Any]:
    """Pictures cut into tiles, with marks of rows and columns between them."""
    places = [f"<row_{i}_col_{j}>" for i in range(1, 3) for j in range(1, 3)]
    names: dict[str, Any] = {
        "fake_image_token": "<fake_token_around_image>",
        "global_image_token": "<global-img>",
        "end_of_utterance_token": "<end_of_utterance>",
        "image_token": "<image>",
        **{place.strip("<>"): place for place in places},
    }
    made = words(**names)
    config = hf.Idefics3Config(
        vision_config=VISION,
        text_config=hf.LlamaConfig(**text_sizes(made)),
        image_token_id=made.convert_tokens_to_ids("<image>"),
        scale_factor=2,
    )
    images = hf.Idefics3ImageProcessorPil(size={"longest_edge": 64}, max_image_size={"longest_edge": 32})
    processor = hf.Idefics3Processor(images, made, image_seq_len=4, chat_template=made.chat_template)
    return built(config), processor


def internvl() -> tuple[Any, Any]:
    """Pictures cut into tiles, all of one length."""
    names: dict[str, Any] = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    made = words(template_with(image="<IMG_CONTEXT>"), **names)
    vision: dict[str, Any] = {**VISION, "image_size": [32, 32], "patch_size": [8, 8]}
    config = hf.InternVLConfig(
        vision_config=hf.InternVLVisionConfig(**vision),
        text_config=hf.Qwen2Config(**text_sizes(made)),
        image_token_id=made.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
    )
    images = hf.GotOcr2ImageProcessorPil(size=SQUARE, max_patches=3)
    processor = hf.InternVLProcessor(
        images, made, hf.InternVLVideoProcessor(size=SQUARE), image_seq_length=4, chat_template=made.chat_template
    )
    return built(config), processor


def paligemma(second: bool = False) -> Callable[[], tuple[Any, Any]]:
    """The prompt is read in both directions."""

    def make() -> tuple[Any, Any]:
        images = hf.SiglipImageProcessorPil(size=SQUARE)
        images.image_seq_length = 16
        processor = hf.PaliGemmaProcessor(images, words(image_token="<image>"))
        made = processor.tokenizer
        gemma = hf.Gemma2Config if second else hf.GemmaConfig
        options = {"query_pre_attn_scalar": 8, "sliding_window": 40} if second else {}
        config = hf.PaliGemmaConfig(
            vision_config=hf.SiglipVisionConfig(**VISION, vision_use_head=False, projection_dim=32),
            text_config=gemma(**text_sizes(made, head_dim=8, **options)),
            image_token_index=made.convert_tokens_to_ids("<image>"),
            projection_dim=32,
            hidden_size=32,
        )
        return built(config), processor

    return make


def gemma3_vision() -> tuple[Any, Any]:
    """Tokens of a picture see each other in both directions; windows and full layers alternate."""
    names: dict[str, Any] = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image>"}
    made = words(template_with(image="<start_of_image>"), **names)
    ids = made.convert_tokens_to_ids
    config = hf.Gemma3Config(
        vision_config=hf.SiglipVisionConfig(**VISION, vision_use_head=False),
        text_config=hf.Gemma3TextConfig(**text_sizes(made, **GEMMA3, sliding_window=6)),
        image_token_index=ids("<image>"),
        boi_token_index=ids("<start_of_image>"),
        eoi_token_index=ids("<end_of_image>"),
        mm_tokens_per_image=16,
    )
    processor = hf.Gemma3Processor(
        hf.Gemma3ImageProcessorPil(size=SQUARE), made, image_seq_length=16, chat_template=made.chat_template
    )
    return built(config), processor


def video_llava() -> tuple[Any, Any]:
    """One model for pictures and clips."""
    made = words()
    ids = made.convert_tokens_to_ids
    config = hf.VideoLlavaConfig(
        vision_config=hf.CLIPVisionConfig(**VISION),
        text_config=hf.LlamaConfig(**text_sizes(made)),
        image_token_index=ids("<image>"),
        video_token_index=ids("<video>"),
        vision_feature_layer=-1,
    )
    images = hf.VideoLlavaImageProcessor(size={"shortest_edge": 32}, crop_size=SQUARE)
    videos = hf.VideoLlavaVideoProcessor(size={"shortest_edge": 32}, crop_size=SQUARE)
    return built(config), hf.VideoLlavaProcessor(images, videos, made, patch_size=8, chat_template=made.chat_template)


def mllama() -> tuple[Any, Any]:
    """Pictures are looked at through cross-attention, in one layer."""
    mark = "<|image|>"
    made = words(template_with(image=mark), image_token=mark)
    parts = hf.models.mllama.configuration_mllama
    ratios = [[1, 1], [1, 2], [2, 1]]
    vision: dict[str, Any] = {name: VISION[name] for name in ("hidden_size", "intermediate_size", "image_size")}
    vision |= {"attention_heads": 4, "num_hidden_layers": 2, "num_global_layers": 1, "patch_size": 8}
    vision |= {"vision_output_dim": 64, "intermediate_layers_indices": [0], "supported_aspect_ratios": ratios}
    rope = {"rope_type": "default", "rope_theta": 10000.0}
    text = text_sizes(made, num_hidden_layers=3, cross_attention_layers=[1], rope_parameters=rope)
    config = hf.MllamaConfig(
        vision_config=parts.MllamaVisionConfig(max_num_tiles=2, **vision),
        text_config=parts.MllamaTextConfig(**text),
        image_token_index=made.convert_tokens_to_ids(mark),
    )
    images = hf.MllamaImageProcessorPil(size=SQUARE, max_image_tiles=2)
    return built(config), hf.MllamaProcessor(images, made, chat_template=made.chat_template)
