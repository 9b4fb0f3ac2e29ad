"""The autoregressive policy: preferences to tokens, tokens to per-token log-probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from omnipref.policies.autoregressive.backbone import backbone_of, call_inside, language_model
from omnipref.policies.autoregressive.encode import EncodedPreference, Positions, encode, plain_positions
from omnipref.policies.autoregressive.head import head_of, token_logps
from omnipref.policies.autoregressive.layouts import CaseLayout, Forest, batch_inputs
from omnipref.policies.autoregressive.prompts import TextOwner, token_id
from omnipref.policies.cases import align
from omnipref.policies.policy import Batch
from omnipref.preferences import Preference
from omnipref.scores import Scores


@dataclass(frozen=True)
class AutoregressivePolicy:
    """Scores responses of `transformers` models that emit text, whatever they read.

    Args:
        owner: tokenizer, or the processor that holds one.
        layout: `Forest()` (shared prefixes) or `Rows()` (one row per case).
        positions: how the model numbers positions; `positions_of(model)`.
        max_length: longest case in tokens, media included; None for no limit.
        truncate: cut responses that exceed it rather than refuse the record; prompts and media are never cut.

    Example:
        >>> from transformers import AutoModelForCausalLM, AutoTokenizer  # doctest: +SKIP
        >>> model = AutoModelForCausalLM.from_pretrained("folder")  # doctest: +SKIP
        >>> policy = AutoregressivePolicy(AutoTokenizer.from_pretrained("folder"))  # doctest: +SKIP
        >>> batch = policy.collate([policy.encode(pair("1+1=", "2", "3"))])  # doctest: +SKIP
        >>> policy.score(model, batch).logp.shape  # doctest: +SKIP
        torch.Size([2, 2])
    """

    owner: TextOwner
    layout: CaseLayout = field(default_factory=Forest)
    positions: Positions = plain_positions
    max_length: int | None = None
    truncate: bool = False

    @property
    def stochastic(self) -> bool:
        """False: tokens are scored, nothing is drawn."""
        return False

    def encode(self, preference: Preference) -> EncodedPreference:
        """Tokenise one preference; see `omnipref.policies.autoregressive.encode.encode` for the errors."""
        return encode(self.owner, preference, self.positions, self.max_length, self.truncate)

    def collate(self, encoded: Sequence[EncodedPreference]) -> Batch:
        """Lay encoded preferences out as one batch."""
        pad = next((i for name in ("pad", "eos") if (i := token_id(self.owner, name)) is not None), 0)
        cases = align([item.preference for item in encoded])
        return Batch(cases, batch_inputs(self.layout, encoded, pad))

    def score(self, model: nn.Module, batch: Batch, *, extras: frozenset[str] = frozenset(), seed: int = 0) -> Scores:
        """Per-token log-probabilities of all responses; nothing is random, so `seed` changes nothing."""
        del seed
        return call_inside(model, lambda: self._score(model, batch, extras))

    def _score(self, model: nn.Module, batch: Batch, extras: frozenset[str]) -> Scores:
        inputs = batch.inputs
        hidden = self.layout.hidden(backbone_of(model), inputs).flatten(0, 1)
        mask = inputs["mask_NU"] & (inputs["segment_NU"] >= 0)
        # Cases that share a response prefix share its scored places too: each (state, target) is looked up once.
        places = torch.stack([inputs["predictor_NU"][mask], inputs["target_NU"][mask]])
        distinct, where = places.unique(dim=1, return_inverse=True)
        found = token_logps(head_of(language_model(model)), hidden[distinct[0]], distinct[1], extras)
        spread = {}
        for name, value in found.items():
            spread[name] = value.new_zeros(mask.shape).masked_scatter(mask, value[where])
        logp = spread.pop("logp")
        return Scores(logp, mask, batch.cases, segment=inputs["segment_NU"], extras=spread)
