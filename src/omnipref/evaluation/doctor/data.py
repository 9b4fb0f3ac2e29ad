"""Whether the data suit the model: responses that it would write itself, and sources that cannot be told apart."""

from __future__ import annotations

import shlex

from omnipref.evaluation.doctor.run import Run
from omnipref.evaluation.doctor.verdict import Verdict

APART = 0.8
"""Accuracy of a probe on style from which the two sides of the data count as different sources."""
FOREIGN = 0.5
"""Nats per unit by which data may be less likely than the model's own samples; a unit is then 1.6 times as rare."""


def off_policy(run: Run) -> Verdict:
    """Off-policy data: the responses are much less likely under the starting model than what it writes itself.

    `-log p` per unit of the first batches minus what the model's own samples have, which is its entropy; the difference
    is the divergence of the data from the model. Ill from 0.5 nats per unit.
    """
    name = "off-policy data"
    found = _excess(run)
    if found is None:
        cure = "Train with this version, which logs `logps/` and `lengths/` of the first step"
        return Verdict(name, "unknown", "The log holds no `logps/` with `lengths/` of the first step.", cure)
    nats, own, source = found
    evidence = f"The starting model gives the data {nats:.2f} nats per unit"
    if own is None:
        return Verdict(name, "unknown", f"{evidence}; what it gives its own samples is not known.", _commands(run))
    evidence += f", {source} {own:.2f}."
    if nats - own < FOREIGN:
        return Verdict(name, "fine", evidence)
    cure = (
        "Fine-tune on the chosen responses first (`--objective 'sft()'`), or pair the model's own samples: `omnipref "
        "build` with `best_vs_worst`"
    )
    return Verdict(name, "ill", f"{evidence} The data are {nats - own:.2f} nats per unit away.", cure)


def _excess(run: Run) -> tuple[float, float | None, str] | None:
    """`-log p` per unit of data at the start, the same of own samples if known, and where that is from."""
    roles = [key.removeprefix("logps/") for key in run.names() if key.startswith("logps/")]
    sums: dict[str, float] = dict.fromkeys(("logps", "lengths", "ref_entropies", "entropies"), 0.0)
    missing = set[str]()
    for role in roles:
        for kind in sums:
            series = run.series(f"{kind}/{role}")
            if len(series) and series.steps[0] <= 1:
                sums[kind] += series.values[0]
            else:
                missing.add(kind)
    if {"logps", "lengths"} & missing or sums["lengths"] <= 0:
        return None
    nats = -sums["logps"] / sums["lengths"]
    if run.own is not None:
        return nats, run.own, "its own samples"
    entropy = next((kind for kind in ("entropies", "ref_entropies") if kind not in missing), None)
    if entropy is None:
        return nats, None, ""
    return nats, sums[entropy] / sums["lengths"], "its own entropy on them is"


def _commands(run: Run) -> str:
    model, data = shlex.quote(run.model), shlex.quote(run.data)
    return (
        f"Run `omnipref build {data} --builders 'sample(n=1)' --model-name-or-path {model} --output own.jsonl`, "
        f"`omnipref score own.jsonl --model-name-or-path {model} --output own-scores.jsonl`, `omnipref doctor RUN "
        "--own-scores own-scores.jsonl`"
    )


def separable(run: Run) -> Verdict:
    """Separable sources: style alone tells chosen from rejected, so the loss may learn who wrote them.

    Ill where a linear probe on length, word length and kinds of characters is right about 80 % of held-out pairs.
    """
    name = "separable sources"
    if run.probe is None:
        cure = (
            "It takes 50 pairs of different prompts; if there are so many, call `omnipref doctor` from the folder "
            "where the run was started, so that its file is found"
        )
        return Verdict(name, "unknown", "The data are no local file with 50 pairs of different prompts.", cure)
    evidence = f"By style alone a linear probe puts {run.probe.accuracy:.0%} of {run.probe.pairs} pairs in order"
    if run.probe.accuracy < APART:
        return Verdict(name, "fine", f"{evidence}.")
    cure = (
        "Take both responses of a pair from the same source (`omnipref build` with `best_vs_worst`), or even out what "
        "differs; `linear_separability` in `omnipref.evaluation.separability` compares ways of making pairs"
    )
    return Verdict(name, "ill", f"{evidence}: chosen and rejected may only differ in who wrote them.", cure)
