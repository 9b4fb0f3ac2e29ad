"""The chunked head against a full log-softmax."""

from __future__ import annotations

import pytest
import torch

from omnipref.policies.autoregressive.head import EXTRAS, token_logps

torch.manual_seed(0)


def _inputs(rows: int = 23, width: int = 8, vocabulary: int = 31):
    hidden = torch.randn(rows, width, dtype=torch.float64, requires_grad=True)
    linear = torch.nn.Linear(width, vocabulary, dtype=torch.float64)
    return hidden, linear, torch.randint(0, vocabulary, (rows,))


@pytest.mark.parametrize("chunk_elements", [1, 31 * 5, 2**24])
def test_values_and_gradients_equal_the_full_softmax(chunk_elements):
    hidden, linear, target = _inputs()
    found = token_logps(linear, hidden, target, frozenset({"entropy"}), chunk_elements)
    full = linear(hidden).log_softmax(-1)
    expected = full.gather(1, target[:, None])[:, 0]
    torch.testing.assert_close(found["logp"], expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(found["entropy"], -(full.exp() * full).sum(-1), rtol=0, atol=1e-12)
    weight = torch.randn(len(target), dtype=torch.float64)
    ours = torch.autograd.grad((found["logp"] * weight).sum(), [hidden, *linear.parameters()])
    theirs = torch.autograd.grad((expected * weight).sum(), [hidden, *linear.parameters()])
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_low_precision_states_give_float32_scores():
    hidden, linear, target = _inputs()
    found = token_logps(linear.bfloat16(), hidden.bfloat16(), target)
    assert found["logp"].dtype == torch.float32


def test_chunks_bound_what_is_held():
    widest = []
    hidden, linear, target = _inputs(rows=40)

    def head(states):
        widest.append(states.shape[0])
        return linear(states)

    with torch.no_grad():
        token_logps(head, hidden, target, chunk_elements=31 * 7, vocabulary=31)
    assert max(widest) == 7


def test_extras_of_a_uniform_distribution():
    log_softmax = torch.full((2, 4), 0.25).log()
    assert torch.allclose(EXTRAS["entropy"](log_softmax), torch.tensor(4.0).log())
    assert torch.allclose(EXTRAS["square_sum"](log_softmax), torch.tensor(0.25))
