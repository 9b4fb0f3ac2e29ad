"""Where the probability goes: away from the chosen response, away from both, or along with length."""

from __future__ import annotations

from omnipref.evaluation.doctor.rewards import moves
from omnipref.evaluation.doctor.run import ENOUGH, NOISY, Run, Series
from omnipref.evaluation.doctor.verdict import Verdict

DISPLACED_SHARE = 0.1
"""Fall of the chosen response, as a share of the margin gained, from which a run counts as displaced."""
FOLLOWS_LENGTH = 0.5
"""Correlation of margin and length difference from which the reward counts as one of length."""
LENGTH_CHANGE = 0.2
"""Relative change of a mean length from which it counts as drift."""
_NO_LOG = "The log has fewer than {n} lines with `rewards/` or `logps/` of chosen and rejected."


def displacement(run: Run) -> Verdict:
    """Likelihood displacement: the chosen response becomes less likely while the margin grows.

    Ill where the chosen response lost more than 0.1 of what the margin gained.

    Source: arXiv 2410.08847.
    """
    name = "likelihood displacement"
    found = moves(run)
    if found is None:
        return _not_logged(name)
    if not (found.chosen.falls and found.margin.rises and -found.chosen.by > DISPLACED_SHARE * found.margin.by):
        return Verdict(name, "fine", found.evidence)
    lost = f" The chosen lost {-found.chosen.by / found.margin.by:.2f} for every 1 that the margin gained."
    remedy = (
        "Hold the chosen response: add an anchor (`dpo(beta=0.1) + 0.1*sft()`), or train with `dpop()` or `cal_dpo()`; "
        "lower the learning rate; leave out pairs whose two responses are nearly the same"
    )
    return Verdict(name, "ill", found.evidence + lost, remedy)


def dispersion(run: Run) -> Verdict:
    """Dispersion: both responses become less likely, and by more than they are told apart; neither gets the mass.

    Ill where both fall and the chosen response lost more than the margin gained.
    """
    name = "dispersion"
    found = moves(run)
    if found is None:
        return _not_logged(name)
    if not (found.chosen.falls and found.rejected.falls and -found.chosen.by > found.margin.by):
        return Verdict(name, "fine", found.evidence)
    lost = f" Both fell, the chosen by {-found.chosen.by:.3f} for a margin of {found.margin.by:+.3f}."
    remedy = (
        "The mass goes to responses that are in no pair: look at samples (`omnipref sample`); use targets that are "
        "absolute (`nca_pair()`, `bco()`, or an anchor `dpo() + sft()`), a larger beta or a lower learning rate"
    )
    return Verdict(name, "ill", found.evidence + lost, remedy)


def _not_logged(name: str) -> Verdict:
    remedy = "Train longer or with a smaller `--logging-steps`, with an objective that compares chosen and rejected"
    return Verdict(name, "unknown", _NO_LOG.format(n=NOISY), remedy)


def length_drift(run: Run) -> Verdict:
    """Length drift: the reward follows length, or the responses of the batches become longer or shorter.

    Ill where margins correlate with length differences by 0.5 or more, or where a mean length changes by a fifth.
    """
    name = "length drift"
    lengths = {key: series for key in run.names() if key.startswith("lengths/") if len(series := run.series(key)) > 1}
    if not lengths:
        cure = f"`omnipref data inspect {run.data}` shows the lengths of the data; train again to log those of batches"
        return Verdict(name, "unknown", "The log holds no `lengths/`.", cure)
    said = [f"Mean {key.removeprefix('lengths/')} length {series.last:.1f}" for key, series in lengths.items()]
    follows = run.series("length_correlation")
    if len(follows) >= ENOUGH:
        said.append(f"margins correlate with length differences by {follows.last:+.2f}")
    changed = [key for key, series in lengths.items() if _drifts(series)]
    evidence = f"{'; '.join(said)} (last quarter of the log)."
    if changed:
        went = ", ".join(f"{key} {lengths[key].change().text(1)}" for key in changed)
        cure = "Shuffle the data; of samples, limit `max_new_tokens` or judge them at equal length"
        return Verdict(name, "ill", f"{evidence} Over the run: {went}.", cure)
    if len(follows) >= ENOUGH and abs(follows.last) >= FOLLOWS_LENGTH and abs(follows.last) > 2 * follows.last_error:
        cure = (
            "Take length out of the reward: `length_dpo(alpha=0.05)`, `ld_dpo()`, `sampo()` or `simpo()`, or balance "
            "the lengths of the pairs"
        )
        return Verdict(name, "ill", evidence, cure)
    told = " What the model now writes cannot be told from a log; `omnipref sample` before and after tells."
    return Verdict(name, "fine", evidence + told)


def _drifts(series: Series) -> bool:
    if len(series) < NOISY:
        return False
    change = series.change()
    return (change.falls or change.rises) and abs(change.by) > LENGTH_CHANGE * abs(change.start)
