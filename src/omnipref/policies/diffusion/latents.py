"""What stands before the denoiser: a codec from media to latents, a conditioner from prompts to the model's arguments.

Both are frozen, so each picture and each prompt is encoded once and kept.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from omnipref.policies.diffusion.cache import TensorCache
from omnipref.preferences import Part
from omnipref.preferences.media import load_image

if TYPE_CHECKING:
    from PIL.Image import Image

logger = logging.getLogger(__name__)


class Codec(Protocol):
    """Media to latents and back."""

    @property
    def modality(self) -> str:
        """Type of the parts it reads, such as `image`."""
        ...

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Shape of one latent, channels first."""
        ...

    def load(self, part: Part) -> Tensor:
        """Read one medium as a tensor on the CPU; cheap and without a model, because it runs in data-loader workers.

        Raises:
            DataError: the medium cannot be read.
        """
        ...

    def latents(self, media_N: Tensor, keys: Sequence[str]) -> Tensor:
        """Latents `[N, *latent_shape]` float32 of N loaded media, on their device; `keys` name their contents."""
        ...

    def decode(self, latents_N: Tensor) -> list[Any]:
        """Media of N latents."""
        ...


class Conditioner(Protocol):
    """Prompts to what the denoiser takes besides latents and timesteps."""

    def __call__(self, prompts: Sequence[str], device: torch.device) -> Mapping[str, Tensor]:
        """Keyword arguments of the model, each `[len(prompts), ...]`; the empty string is the null prompt."""
        ...


def content_key(value: Tensor) -> str:
    """A name for a tensor's content."""
    return hashlib.blake2b(value.numpy().tobytes(), digest_size=16).hexdigest()


@dataclass(frozen=True)
class PictureCodec:
    """Pictures through a frozen `AutoencoderKL`.

    The shorter side is resized to `resolution` and the centre cut out; the posterior is sampled with noise that the
    picture's content seeds, so a picture has one latent.

    Args:
        vae: the autoencoder.
        resolution: side of the square picture in pixels.
        cache: latents by content.
    """

    vae: Any
    resolution: int
    cache: TensorCache = field(default_factory=TensorCache)
    modality: str = "image"

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Channels, height and width of a latent."""
        side = self.resolution // 2 ** (len(self.vae.config.block_out_channels) - 1)
        return (self.vae.config.latent_channels, side, side)

    def load(self, part: Part) -> Tensor:
        """Pixels `[3, resolution, resolution]` uint8."""
        from PIL.Image import Resampling

        image = load_image(part.value)
        scale = self.resolution / min(image.size)
        width, height = (max(self.resolution, round(side * scale)) for side in image.size)
        left, top = (width - self.resolution) // 2, (height - self.resolution) // 2
        image = image.resize((width, height), Resampling.BILINEAR).crop(
            (left, top, left + self.resolution, top + self.resolution)
        )
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()

    def latents(self, media_N: Tensor, keys: Sequence[str]) -> Tensor:
        """Scaled latents of N pictures; pictures that were seen before are not encoded again."""
        latents_N = self.cache.gather(keys, lambda new: self._encode(media_N[new], [keys[i] for i in new]))
        return latents_N.to(media_N.device)

    @torch.no_grad()
    def _encode(self, pixels_N: Tensor, keys: Sequence[str]) -> Tensor:
        vae = self.vae.to(pixels_N.device)
        posterior = vae.encode((pixels_N / 127.5 - 1).to(vae.dtype)).latent_dist
        noise = torch.stack([torch.randn(self.latent_shape, generator=_seeded(key)) for key in keys])
        return vae.config.scaling_factor * (posterior.mean + posterior.std * noise.to(posterior.mean)).float()

    @torch.no_grad()
    def decode(self, latents_N: Tensor) -> list[Image]:
        """Pictures of N latents."""
        from PIL.Image import fromarray

        vae = self.vae.to(latents_N.device)
        pixels = vae.decode(latents_N.to(vae.dtype) / vae.config.scaling_factor).sample.float()
        bytes_N = ((pixels / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        return [fromarray(picture) for picture in bytes_N]


def _seeded(key: str) -> torch.Generator:
    return torch.Generator().manual_seed(int(key[:8], 16))


@dataclass(frozen=True)
class ClipText:
    """Prompts through a frozen CLIP text encoder, as Stable Diffusion 1.5 takes them.

    A prompt beyond the encoder's length (77 tokens) is cut, as in the released trainers, and named in a warning.

    Args:
        tokenizer: its `CLIPTokenizer`.
        encoder: its `CLIPTextModel`.
        cache: embeddings by prompt.
    """

    tokenizer: Any
    encoder: Any
    cache: TensorCache = field(default_factory=TensorCache)

    def __call__(self, prompts: Sequence[str], device: torch.device) -> Mapping[str, Tensor]:
        """`encoder_hidden_states` `[len(prompts), tokens, D]`."""
        states = self.cache.gather(prompts, lambda new: self._encode([prompts[i] for i in new], device))
        return {"encoder_hidden_states": states.to(device)}

    @torch.no_grad()
    def _encode(self, prompts: Sequence[str], device: torch.device) -> Tensor:
        longest = self.tokenizer.model_max_length
        for prompt, ids in zip(prompts, self.tokenizer(list(prompts)).input_ids, strict=True):
            if len(ids) > longest:
                logger.warning("prompt of %d tokens cut to %d: %.60s", len(ids), longest, prompt)
        tokens = self.tokenizer(
            list(prompts), padding="max_length", truncation=True, max_length=longest, return_tensors="pt"
        )
        return self.encoder.to(device)(tokens.input_ids.to(device)).last_hidden_state.float()
