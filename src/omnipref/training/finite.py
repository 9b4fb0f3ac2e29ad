"""NaN and infinity end a run with the records that they came from."""

from __future__ import annotations

import torch

from omnipref.errors import NonFiniteError
from omnipref.objectives.objective import Outcome
from omnipref.scores import Scores


def check_finite(scores: Scores, outcome: Outcome) -> None:
    """Stop at NaN or infinity.

    Raises:
        NonFiniteError: names the records, and whether scores or loss went wrong first.
    """
    if torch.isfinite(outcome.loss_P).all():
        return
    parts = {"log-likelihoods": scores.logp, "reference log-likelihoods": scores.ref_logp}
    bad = torch.zeros_like(scores.cases.preference_N, dtype=torch.bool)
    where = "the loss"
    for name, value in parts.items():
        if value is not None and not torch.isfinite(value).all():
            where, bad = f"the {name}", bad | ~torch.isfinite(value).all(1)
    preferences = scores.cases.preference_N[bad].unique() if bad.any() else ~torch.isfinite(outcome.loss_P)
    records = scores.cases.record_P[preferences].tolist()
    raise NonFiniteError(
        f"found NaN or infinity in {where}, records {records}. Common causes: float16 (use --bf16), a learning rate "
        "that is too high, broken weights or media. To mend: look at those records with `omnipref data inspect`, "
        "then run the same command again; it resumes from the last complete checkpoint"
    )
