"""The diffusion policy: preferences to latents and prompts, denoising errors to scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from omnipref.errors import CapabilityError, DataError
from omnipref.policies.cases import align
from omnipref.policies.diffusion.latents import Codec, Conditioner, content_key
from omnipref.policies.diffusion.noising import Noising, draw_all
from omnipref.policies.policy import Batch, Reference
from omnipref.preferences import Case, Part, Preference
from omnipref.scores import Scores


@dataclass(frozen=True)
class EncodedCases:
    """One preference, checked; its media are read again when it joins a batch, so that a data set stays small.

    Args:
        preference: the record.
        media: the response of each case.
        prompts: the caption of each case.
    """

    preference: Preference
    media: tuple[Part, ...]
    prompts: tuple[str, ...]


@dataclass(frozen=True)
class DiffusionPolicy:
    """Scores what a diffusers denoiser generates: `logp = -ω(t) ‖prediction - target‖²`, the mean over elements.

    Every case of a record sees the same timesteps and the same noise, drawn from (seed, record number), and so do
    policy and reference; so `dpo(beta=b)` on these scores is Diffusion-DPO with its β = 2 b (arXiv 2311.12908, eq. 14,
    element means as in its code).

    Args:
        scheduler: the noise schedule, a diffusers scheduler with `alphas_cumprod`.
        codec: media to latents.
        conditioner: prompts to the model's arguments; None for a model without prompts.
        timesteps: the timesteps to draw from; empty for all. Distilled models are trained on few.
        timesteps_per_record: units per case, U.
        caption_dropout: probability that a record's caption is replaced by the empty one, for all its cases.
        share_noise: False gives each case its own noise, as a control.
        weight: ω, from timesteps `[N, U]` to weights; None for 1.
    """

    scheduler: Any
    codec: Codec
    conditioner: Conditioner | None = None
    timesteps: tuple[int, ...] = ()
    timesteps_per_record: int = 1
    caption_dropout: float = 0.0
    share_noise: bool = True
    weight: Callable[[Tensor], Tensor] | None = None

    @property
    def stochastic(self) -> bool:
        """True: every score depends on a drawn timestep and noise, so reference scores cannot be kept."""
        return True

    @cached_property
    def noising(self) -> Noising:
        """The scheduler's forward process and targets."""
        return Noising(self.scheduler)

    @cached_property
    def _allowed(self) -> Tensor:
        return self.noising.allowed(self.timesteps)

    def encode(self, preference: Preference) -> EncodedCases:
        """Check captions and media of one preference.

        Raises:
            DataError: a response that is not one medium of the codec's kind, media in a context, a context of several
                messages, or a medium that cannot be read.
        """
        media, prompts = [], []
        for role, case in preference.cases.items():
            try:
                prompts.append(_caption(case))
                media.append(self._medium(case))
                self.codec.load(media[-1])
            except DataError as error:
                error.field = f"{role}.{error.field or 'response'}"
                raise error.at(record=preference.record, source=preference.source or None) from None
        return EncodedCases(preference, tuple(media), tuple(prompts))

    def _medium(self, case: Case) -> Part:
        parts = [part for message in case.response for part in message.parts]
        if len(parts) != 1 or parts[0].type != self.codec.modality:
            found = ", ".join(part.type for part in parts) or "nothing"
            raise DataError(found, f"one {self.codec.modality}", cure="give each response one medium", field="response")
        return parts[0]

    def tokens(self, encoded: Sequence[EncodedCases]) -> int:
        """A denoiser has no tokens.

        Raises:
            CapabilityError: always.
        """
        raise CapabilityError(
            f"found a limit in tokens for {len(encoded)} records of a denoiser, which has none. To mend: drop "
            "max_batch_tokens, and lower per_device_train_batch_size with gradient_accumulation_steps instead"
        )

    def case_keys(self, encoded: EncodedCases) -> tuple[str, ...]:
        """None: scores depend on what is drawn."""
        del encoded
        return ()

    def collate(self, encoded: Sequence[EncodedCases]) -> Batch:
        """Read and stack the media of encoded preferences; prompts stay text."""
        media = [self.codec.load(part) for item in encoded for part in item.media]
        inputs = {
            "media": torch.stack(media),
            "keys": tuple(content_key(value) for value in media),
            "prompts": tuple(prompt for item in encoded for prompt in item.prompts),
        }
        return Batch(align([item.preference for item in encoded]), inputs)

    def score(
        self,
        model: nn.Module,
        batch: Batch,
        *,
        extras: frozenset[str] = frozenset(),
        seed: int = 0,
        reference: Reference | None = None,
    ) -> Scores:
        """Minus the denoising errors `[N, U]`, in one forward pass of the model over all cases and timesteps.

        Raises:
            CapabilityError: an extra is asked for; a denoiser has none.
        """
        if extras:
            found = ", ".join(f"`{name}`" for name in sorted(extras))
            raise CapabilityError(
                f"the objective reads {found}, which need tokens with states and a distribution over a vocabulary; a "
                "denoiser predicts noise. To mend: use an objective of log-likelihoods alone"
            )
        if reference is not None:
            with torch.no_grad(), reference(model) as frozen:
                ref_logp_NU = self.score(frozen, batch, seed=seed).logp
            return self.score(model, batch, seed=seed).with_reference(ref_logp_NU)
        x0_N = self.codec.latents(batch.inputs["media"], batch.inputs["keys"])
        draws = draw_all(
            batch.cases,
            tuple(x0_N.shape[1:]),
            seed,
            self._allowed,
            units=self.timesteps_per_record,
            dropout=self.caption_dropout,
            share_noise=self.share_noise,
        ).to(x0_N.device)
        noisy_NU, target_NU = self.noising(x0_N, draws)
        captioned = zip(batch.inputs["prompts"], draws.uncaptioned_N.tolist(), strict=True)
        prompts = ["" if dropped else prompt for prompt, dropped in captioned]
        predicted_NU = self.predict(model, noisy_NU, draws.timestep_NS, prompts)
        error_NU = (predicted_NU - target_NU).square().flatten(2).mean(2)
        logp_NU = -error_NU if self.weight is None else -self.weight(draws.timestep_NS) * error_NU
        return Scores(logp_NU, torch.ones_like(logp_NU, dtype=torch.bool), batch.cases)

    def predict(self, model: nn.Module, noisy_NU: Tensor, timestep_NU: Tensor, prompts: Sequence[str]) -> Tensor:
        """The model's prediction `[N, U, *latent]` float32 for noisy latents, one prompt per case."""
        units = noisy_NU.shape[1]
        dtype = next(model.parameters()).dtype
        conditions = {
            name: value.to(dtype).repeat_interleave(units, 0)
            for name, value in self.conditions(prompts, noisy_NU.device).items()
        }
        output = model(noisy_NU.flatten(0, 1).to(dtype), timestep_NU.flatten(), **conditions)
        return output.sample.float().unflatten(0, (-1, units))

    def conditions(self, prompts: Sequence[str], device: torch.device) -> Mapping[str, Tensor]:
        """The model's further arguments for N prompts, each distinct prompt encoded once."""
        if self.conditioner is None:
            return {}
        distinct = list(dict.fromkeys(prompts))
        rows = torch.tensor([distinct.index(prompt) for prompt in prompts], device=device)
        return {name: value[rows] for name, value in self.conditioner(distinct, device).items()}


def _caption(case: Case) -> str:
    if len(case.context) > 1:
        found = f"{len(case.context)} messages"
        raise DataError(found, "one message, the caption", cure="join them into one", field="context")
    if media := [part for message in case.context for part in message.media]:
        cure = "remove it, or use a policy of an editing model"
        raise DataError(f"a {media[0].type}", "text alone", cure=cure, field="context")
    return "".join(message.text for message in case.context)
