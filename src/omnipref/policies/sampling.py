"""Samples responses: from a model in this process, as a pure function of (seed, context, number of the sample)."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm
from transformers import (
    DynamicCache,
    LogitsProcessor,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)
from transformers.cache_utils import DynamicLayer

from omnipref.errors import DataError
from omnipref.policies.autoregressive.backbone import accepts, backbone_of, is_encoder_decoder, language_model
from omnipref.policies.autoregressive.encode import EncodedPrompt, encode_prompt, stack_features
from omnipref.policies.autoregressive.media import MODALITIES, MediaItem
from omnipref.policies.autoregressive.prompts import TextOwner, tokenizer_of
from omnipref.policies.contexts import Context, draw_seed
from omnipref.policies.reference import evaluating

_MEDIA_TOKEN = re.compile(r"(image|video|audio|vision)_.*token_(id|index)|(image|video|audio)_token_index")


@dataclass(frozen=True, eq=False)
class LocalSampler:
    """Samples with `generate` of a `transformers` model, prompts padded on the left, media encoded once per prompt.

    A token is drawn by inverting the cumulative distribution at one uniform number per step that depends on `seed`,
    the context and the sample's number only, so batches, order and a restart do not change what is drawn. Placeholder
    tokens of media are never drawn: a forward pass over them would fail. `temperature` and `top_p` replace the model's
    own sampling settings; the rest of its generation config (stop tokens, suppressed tokens, penalties) stays.

    Args:
        model: a `transformers` model that generates, PEFT adapters included.
        owner: its tokenizer, or the processor that holds one.
        max_new_tokens: longest response, in tokens.
        temperature: 0 is greedy.
        top_p: share of the probability that is kept, in (0, 1].
        batch_size: rows at once; a context takes `n` rows.
        seed: draws the samples.
        progress: show a progress bar.
    """

    model: Any
    owner: TextOwner
    max_new_tokens: int = 256
    temperature: float = 1.0
    top_p: float = 1.0
    batch_size: int = 32
    seed: int = 0
    progress: bool = True

    def __call__(self, contexts: Sequence[Context], *, n: int = 1) -> list[list[str]]:
        """`n` responses to each context.

        Raises:
            DataError: a context cannot be encoded; `record` is its place in `contexts`.
            CapabilityError: the tokenizer lacks a chat template or the model takes no such media.
        """
        step = max(1, self.batch_size // n)
        starts = range(0, len(contexts), step)
        bar = tqdm(starts, desc="sampling", unit="batch", disable=not self.progress or len(starts) < 2)
        with evaluating(self.model), torch.no_grad():
            return [answer for start in bar for answer in self._batch(contexts[start : start + step], start, n)]

    def _batch(self, contexts: Sequence[Context], start: int, n: int) -> list[list[str]]:
        encoded = [self._encode(context, start + place) for place, context in enumerate(contexts)]
        answers: list[list[str]] = [[] for _ in contexts]
        for group in _stackable(encoded):
            uniform_RT = self._uniform([contexts[place] for place in group], n)
            texts = self._generate([encoded[place] for place in group], uniform_RT, n)
            for number, place in enumerate(group):
                answers[place] = texts[number * n : (number + 1) * n]
        return answers

    def _encode(self, context: Context, place: int) -> EncodedPrompt:
        try:
            encoded = encode_prompt(self.owner, context, apart=self._apart)
        except DataError as error:
            raise error.at(record=place) from None
        text_config: Any = language_model(self.model).config.get_text_config()  # type: ignore[union-attr,operator]
        limit = getattr(text_config, "max_position_embeddings", None)
        if limit and len(encoded.ids) >= limit:
            raise DataError(
                f"a prompt of {len(encoded.ids)} tokens, media included",
                f"fewer than the model's {limit} positions",
                cure="shorten it, or make its media smaller",
                record=place,
                field="prompt",
            )
        return encoded

    def _uniform(self, contexts: Sequence[Context], n: int) -> Tensor:
        seeds = [draw_seed(self.seed, context, sample) for context in contexts for sample in range(n)]
        return torch.stack([torch.rand(self.max_new_tokens, generator=torch.Generator().manual_seed(s)) for s in seeds])

    def _generate(self, prompts: Sequence[EncodedPrompt], uniform_RT: Tensor, n: int) -> list[str]:
        inputs = self._inputs(prompts)
        # An encoder-decoder returns what its decoder begins with, and not the prompt.
        length = 1 if self._apart else inputs["input_ids"].shape[1]
        config = self._config()
        if n > 1:
            shared = self._shared_encoding(inputs, n) if self._apart else self._shared_prefill(inputs, config, n)
            inputs = shared or self._inputs([p for p in prompts for _ in range(n)])
        draw = LogitsProcessorList()
        if self.temperature > 0:
            draw.append(TemperatureLogitsWarper(float(self.temperature)))
            draw.extend([TopPLogitsWarper(self.top_p)] if self.top_p < 1 else [])
            draw.append(_InverseCumulative(uniform_RT, length))
        ids = self.model.generate(**inputs, generation_config=config, logits_processor=draw)
        return tokenizer_of(self.owner).batch_decode(ids[:, length:], skip_special_tokens=True)

    def _inputs(self, prompts: Sequence[EncodedPrompt]) -> dict[str, Any]:
        """Rows padded on the left, or for encoders on the right, and the media of all of them in reading order."""
        pad, width = self._pad, max(len(prompt.ids) for prompt in prompts)
        fill = _right if self._apart else _left
        rows = [torch.from_numpy(prompt.ids) for prompt in prompts]
        inputs: dict[str, Any] = {"input_ids": fill(rows, width, pad)}
        inputs["attention_mask"] = fill([torch.ones_like(row) for row in rows], width, 0)
        items = [item for prompt in prompts for item in prompt.items]
        for modality in MODALITIES:
            own = [item for item in items if item.modality == modality]
            inputs |= stack_features(own) if own else {}
        if items and accepts(backbone_of(self.model).forward, "mm_token_type_ids"):
            inputs["mm_token_type_ids"] = _left([torch.from_numpy(p.token_type) for p in prompts], width, 0)
        return {name: value.to(self.model.device) for name, value in inputs.items()}

    @property
    def _apart(self) -> bool:
        """Whether prompts are texts of their own, read by an encoder."""
        return is_encoder_decoder(self.model)

    @property
    def _pad(self) -> int:
        tokenizer = tokenizer_of(self.owner)
        found = next((i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id) if isinstance(i, int)), 0)
        return int(found)

    def _config(self) -> Any:
        config = copy.deepcopy(self.model.generation_config)
        suppressed = sorted({*(config.suppress_tokens or ()), *media_tokens(self.model, self.owner)})
        config.update(
            do_sample=False,
            num_beams=1,
            temperature=None,
            top_p=None,
            top_k=None,
            max_length=None,
            max_new_tokens=self.max_new_tokens,
            suppress_tokens=suppressed or None,
            pad_token_id=self._pad,
        )
        return config

    def _shared_encoding(self, inputs: dict[str, Any], n: int) -> dict[str, Any]:
        """Read each prompt once and repeat what the encoder makes of it `n` times."""
        read = language_model(self.model).get_encoder()(**inputs)  # type: ignore[operator]
        states = type(read)(last_hidden_state=read.last_hidden_state.repeat_interleave(n, 0))
        return {"encoder_outputs": states, "attention_mask": inputs["attention_mask"].repeat_interleave(n, 0)}

    def _shared_prefill(self, inputs: dict[str, Any], config: Any, n: int) -> dict[str, Any] | None:
        """Read each prompt once and repeat its cache `n` times; None where the model's cache cannot step back.

        The last prompt token is read again, because its logits start the answers.
        """
        once = copy.deepcopy(config)
        once.update(max_new_tokens=1, return_dict_in_generate=True)
        if inputs["input_ids"].shape[1] < 2:
            return None
        cache = self.model.generate(**inputs, generation_config=once).past_key_values
        if not isinstance(cache, DynamicCache) or any(type(layer) is not DynamicLayer for layer in cache.layers):
            return None
        cache.crop(-1)
        cache.batch_repeat_interleave(n)
        backbone: Any = backbone_of(self.model)
        if getattr(backbone, "rope_deltas", None) is not None:
            # Multimodal rotary models keep how far media shifted each row's positions.
            backbone.rope_deltas = backbone.rope_deltas.repeat_interleave(n, 0)
        repeated = {name: inputs[name].repeat_interleave(n, 0) for name in ("input_ids", "attention_mask")}
        return {**repeated, "past_key_values": cache}


def media_tokens(model: nn.Module, owner: TextOwner) -> set[int]:
    """Ids of the tokens that stand for media, or mark where they begin and end."""
    config = language_model(model).config.to_dict()  # type: ignore[union-attr]
    found = {value for name, value in config.items() if _MEDIA_TOKEN.fullmatch(name)}
    found |= {token for modality in MODALITIES for token in getattr(owner, f"{modality}_token_ids", None) or ()}
    return {token for token in found if isinstance(token, int)}


class _InverseCumulative(LogitsProcessor):
    """Replaces a distribution by the one token at which its cumulative sum passes a given uniform number.

    Args:
        uniform_RT: one number in [0, 1) per row and step.
        prompt: tokens before the first step.
    """

    def __init__(self, uniform_RT: Tensor, prompt: int):
        self.uniform_RT, self.prompt = uniform_RT, prompt

    def __call__(self, input_ids: torch.LongTensor, scores: Tensor) -> Tensor:
        cumulative_RV = scores.float().softmax(-1).cumsum(-1)
        uniform_R = self.uniform_RT[:, input_ids.shape[1] - self.prompt].to(scores.device)
        # The factor keeps rounding from passing the last token of positive probability.
        threshold_R = uniform_R * cumulative_RV[:, -1] * (1 - 1e-6)
        token_R = (cumulative_RV > threshold_R[:, None]).int().argmax(-1)
        return torch.full_like(scores, -float("inf")).scatter(1, token_R[:, None], 0.0)


def _left(rows: Sequence[Tensor], width: int, fill: int) -> Tensor:
    return torch.stack([nn.functional.pad(row, (width - len(row), 0), value=fill) for row in rows])


def _right(rows: Sequence[Tensor], width: int, fill: int) -> Tensor:
    return torch.stack([nn.functional.pad(row, (0, width - len(row)), value=fill) for row in rows])


def _stackable(prompts: Sequence[EncodedPrompt]) -> list[list[int]]:
    """Places of prompts whose media have equal shapes beyond the first axis, so that they can be joined."""
    groups: dict[tuple, list[int]] = {}
    for place, prompt in enumerate(prompts):
        shapes = sorted({_shape(item) for item in prompt.items})
        groups.setdefault(tuple(shapes), []).append(place)
    return list(groups.values())


def _shape(item: MediaItem) -> tuple:
    return (item.modality, *((name, tuple(value.shape[1:])) for name, value in item.features.items()))


def load_sampler(
    name_or_path: str, adapter: str | None = None, loading: Mapping[str, Any] | None = None, **options: Any
) -> LocalSampler:
    """A model from a folder or the hub, on the accelerator where there is one.

    Args:
        name_or_path: the model.
        adapter: PEFT adapter on it.
        loading: further arguments of `from_pretrained`.
        options: further arguments of `LocalSampler`.
    """
    from omnipref.policies.autoregressive.load import load_model, load_owner

    model: Any = load_model(name_or_path, **(loading or {}))
    if adapter:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, adapter)
    if torch.accelerator.is_available():
        model = model.to(torch.accelerator.current_accelerator())
    trust = {"trust_remote_code": (loading or {}).get("trust_remote_code", False)}
    return LocalSampler(model.eval(), load_owner(name_or_path, **trust), **options)
