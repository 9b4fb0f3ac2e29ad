"""The base model of the picture world, a LLaVA of under a million parameters, its processor and its place."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from omnipref.worlds.language import DESCRIBE, question_about
from omnipref.worlds.pictures import BACKGROUND, CELL, KINDS, SCALE, SIZE

if TYPE_CHECKING:
    from transformers import LlavaForConditionalGeneration, LlavaProcessor

SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>", "<image>", "<user>", "<assistant>")
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message.role not in ('user', 'assistant') %}"
    "{{ raise_exception('only user and assistant turns are known') }}{% endif %}"
    "{{ '<' + message.role + '>' }}"
    "{% if message.content is string %}{{ message.content }}"
    "{% else %}{% for part in message.content %}"
    "{% if part.type == 'image' %}<image>{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}{% endif %}"
    "{% if message.role == 'assistant' %}{{ eos_token }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


def base_model_path() -> Path:
    """Folder of the trained base model that is shipped with the package."""
    return Path(__file__).parent / "assets" / "pictures-llava"


def _words() -> list[str]:
    text = f"{DESCRIBE} {question_about('')} yes no and a , ."
    return list(dict.fromkeys([*SPECIAL, *text.replace("?", " ?").split(), *KINDS]))


def build_processor() -> LlavaProcessor:
    """The processor: CLIP's image processor (ground becomes zero) and a word-level tokenizer of some 30 words."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import CLIPImageProcessorPil, LlavaProcessor, PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({word: index for index, word in enumerate(_words())}, unk_token="<unk>"))
    words.normalizer = normalizers.Lowercase()
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        additional_special_tokens=["<image>", "<user>", "<assistant>"],
        model_max_length=128,
        padding_side="left",
    )
    image_processor = CLIPImageProcessorPil(
        size={"height": SIZE, "width": SIZE},
        crop_size={"height": SIZE, "width": SIZE},
        image_mean=[channel / 255 for channel in BACKGROUND],
        image_std=[SCALE / 255] * 3,
    )
    return LlavaProcessor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        patch_size=CELL,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )


def build_model(seed: int) -> LlavaForConditionalGeneration:
    """The untrained model; its wide initialisation (sd 0.06) lets so small a model learn to look within minutes."""
    import torch
    from transformers import CLIPVisionConfig, GenerationConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    ids = {word: index for index, word in enumerate(_words())}
    special: dict[str, Any] = {f"{name}_token_id": ids[f"<{name}>"] for name in ("pad", "bos", "eos")}
    vision = CLIPVisionConfig(
        hidden_size=96,
        intermediate_size=192,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=SIZE,
        patch_size=CELL,
        initializer_range=0.06,
    )
    text = LlamaConfig(
        vocab_size=len(ids),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=128,
        initializer_range=0.06,
        **special,
    )
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=vision,
            text_config=text,
            image_token_index=ids["<image>"],
            image_seq_length=(SIZE // CELL) ** 2,
            vision_feature_layer=-1,
            vision_feature_select_strategy="default",
        )
    )
    # The picture's placeholder is a word of the vocabulary; a sampled one would break the next forward pass.
    model.generation_config = GenerationConfig(**special, suppress_tokens=[ids["<image>"]], max_new_tokens=32)
    return model


def templated(processor: Any, prompt: str) -> str:
    """The chat template's text for a picture and a prompt, up to where the answer begins."""
    content = [{"type": "image"}, {"type": "text", "text": prompt}]
    return processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)


def load(folder: Path | None = None) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """The model (float32, evaluation mode) and processor in a folder; the shipped base by default."""
    from transformers import LlavaForConditionalGeneration, LlavaProcessor

    source = folder or base_model_path()
    model = LlavaForConditionalGeneration.from_pretrained(source, dtype="float32")
    return model.eval(), LlavaProcessor.from_pretrained(source)
