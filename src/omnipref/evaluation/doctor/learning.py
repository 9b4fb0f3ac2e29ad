"""Whether a run learns: not at all, from the wrong start, no longer, or the wrong thing."""

from __future__ import annotations

import statistics

from omnipref.evaluation.doctor.rewards import against_reference
from omnipref.evaluation.doctor.run import ENOUGH, Run, Series
from omnipref.evaluation.doctor.verdict import Verdict

STUCK, EXACT = 1e-4, 1e-7
"""Largest margin of a run that has learned nothing, and of one whose reference is the policy itself."""
TOLERANCE = {"full": (1e-3, 1e-5), "half": (1e-2, 1e-3)}
"""How far rewards may be from 0 before the first update, by precision: a number, and a share of the log-probability."""
SATURATED_ACCURACY, SATURATED_LOSS = 0.99, 0.05
TRUE_REWARD = "true_reward"
"""Last part of the name under which a true reward is logged, such as `eval_true_reward`."""
FALL = 0.1
"""Share of the gain in true reward that must be lost again to count as over-optimised."""


def learning(run: Run) -> Verdict:
    """A dead reference or a dead run: rewards stay at 0, the loss of DPO at log 2 = 0.6931.

    Ill where no logged learning rate or no gradient is above 0, or where no margin ever leaves 0 by more than 0.0001.
    """
    name = "nothing is learned"
    rates, gradients, loss = (run.series(key) for key in ("learning_rate", "grad_norm", "loss"))
    if len(loss) < ENOUGH:
        return Verdict(name, "unknown", f"The log has {len(loss)} lines with a loss.", "Train for more steps")
    evidence = f"Loss {loss.values[0]:.4f} to {loss.last:.4f} in {loss.steps[-1]:.0f} steps"
    if len(rates) and max(rates.values) == 0:
        cure = "Give a `--learning-rate` above 0, or end `--warmup-ratio` sooner"
        return Verdict(name, "ill", f"{evidence}; every logged learning rate is 0.", cure)
    if len(gradients) and max(gradients.values) == 0:
        cure = "Nothing that is trained takes part in the loss: look at adapters and `lora_target_modules`"
        return Verdict(name, "ill", f"{evidence}; every gradient is 0.", cure)
    margins = run.series("rewards/margins")
    if not against_reference(run) or len(margins) < ENOUGH:
        return Verdict(name, "fine", f"{evidence}; gradients are not 0.")
    furthest = max(abs(margin) for margin in margins.values[1:])
    evidence += f", rewards at most {furthest:.2g} apart"
    if furthest > STUCK:
        return Verdict(name, "fine", f"{evidence}.")
    if furthest > EXACT:
        cure = "Raise the learning rate (5e-7 to 1e-5 is usual, 1e-5 and more with LoRA), or train longer"
        return Verdict(name, "ill", f"{evidence}: hardly anything moves.", cure)
    told = (
        f"{evidence} although the gradient is {statistics.fmean(gradients.values):.2g}" if len(gradients) else evidence
    )
    cure = (
        "Reference and policy are the same weights: give the trainer a frozen copy (`omnipref train` makes one), an "
        "adapter switched off, or `--precompute-ref-log-probs`"
    )
    return Verdict(name, "ill", f"{told}: the reference moves with the policy.", cure)


def reference(run: Run) -> Verdict:
    """A reference that is not the start: rewards before the first update are not 0.

    The first line of the log is of the first batch, before any update; against the model that training starts from,
    both responses have the same likelihood as the reference gives them.
    """
    name = "wrong reference"
    known = against_reference(run)
    if known is False:
        return Verdict(name, "fine", "The rewards are not measured against a reference.")
    keys = [key for key in run.names() if key.startswith("rewards/margins")] or ["rewards/chosen"]
    firsts = {key: run.series(key) for key in keys}
    if known is None or any(not len(series) or series.steps[0] > 1 for series in firsts.values()):
        cure = "Keep `logging_first_step` on, and an objective that omnipref knows in `config.yaml`"
        return Verdict(name, "unknown", "The log holds no rewards of the first step, or no known objective.", cure)
    key, value = max(((key, series.values[0]) for key, series in firsts.items()), key=lambda item: abs(item[1]))
    absolute, share = TOLERANCE["half" if _half(run) else "full"]
    logps = run.series("logps/chosen")
    allowed = absolute + share * (abs(logps.values[0]) if len(logps) else 0.0)
    evidence = f"Before the first update {key} is {value:.4g}; rounding explains up to {allowed:.2g}."
    if abs(value) <= allowed:
        return Verdict(name, "fine", evidence)
    named = [f"{key} = {run.config[key]}" for key in ("ref_model", "ref_adapter", "adapter") if run.config.get(key)]
    cure = (
        f"The reference is not the model that training starts from ({', '.join(named) or run.model}): leave "
        "`--ref-model` and `--ref-adapter` away, or name that model; an adapter is measured against the model it was "
        "trained on (`adapter_config.json`), and its dropout must be 0. If another reference is meant, read rewards as "
        "changes since the first step"
    )
    return Verdict(name, "ill", evidence, cure)


def _half(run: Run) -> bool:
    return bool(run.config.get("bf16") or run.config.get("fp16")) or run.config.get("dtype", "float32") != "float32"


def saturation(run: Run) -> Verdict:
    """Reward saturation: every pair is in order and the loss is nearly gone, so gradients teach no more.

    Ill where at the end 99 % of pairs are in order and the loss is below 5 % of what it was first.
    """
    name = "reward saturation"
    accuracy, loss, margins = (run.series(key) for key in ("rewards/accuracies", "loss", "rewards/margins"))
    if len(loss) >= ENOUGH and not len(accuracy):
        return Verdict(name, "fine", "No order of rewards is logged: the objective compares no responses.")
    if min(len(accuracy), len(loss), len(margins)) < ENOUGH:
        cure = "Train longer, or with a smaller `--logging-steps`"
        return Verdict(name, "unknown", "The log holds too few accuracies and losses.", cure)
    evidence = f"At the end {accuracy.last:.0%} of pairs in order, margin {margins.last:.3g}, loss {loss.last:.3g}"
    evidence += f" (first {loss.values[0]:.3g})"
    held_out = run.series("eval_rewards/accuracies")
    evidence += f", held-out {held_out.values[-1]:.0%} in order." if len(held_out) else "."
    limit = SATURATED_LOSS * loss.values[0]
    if accuracy.last < SATURATED_ACCURACY or loss.values[0] <= 0 or loss.last >= limit:
        return Verdict(name, "fine", evidence)
    step = next(s for s, value in zip(loss.steps, loss.values, strict=True) if value < limit)
    cure = (
        "Stop earlier, lower the learning rate, or bound the target (`ipo()`, `dpo(label_smoothing=0.1)`); pairs that "
        "are this easy teach little: `omnipref data inspect` shows what tells them apart"
    )
    return Verdict(name, "ill", f"{evidence} The loss is below 5 % since step {step:.0f}.", cure)


def over_optimisation(run: Run) -> Verdict:
    """Over-optimisation: a true reward in the log rises to a peak and falls again.

    Ill where the last quarter of its curve has lost a tenth of what was gained, by more than its scatter.
    """
    name = "over-optimisation"
    keys = [key for key in run.names() if key.rpartition("/")[2].removeprefix("eval_") == TRUE_REWARD]
    curves = {key: series for key in keys if len(series := run.series(key)) >= ENOUGH}
    if not curves:
        cure = (
            f"Log a judge's or verifier's reward on held-out prompts as `{TRUE_REWARD}` at least {ENOUGH} times; in "
            "worlds whose truth is known, `omnipref compare` draws it against KL"
        )
        return Verdict(name, "unknown", f"The log holds no curve of a `{TRUE_REWARD}`.", cure)
    verdicts = [_peaked(name, key, series) for key, series in curves.items()]
    return next((verdict for verdict in verdicts if verdict.ill), verdicts[0])


def _peaked(name: str, key: str, series: Series) -> Verdict:
    place = max(range(len(series)), key=series.values.__getitem__)
    peak, first = series.values[place], series.values[0]
    lost, gained = peak - series.last, peak - first
    evidence = (
        f"{key} {first:.3f} at first, {peak:.3f} at best (step {series.steps[place]:.0f}), {series.last:.3f} last."
    )
    if lost <= max(FALL * gained, 2 * series.last_error, 1e-6):
        return Verdict(name, "fine", evidence)
    cure = (
        f"Stop near step {series.steps[place]:.0f} (`--max-steps`), keep closer to the reference (a larger beta), or "
        "use an objective with an anchor"
    )
    return Verdict(name, "ill", evidence, cure)
