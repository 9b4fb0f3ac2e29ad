"""Group-relative policy gradients: worked numbers, plain loops, exact expectations, and what a group is."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from objectives.examples import at_reference, lists, pairs, scored, with_columns
from objectives.test_gradients import gradient, loss_of
from torch import Tensor

from omnipref.errors import NeedsError
from omnipref.objectives import ADVANTAGES, NORMALISERS, RATIOS, SURROGATES, Needs, Objective, grpo, sft
from omnipref.preferences import unpaired
from omnipref.scores import Cases, Scores
from omnipref.training.data import check_needs, narrowed

GROUPS = scored(lists(4, 2, 3), seed=3)
GROUPS = replace(GROUPS, extras={**GROUPS.extras, "drawn": GROUPS.logp + 0.3 * torch.sin(7 * GROUPS.logp)})
SIZES = [4, 2, 3]


def groups(logp_PK: Tensor, ref_PK: Tensor, score_PK: Tensor, drawn_PK: Tensor | None = None) -> Scores:
    """Sets of K samples of one unit."""
    p, k = logp_PK.shape
    nothing = torch.zeros(p * k, dtype=torch.long)
    owner = torch.arange(p).repeat_interleave(k)
    cases = Cases(torch.arange(p), {}, owner, nothing - 1, nothing, {"score": score_PK.flatten()})
    column = logp_PK.reshape(-1, 1)
    extras = {} if drawn_PK is None else {"drawn": drawn_PK.reshape(-1, 1)}
    return Scores(column, torch.ones_like(column, dtype=torch.bool), cases, ref_PK.reshape(-1, 1), extras=extras)


def three(ratios: tuple[float, ...] = (1.5, 0.5, 1.0), scores: tuple[float, ...] = (3.0, 1.0, 2.0)) -> Scores:
    """One group of mean 2 and standard deviation 1, so that advantages are 1, -1 and 0 but for EPSILON."""
    drawn = torch.tensor([[-2.0, -1.0, -3.0]], dtype=torch.float64)
    logp = drawn + torch.tensor([ratios], dtype=torch.float64).log()
    return groups(logp, drawn - math.log(2), torch.tensor([scores], dtype=torch.float64), drawn)


@pytest.mark.parametrize(
    ("objective", "scores", "expected"),
    [
        # min(1.5, 1.2) - max(0.5, 0.8), over three.
        (grpo(beta=0, old="drawn"), three(), -(1.2 - 0.8) / 3 / 1.0001),
        (grpo(beta=0, clip_high=0.4, old="drawn"), three(), -(1.4 - 0.8) / 3 / 1.0001),
        # What makes things worse is not kept in bounds: 0.5 of the good one, 1.5 of the bad one.
        (grpo(beta=0, old="drawn"), three((0.5, 1.5, 1.0)), -(0.5 - 1.5) / 3 / 1.0001),
        (grpo(beta=0, advantage="centred", old="drawn"), three(), -(1.2 - 0.8) / 3),
        (grpo(beta=0, advantage="leave_one_out", old="drawn"), three(), -(1.2 - 0.8) / 2),
        (grpo(beta=0, advantage="centred"), three(), 0.0),
        # 1.2 (-2 + log 1.5) of the good one, 0.5 (-1 - log 2) of the bad one.
        (
            grpo(beta=0, advantage="centred", surrogate="weighted", old="drawn"),
            three(),
            -(1.2 * (-2 + math.log(1.5)) - 0.5 * (-1 - math.log(2))) / 3,
        ),
        # Log-ratios to the reference: log 3, log 1, log 2, so k = 1/3 - 1 + log 3, 0, 1/2 - 1 + log 2.
        (
            grpo(beta=0.3, penalty="loss", old="drawn"),
            three(scores=(1.0, 1.0, 1.0)),
            0.1 * (1 / 3 - 1 + math.log(3) + 1 / 2 - 1 + math.log(2)),
        ),
        (
            grpo(beta=0.3, old="drawn"),
            three(scores=(1.0, 1.0, 1.0)),
            0.1 * (1.5 * (1 / 3 - 1 + math.log(3)) + 1 / 2 - 1 + math.log(2)),
        ),
    ],
    ids=lambda value: str(value) if isinstance(value, Objective) else "",
)
def test_worked_numbers(objective: Objective, scores: Scores, expected: float):
    assert objective(scores).loss_P.item() == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_out_of_bounds_there_is_no_gradient_where_it_would_help():
    slope = gradient(grpo(beta=0, old="drawn"), three())
    assert slope.abs().max() == 0
    slope = gradient(grpo(beta=0, old="drawn"), three((0.5, 1.5, 1.0)))
    assert slope.flatten().tolist() == pytest.approx([-0.5 / 3, 1.5 / 3, 0.0], rel=1e-3)


def test_metrics():
    metrics = grpo(beta=0.3, old="drawn")(three()).metrics
    found = [metrics[f"grpo/{name}"].item() for name in ("score", "outside", "kl")]
    mean_kl = (1 / 3 - 1 + math.log(3) + 1 / 2 - 1 + math.log(2)) / 3
    assert found == pytest.approx([2.0, 2 / 3, mean_kl])


def test_a_penalty_in_the_reward_is_taken_off_the_score():
    scores = three()
    penalised = groups(
        scores.logp.reshape(1, 3),
        torch.zeros(1, 3),
        # log-likelihood of sampling less the reference's is log 2 throughout, but for the last here.
        torch.tensor([[3 - 0.3 * math.log(2), 1 - 0.3 * math.log(2), 2 + 0.3 * 1.0]], dtype=torch.float64),
        scores.extras["drawn"].reshape(1, 3),
    )
    assert scores.ref_logp is not None
    scores = scores.with_reference(scores.ref_logp + torch.tensor([[0.0], [0.0], [1 + math.log(2)]]))
    found = grpo(beta=0.3, penalty="reward", old="drawn")(scores).loss_P
    torch.testing.assert_close(found, grpo(beta=0, old="drawn")(penalised).loss_P)


def test_a_penalty_in_the_reward_bears_a_sample_that_the_reference_finds_far_likelier():
    scores = three()
    assert scores.ref_logp is not None
    far = scores.with_reference(scores.ref_logp + torch.tensor([[800.0], [0.0], [0.0]]))
    objective = grpo(beta=0.1, penalty="reward", old="drawn")
    assert objective(far).loss_P.isfinite().all() and gradient(objective, far).isfinite().all()


def loop(objective: dict[str, str], clip: tuple[float, float] = (0.8, 1.2)) -> list[float]:
    """The loss of each group of `GROUPS`, number by number."""
    score, start, losses, units = GROUPS.cases.columns["score"].double(), 0, [], []
    for size in SIZES:
        own = score[start : start + size]
        advantage = {
            "group": (own - own.mean()) / (own.std() + 1e-4),
            "centred": own - own.mean(),
            "batch": (own - own.mean()) / (score.std() + 1e-4),
            "leave_one_out": torch.stack([own[i] - (own.sum() - own[i]) / (size - 1) for i in range(size)]),
        }[objective["advantage"]]
        sums, counts = [], []
        for i in range(size):
            mask = GROUPS.mask[start + i]
            logp, drawn = GROUPS.logp[start + i][mask], GROUPS.extras["drawn"][start + i][mask]
            gap = logp - drawn
            gap = {"unit": gap, "mean": gap.mean().expand_as(gap), "total": gap.sum().expand_as(gap)}[
                objective["ratio"]
            ]
            gain = 0.0
            for r, likelihood in zip(gap.exp().tolist(), logp.tolist(), strict=True):
                a = advantage[i].item()
                bounded = min(r * a, min(max(r, clip[0]), clip[1]) * a)
                gain += {"clipped": bounded, "weighted": min(r, clip[1]) * a * likelihood}[objective["surrogate"]]
            sums.append(-gain)
            counts.append(int(mask.sum()))
        means = [total / count for total, count in zip(sums, counts, strict=True)]
        losses.append({"case": sum(means) / size, "total": sum(sums) / size}.get(objective["normalise"], sum(sums)))
        units.append(sum(counts))
        start += size
    per = {"group": units, "batch": [sum(units) / 3] * 3}.get(objective["normalise"], [1.0] * 3)
    return [loss / count for loss, count in zip(losses, per, strict=True)]


TABLES = {"advantage": ADVANTAGES, "ratio": RATIOS, "surrogate": SURROGATES, "normalise": NORMALISERS}


@pytest.mark.parametrize("names", list(itertools.product(*TABLES.values())), ids="-".join)
def test_every_combination_is_its_loop(names: tuple[str, ...]):
    chosen = dict(zip(TABLES, names, strict=True))
    found = grpo(beta=0, old="drawn", **chosen)(GROUPS)
    assert found.loss_P.tolist() == pytest.approx(loop(chosen))
    assert 0 < found.metrics["grpo/outside"] < 1


@pytest.mark.parametrize(
    "objective",
    [
        grpo(old="reference"),
        grpo(beta=0.5, old="reference", ratio="mean", normalise="batch"),
        grpo(beta=0.5, old="drawn", penalty="loss", normalise="group"),
        grpo(beta=0.5, old="drawn", penalty="reward", ratio="total", advantage="leave_one_out", normalise="total"),
    ],
    ids=str,
)
def test_finite_differences_where_the_samples_are_of_another_policy(objective: Objective):
    assert torch.autograd.gradcheck(loss_of(objective, GROUPS), GROUPS.logp.clone().requires_grad_())


def test_on_policy_the_gradient_is_that_of_a_ratio_that_has_not_moved_yet():
    here = replace(GROUPS, extras={**GROUPS.extras, "drawn": GROUPS.logp})
    for settings in ({"beta": 0.5}, {"ratio": "mean"}, {"surrogate": "weighted"}, {"penalty": "reward"}):
        own, other = (gradient(grpo(old=old, **settings), here) for old in ("policy", "drawn"))
        torch.testing.assert_close(own, other)
        assert own.abs().max() > 0.01


@pytest.mark.parametrize("count", [2, 3])
def test_on_average_the_gradient_is_that_of_the_expected_score_less_the_divergence(count: int):
    """Over all groups of samples, weighted by their probability under a policy of four responses: exact."""
    random = torch.Generator().manual_seed(0)
    logits, ref, score = (torch.randn(4, generator=random, dtype=torch.float64) for _ in range(3))
    ref = ref.log_softmax(0)
    sets = torch.tensor(list(itertools.product(range(4), repeat=count)))
    logits.requires_grad_()
    logp = logits.log_softmax(0)
    chance_P = logp[sets].sum(1).exp().detach()
    scores = groups(logp[sets], ref[sets], score[sets])
    value = (logp.exp() * score).sum() - 0.3 * (logp.exp() * (logp - ref)).sum()
    (expected,) = torch.autograd.grad(-value, logits, retain_graph=True)
    for penalty, right in {"corrected": True, "reward": True, "loss": False}.items():
        objective = grpo(beta=0.3, advantage="leave_one_out", normalise="total", penalty=penalty)
        (found,) = torch.autograd.grad((chance_P * objective(scores).loss_P).sum(), logits, retain_graph=True)
        assert torch.allclose(found, expected, atol=1e-12) == right


def test_equal_scores_teach_nothing():
    columns = {**GROUPS.cases.columns, "score": torch.full((9,), 0.5)}
    equal = replace(at_reference(GROUPS), cases=replace(GROUPS.cases, columns=columns))
    for name in ADVANTAGES:
        assert (gradient(grpo(advantage=name), equal) == 0).all()
    assert (gradient(grpo(), at_reference(GROUPS)) != 0).any()


def test_who_reads_what():
    assert not grpo(beta=0).needs.reference and grpo().needs.reference and grpo(beta=0, old="reference").needs.reference
    assert grpo(old="drawn").needs.extras == {"drawn"}
    assert grpo(advantage="batch").needs.batch and grpo(normalise="batch").needs.batch
    assert not grpo(normalise="group").needs.batch


def test_a_group_is_all_cases_whatever_another_term_reads():
    record = with_columns(pairs(1))[0].with_case("completion", pairs(1)[0].cases["rejected"])
    both = sft("chosen") + grpo()
    assert set(narrowed(record, both.needs).cases) == {"chosen", "rejected", "completion"}
    assert set(narrowed(record, sft("chosen").needs).cases) == {"chosen"}


def test_a_single_sample_is_no_group():
    alone = with_columns([unpaired("q", "a", True)])
    with pytest.raises(NeedsError, match=r"two or more samples of a context.*--online"):
        check_needs(Needs(columns=frozenset({"score"}), groups=True), alone[0])
    with pytest.raises(NeedsError, match=r"records \[0\] without two cases"):
        grpo()(scored(alone))
