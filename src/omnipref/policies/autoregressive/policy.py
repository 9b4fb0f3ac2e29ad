"""The autoregressive policy: preferences to tokens, tokens to per-token log-probabilities."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from omnipref.errors import DataError
from omnipref.policies.autoregressive.backbone import backbone_of, call_inside, language_model
from omnipref.policies.autoregressive.encode import EncodedPreference, Positions, encode, plain_positions
from omnipref.policies.autoregressive.head import CHUNK_ELEMENTS, States, gathered, head_of, token_scores
from omnipref.policies.autoregressive.layouts import CaseLayout, Forest
from omnipref.policies.autoregressive.places import Places
from omnipref.policies.autoregressive.prompts import TextOwner, token_id
from omnipref.policies.autoregressive.routers import balance, router_logits
from omnipref.policies.autoregressive.state_extras import (
    POLICY_STATES,
    REFERENCE_STATES,
    check_given,
    of_logits,
    watched,
)
from omnipref.policies.cases import align
from omnipref.policies.policy import Batch, Reference
from omnipref.preferences import Preference
from omnipref.scores import Scores, reads_reference


@dataclass(frozen=True)
class AutoregressivePolicy:
    """Scores responses of `transformers` models that emit text, whatever they read.

    Args:
        owner: tokenizer, or the processor that holds one.
        layout: `Forest()` (shared prefixes), `Rows()` (one row per case) or `EncoderDecoder(start)`.
        positions: how the model numbers positions; `positions_of(model)`.
        max_length: longest case in tokens, media included; None for no limit. Of an encoder-decoder, either side.
        truncate: cut responses that exceed a limit rather than refuse the record; prompts and media are never cut.
        max_tokens: most tokens that one preference may take as it is laid out; None for no limit.
        chunk_elements: logits that the head holds at a time.

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
    max_tokens: int | None = None
    chunk_elements: int = CHUNK_ELEMENTS

    @property
    def stochastic(self) -> bool:
        """False: tokens are scored, nothing is drawn."""
        return False

    def encode(self, preference: Preference) -> EncodedPreference:
        """Tokenise one preference; see `omnipref.policies.autoregressive.encode.encode` for the errors.

        Raises:
            DataError: also where its cases together take more than `max_tokens`, and may not or cannot be cut.
        """
        encoded = encode(self.owner, preference, self.positions, self.max_length, self.truncate, self.layout.apart)
        if self.max_tokens is None or (tokens := self.tokens([encoded])) <= self.max_tokens:
            return encoded
        longest = max(len(case.response) for case in encoded.cases)
        cut = [encoded.cut(length) for length in range(1, longest)] if self.truncate else []
        fitting = bisect_right(cut, self.max_tokens, key=lambda each: self.tokens([each]))
        if fitting:
            return cut[fitting - 1]
        raise DataError(
            f"{tokens} tokens in {len(encoded.cases)} cases, shared ones counted once",
            f"at most {self.max_tokens}",
            cure="raise --max-batch-tokens, cut responses with --policy-args truncate=true, or drop the record",
            record=preference.record,
            source=preference.source or None,
        )

    def tokens(self, encoded: Sequence[EncodedPreference]) -> int:
        """Tokens that the model sees when these are one batch: shared ones once, padding included."""
        return self.layout.tokens(encoded)

    def case_keys(self, encoded: EncodedPreference) -> tuple[str, ...]:
        """The content of each case, by which its scores can be kept."""
        return tuple(case.key for case in encoded.cases)

    def collate(self, encoded: Sequence[EncodedPreference]) -> Batch:
        """Lay encoded preferences out as one batch."""
        pad = next((i for name in ("pad", "eos") if (i := token_id(self.owner, name)) is not None), 0)
        cases = align([item.preference for item in encoded])
        return Batch(cases, self.layout.inputs(encoded, pad))

    def score(
        self,
        model: nn.Module,
        batch: Batch,
        *,
        extras: frozenset[str] = frozenset(),
        seed: int = 0,
        reference: Reference | None = None,
    ) -> Scores:
        """Per-token log-probabilities of all responses; nothing is random, so `seed` changes nothing.

        The reference goes first, without gradient. Where an extra compares whole distributions, its last hidden states
        of the scored positions are kept, `[M, D]`, and its logits are made chunk by chunk beside the policy's.

        Raises:
            CapabilityError: an unknown extra; one that reads the reference where there is none; a reference with
                another vocabulary.
        """
        del seed
        check_given(extras, reference is not None)
        places = Places.of(batch.inputs)
        beside = Beside()
        if reference is not None:
            with torch.no_grad(), reference(model) as frozen:
                beside = call_inside(frozen, lambda: self._beside(frozen, batch.inputs, places, extras))
        return call_inside(model, lambda: self._score(model, batch, places, extras, beside))

    def _score(self, model: nn.Module, batch: Batch, places: Places, extras: frozenset[str], beside: Beside) -> Scores:
        with router_logits(language_model(model)) as routed:
            hidden_TD = self._hidden(model, batch.inputs)
        found = self._from_head(_states(model, hidden_TD, places), places, of_logits(extras), beside.states)
        if beside.logp_M is not None:
            found["ref_logp"] = beside.logp_M
        spread = {name: places.spread(value) for name, value in found.items()}
        spread |= beside.extras
        spread |= {name: read(hidden_TD, places) for name, read in POLICY_STATES.items() if name in extras}
        auxiliary = balance(language_model(model), routed, batch.inputs["count_BT"])
        logp, ref_logp, segment = spread.pop("logp"), spread.pop("ref_logp", None), batch.inputs["segment_NU"]
        return Scores(logp, places.mask_NU, batch.cases, ref_logp, segment, spread, auxiliary)

    def _beside(self, model: nn.Module, inputs: Mapping[str, Any], places: Places, extras: frozenset[str]) -> Beside:
        whole = {**inputs, "read_M": None} if extras & REFERENCE_STATES.keys() else inputs
        with watched(model, places, extras) as seen:
            states = _states(model, self._hidden(model, whole), places)
        if reads_reference(of_logits(extras)):
            states = replace(states, head=head_of(language_model(model)).as_it_stands())
            return Beside(states=states, extras=seen())
        return Beside(self._from_head(states, places)["logp"], extras=seen())

    def _from_head(
        self, policy: States, places: Places, extras: frozenset[str] = frozenset(), reference: States | None = None
    ) -> dict[str, Tensor]:
        def scores(hidden_MD: Tensor) -> dict[str, Tensor]:
            own = replace(policy, hidden_MD=hidden_MD)
            return token_scores(own, places.target_M, extras, reference=reference, chunk_elements=self.chunk_elements)

        return gathered([side for side in (policy, reference) if side is not None], scores)

    def _hidden(self, model: nn.Module, inputs: Mapping[str, Any]) -> Tensor:
        return self.layout.hidden(backbone_of(model), inputs).flatten(0, 1)


@dataclass(frozen=True)
class Beside:
    """What the reference gives to be compared with.

    Args:
        logp_M: its log-probabilities at the scored places, where these are enough.
        states: what gives its distributions after its weights are at rest, where an extra compares them.
        extras: made of its inner states, `[N, U, ...]` by name.
    """

    logp_M: Tensor | None = None
    states: States | None = None
    extras: Mapping[str, Tensor] = field(default_factory=dict)


def _states(model: nn.Module, hidden_TD: Tensor, places: Places) -> States:
    return States(head_of(language_model(model)), hidden_TD[places.state_M])
