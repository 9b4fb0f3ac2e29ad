"""LambdaLoss on weighted steps, and the weights: the numbers and edge cases of card `tree-tpo`."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from objectives.examples import lists, scored, taken, with_columns
from torch import Tensor

from omnipref.errors import ConfigError, NeedsError
from omnipref.objectives import dpo, lipo, step_weights
from omnipref.policies.cases import align
from omnipref.preferences import Case, ranked
from omnipref.scores import Scores

VALUES = [1.0, 0.7, 0.4, 0.1]
RHO = torch.tensor([[0, 0.6, 0.4], [0, 0.2, 0.3], [0, 0.1, -0.2], [0, -0.3, -0.5]], dtype=torch.float64)
COS = torch.tensor([[1, 1, 1], [1, 0.9, 0.8], [1, 0.5, 0.2], [1, 0.1, -0.2]], dtype=torch.float64)
WEIGHTED = lipo(beta=0.5, weights="step_weight")
DIGITS = {"rel": 0, "abs": 6e-7}


def tree(rho_NU: Tensor, weight_NU: Tensor, values: list[float], record: int = 0) -> Scores:
    """One tree of paths with one unit per step."""
    columns = {f"score/response_{k}": value for k, value in enumerate(values)}
    made = ranked("q", [f"path {k}" for k in range(len(values))], columns=columns, record=record)
    reference = torch.full_like(rho_NU, -5)
    logp, mask = (reference + rho_NU).requires_grad_(), torch.ones_like(rho_NU, dtype=torch.bool)
    segment = torch.arange(rho_NU.shape[1]).expand_as(rho_NU)
    return Scores(logp, mask, scored([made]).cases, reference, segment, {"step_weight": weight_NU})


def test_worked_example():
    scores = tree(RHO, 1 + COS, VALUES)
    outcome = WEIGHTED(scores)
    assert outcome.reward_N is not None
    assert outcome.reward_N.tolist() == pytest.approx([1.0, 0.46, -0.045, -0.365])
    assert outcome.loss_P.item() == pytest.approx(0.511893, **DIGITS)
    plain = lipo(beta=0.5)(scores)
    assert plain.loss_P.item() == pytest.approx(0.711067, **DIGITS)
    assert plain.reward_N is not None and plain.reward_N.tolist() == pytest.approx([0.5, 0.25, -0.05, -0.4])
    torch.testing.assert_close(WEIGHTED(tree(RHO, torch.ones_like(COS), VALUES)).loss_P, plain.loss_P)


def test_at_the_reference_it_is_log_2_times_the_sum_of_lambda():
    start = WEIGHTED(tree(torch.zeros_like(RHO), 1 + COS, VALUES)).loss_P
    assert start.item() == pytest.approx(1.175084, **DIGITS)
    assert start.item() == pytest.approx(1.695289 * math.log(2), **DIGITS)


@pytest.mark.parametrize("sign", [1, -1])
def test_two_paths_are_a_pair_times_lambda(sign: int):
    scores = tree(sign * RHO[:2, 1:], torch.ones(2, 2, dtype=torch.float64), [1.0, 0.0])
    pair = replace(scores.cases, rows={"chosen": torch.tensor([0]), "rejected": torch.tensor([1])})
    expected = 0.532456 * dpo(beta=0.5)(replace(scores, cases=pair)).loss_P
    torch.testing.assert_close(WEIGHTED(scores).loss_P, expected, rtol=2e-6, atol=0)
    fixed = tree(torch.tensor([[0.7], [-0.3]], dtype=torch.float64), torch.ones(2, 1), [1.0, 0.0])
    assert WEIGHTED(fixed).loss_P.item() == pytest.approx(0.252425, **DIGITS)  # S = .35 and -.15


def test_gradients_end_at_weights_and_scale_with_them():
    weight = (1 + COS).requires_grad_()
    scores = tree(RHO, weight, VALUES)
    WEIGHTED(scores).loss_P.sum().backward()
    assert weight.grad is None
    slope = scores.logp.grad
    assert slope is not None
    torch.testing.assert_close(slope / weight.detach(), (slope / weight.detach())[:, :1].expand_as(slope))

    def loss(logp: Tensor) -> Tensor:
        return WEIGHTED(replace(scores, logp=logp, extras={"step_weight": weight.detach()})).loss_P

    assert torch.autograd.gradcheck(loss, scores.logp.detach().clone().requires_grad_())


def test_a_common_step_cancels_where_its_weights_are_equal_only():
    common = torch.tensor([3.0, 0, 0], dtype=torch.float64)
    even, uneven = 1 + COS, torch.cat([(1 + COS)[:, :0], 2 - 0.2 * torch.arange(4.0)[:, None].expand(4, 3)], 1)
    for weight, same in ((even, True), (uneven.double(), False)):
        before, after = (WEIGHTED(tree(RHO + shift, weight, VALUES)).loss_P for shift in (0 * common, common))
        assert torch.allclose(before, after) == same


def test_a_constant_on_all_values_scales_the_loss():
    doubled = WEIGHTED(tree(RHO, 1 + COS, [value + 1 for value in VALUES])).loss_P
    torch.testing.assert_close(doubled, 2 * WEIGHTED(tree(RHO, 1 + COS, VALUES)).loss_P)


def test_data_without_weights_are_refused():
    scores = scored(lists(3))
    with pytest.raises(NeedsError, match="extra step_weight"):
        WEIGHTED(scores)
    assert not lipo().needs.extras and WEIGHTED.needs.extras == {"step_weight"}
    assert str(WEIGHTED) == "lipo(beta=0.5, weights='step_weight')"


def embedded(units: list[list[int]], vectors: list[list[list[float]]]) -> tuple[Tensor, Scores]:
    """Paths whose units belong to these steps, -1 for padding, and have these embeddings."""
    segment = torch.tensor(units)
    scores = tree(torch.zeros(segment.shape, dtype=torch.float64), torch.zeros(segment.shape), VALUES[: len(units)])
    mask = segment >= 0
    return torch.tensor(vectors, dtype=torch.float64), replace(scores, mask=mask, segment=segment.clamp(min=0))


X, Y, Z = [1.0, 0.0], [0.0, 2.0], [-3.0, 0.0]
NAN = [math.nan, math.nan]


def test_weights_are_one_plus_the_cosine_with_the_best_path():
    embedding, scores = embedded([[0, 1], [0, 1], [0, 1]], [[X, Y], [X, X], [Z, Y]])
    assert step_weights(embedding, scores).tolist() == [[2, 2], [2, 1], [0, 2]]
    swapped = replace(scores.cases, rank_N=torch.tensor([1, 0, 2]))
    assert step_weights(embedding, replace(scores, cases=swapped)).tolist() == [[2, 1], [2, 2], [0, 1]]


def test_steps_are_means_over_their_units_and_padding_does_not_matter():
    embedding, scores = embedded([[0, 0, 1, 1], [0, 1, 1, -1]], [[X, X, X, Y], [X, X, X, NAN]])
    cos = 0.5 / math.hypot(0.5, 1.0)  # the best path's second step is (0.5, 1)
    found = step_weights(embedding, scores)
    torch.testing.assert_close(found[1], torch.tensor([2, 1 + cos, 1 + cos, 0], dtype=torch.float64))


def test_what_is_longer_than_the_shortest_path_is_part_of_its_last_step():
    embedding, scores = embedded([[0, 1, 2], [0, 1, -1]], [[X, X, Y], [X, X, NAN]])
    cos = 0.5 / math.hypot(0.5, 1.0)
    torch.testing.assert_close(
        step_weights(embedding, scores), torch.tensor([[2, 2, 2], [2, 1 + cos, 0]], dtype=torch.float64)
    )


def test_means_are_the_weighted_mean_of_the_steps_means():
    embedding, scores = embedded([[0, 0, 1, 1], [0, 1, 1, 1]], [[X, X, Y, Y], [X, X, X, Y]])
    weight = step_weights(embedding, scores, "mean")
    once = step_weights(embedding, scores)
    value = torch.tensor([[1.0, 2.0, 3.0, 5.0], [7.0, 1.0, 2.0, 6.0]], dtype=torch.float64)
    steps = [(1.5, 4.0), (7.0, 3.0)]
    for k, (first, second) in enumerate(steps):
        one, two = once[k, 0], once[k, -1]
        expected = (one * first + two * second) / (one + two)
        assert (weight[k] * value[k]).sum().item() == pytest.approx(expected.item())


def test_weights_carry_no_gradient_and_stay_in_their_range():
    draw = torch.Generator().manual_seed(0)
    scores = replace(scored(lists(4, 2, 3), seed=2), segment=None)
    segment = (torch.arange(5) // 2).expand_as(scores.mask)
    embedding = torch.randn(*scores.mask.shape, 6, generator=draw, dtype=torch.float64).requires_grad_()
    found = step_weights(embedding, replace(scores, segment=segment))
    assert not found.requires_grad and found.min() >= 0 and found.max() <= 2
    assert ((found > 0) <= scores.mask).all()
    with pytest.raises(NeedsError, match="without segment"):
        step_weights(embedding, scores)
    with pytest.raises(ConfigError, match="found reduce='sum'"):
        step_weights(embedding, replace(scores, segment=segment), "sum")
    unranked = replace(scores.cases, rank_N=scores.cases.rank_N.clamp(min=1))
    with pytest.raises(NeedsError, match=r"records \[0, 1, 2\] without a case of rank 0"):
        step_weights(embedding, replace(scores, segment=segment, cases=unranked))


def test_centred_embeddings_count_from_the_mean_step_of_their_own_list():
    one, other = [100.0, 0.0], [100.0, 2.0]
    embedding, scores = embedded([[0, 1], [0, 1]], [[one, other], [other, other]])
    assert (step_weights(embedding, scores) > 1.999).all()  # what all have in common hides what they differ in
    expected = torch.tensor([[2, 2], [0, 2]], dtype=torch.float64)  # -1.5 and 0.5 from the mean of four steps
    torch.testing.assert_close(step_weights(embedding, scores, centred=True), expected)
    longer, padded = embedded([[0, 0, 1, 1], [0, 0, 1, -1]], [[one, one, other, other], [other, other, other, NAN]])
    expected = torch.tensor([[2, 2, 2, 2], [0, 0, 2, 0]], dtype=torch.float64)  # a step counts once, whatever its units
    torch.testing.assert_close(step_weights(longer, padded, centred=True), expected)


def test_other_lists_do_not_move_the_centre():
    records = lists(4, 2, 3)
    scores = scored(records, seed=2)
    draw = torch.Generator().manual_seed(0)
    hidden = 1 + torch.randn(*scores.mask.shape, 6, generator=draw, dtype=torch.float64)
    segment = (torch.arange(5) // 2).expand_as(scores.mask)
    scores = replace(scores, segment=segment, extras={"hidden": hidden})
    objective = lipo(embedding="hidden", centred=True)
    alone = taken(scores, records, [1])
    alone = replace(alone, segment=segment[: len(alone.mask)])
    torch.testing.assert_close(objective(alone).loss_P, objective(scores).loss_P[1:2])
    assert not objective.needs.batch
    assert not torch.allclose(objective(scores).loss_P, lipo(embedding="hidden")(scores).loss_P)
    weight = step_weights(hidden, scores)
    given = lipo(weights="step_weight")(replace(scores, extras={"step_weight": weight}))
    torch.testing.assert_close(lipo(embedding="hidden")(scores).loss_P, given.loss_P)


@pytest.mark.parametrize("centred", [False, True])
def test_cases_outside_the_list_do_not_count(centred: bool):
    records = lists(4, 2, 3)
    more = scored([each.with_case("completion", Case.raw("q", "a")) for each in records], seed=2)
    listed = more.cases.rank_N >= 0
    draw = torch.Generator().manual_seed(0)
    hidden = 1 + torch.randn(*more.mask.shape, 6, generator=draw, dtype=torch.float64)
    segment = torch.where(listed[:, None], torch.arange(5) // 2, 0)
    assert more.ref_logp is not None and not listed.all()
    own = (each[listed] for each in (more.logp, more.mask, more.ref_logp, segment, hidden))
    logp, mask, ref_logp, steps, states = own
    alone = Scores(logp, mask, align(with_columns(records)), ref_logp, steps, {"hidden": states})
    beside = replace(more, segment=segment, extras={"hidden": hidden})
    objective = lipo(embedding="hidden", centred=centred)
    torch.testing.assert_close(objective(beside).loss_P, objective(alone).loss_P)
