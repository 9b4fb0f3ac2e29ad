"""The chunked head against logits, log-softmax and autograd over the whole vocabulary at once."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from omnipref.errors import CapabilityError
from omnipref.policies.autoregressive import fused
from omnipref.policies.autoregressive.extras import LOGP, PLAIN, quantity
from omnipref.policies.autoregressive.fused import quantities_of
from omnipref.policies.autoregressive.head import Head, States, token_scores
from omnipref.scores import reads_reference

ROWS, WIDTH, VOCABULARY = 23, 8, 31
NAMES = (*PLAIN, "tilted@0.3", "tilted@-0.5", "top_k@4")
ALL = frozenset(NAMES)
EVERY_EXTRA = pytest.mark.parametrize("name", NAMES)


def plain(z: Tensor, z_ref: Tensor, target: Tensor) -> dict[str, Tensor]:
    """Every quantity as its definition has it, from full log-softmaxes under autograd."""
    logp, ref = z.log_softmax(-1), z_ref.log_softmax(-1)
    at = target[:, None]
    found = {
        "logp": logp.gather(1, at)[:, 0],
        "ref_logp": ref.gather(1, at)[:, 0],
        "entropy": torch.distributions.Categorical(logits=z).entropy(),
        "square_sum": z.softmax(-1).square().sum(-1),
        "ref_entropy": torch.distributions.Categorical(logits=z_ref).entropy(),
        "ref_square_sum": z_ref.softmax(-1).square().sum(-1),
        "kl_ref_policy": kl_div(logp, ref, reduction="none", log_target=True).sum(-1),
        "kl_policy_ref": kl_div(ref, logp, reduction="none", log_target=True).sum(-1),
        "top_k@4": logp.topk(4, -1).values,
    }
    for tilt in (0.3, -0.5):
        leaning = ((1 + tilt) * z - tilt * z_ref).log_softmax(-1)
        found[f"tilted@{tilt}"] = leaning.gather(1, at)[:, 0]
    return found


@dataclass
class Case:
    """Float64 states of a policy and a reference, each with a linear head."""

    rows: int = ROWS
    seed: int = 0
    linear: nn.Linear = field(init=False)
    policy: States = field(init=False)
    reference: States = field(init=False)
    target: Tensor = field(init=False)

    def __post_init__(self):
        torch.manual_seed(self.seed)
        self.linear, other = (nn.Linear(WIDTH, VOCABULARY, dtype=torch.float64) for _ in range(2))
        hidden = torch.randn(self.rows, WIDTH, dtype=torch.float64)
        self.policy = States(self.linear, hidden.clone().requires_grad_())
        self.reference = States(other, hidden + 0.1 * torch.randn_like(hidden))
        self.target = torch.randint(0, VOCABULARY, (self.rows,))

    def expected(self) -> dict[str, Tensor]:
        return plain(
            self.policy.head(self.policy.hidden_MD),
            self.reference.head(self.reference.hidden_MD).detach(),
            self.target,
        )

    def gradients(self, found: dict[str, Tensor]) -> list[Tensor]:
        """Of a sum with random weights, to the states and to what is trained in the head."""
        torch.manual_seed(1)
        total = sum((found[k] * torch.randn_like(found[k])).sum() for k in sorted(found) if found[k].requires_grad)
        trained = [p for p in self.linear.parameters() if p.requires_grad]
        return list(torch.autograd.grad(total, [self.policy.hidden_MD, *trained]))


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-12, msg=lambda text, n=name: f"{n}: {text}")


CHUNKS = pytest.mark.parametrize("rows", [1, 5, 22, ROWS, 1000])


@CHUNKS
@pytest.mark.parametrize("frozen", [False, True])
def test_values_and_gradients_equal_the_full_softmax(rows, frozen):
    case = Case()
    case.linear.requires_grad_(not frozen)
    limit = rows * VOCABULARY * 2
    found = token_scores(case.policy, case.target, ALL, reference=case.reference, chunk_elements=limit)
    expected = case.expected()
    same(found, expected)
    assert not found["ref_entropy"].requires_grad
    for ours, theirs in zip(case.gradients(found), case.gradients(expected), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


@CHUNKS
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("extras", [(), ("kl_policy_ref",), ("ref_entropy",), ("top_k@4",)])
def test_few_quantities_equal_the_full_softmax(rows, frozen, extras):
    """Frozen heads take another way where few quantities have gradients."""
    case = Case()
    case.linear.requires_grad_(not frozen)
    reference = case.reference if reads_reference(extras) else None
    limit = rows * VOCABULARY * (2 if reference else 1)
    found = token_scores(case.policy, case.target, frozenset(extras), reference=reference, chunk_elements=limit)
    expected = {name: value for name, value in case.expected().items() if name in found}
    same(found, expected)
    for ours, theirs in zip(case.gradients(found), case.gradients(expected), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


@EVERY_EXTRA
@pytest.mark.parametrize("block", [1, 2**18])
def test_gradients_equal_finite_differences(name, block, monkeypatch):
    monkeypatch.setattr(fused, "BLOCK_ELEMENTS", block)
    torch.manual_seed(2)
    z = (2 * torch.randn(5, 7, dtype=torch.float64)).requires_grad_()
    z_ref, target = 2 * torch.randn(5, 7, dtype=torch.float64), torch.randint(0, 7, (5,))
    quantities = (LOGP, quantity(name))

    def found(logits: Tensor) -> tuple[Tensor, ...]:
        return tuple(v for v in quantities_of(logits, target, z_ref, quantities) if v.requires_grad)

    assert torch.autograd.gradcheck(found, (z,), eps=1e-6, atol=1e-8, rtol=1e-7)


def test_a_reference_equal_to_the_policy_has_no_divergence_and_no_gradient():
    case = Case()
    twin = States(case.linear, case.policy.hidden_MD.detach())
    names = frozenset({"kl_ref_policy", "kl_policy_ref", "tilted@0.3"})
    found = token_scores(case.policy, case.target, names, reference=twin, chunk_elements=300)
    for name in ("kl_ref_policy", "kl_policy_ref"):
        assert torch.equal(found[name], torch.zeros_like(found[name]))
        (slope,) = torch.autograd.grad(found[name].sum(), case.policy.hidden_MD, retain_graph=True)
        assert torch.equal(slope, torch.zeros_like(slope))
    torch.testing.assert_close(found["tilted@0.3"], found["logp"], rtol=0, atol=1e-12)


def test_extras_of_known_distributions():
    """Uniform: H = log V, Σ p² = 1/V. A tilt of -1 is the reference, of 0 the policy."""
    identity = nn.Identity()
    uniform, peaked = torch.zeros(2, 4, dtype=torch.float64), torch.tensor([[0.0, 9, 0, 0], [9, 0, 0, 0]]).double()
    target = torch.tensor([1, 3])
    names = frozenset({"entropy", "square_sum", "kl_policy_ref", "tilted@-1", "tilted@0", "top_k@1"})
    found = token_scores(States(identity, uniform), target, names, reference=States(identity, peaked))
    log4 = torch.full((2,), 4.0, dtype=torch.float64).log()
    torch.testing.assert_close(found["entropy"], log4)
    torch.testing.assert_close(found["square_sum"], torch.full_like(log4, 0.25))
    torch.testing.assert_close(found["top_k@1"], -log4[:, None])
    # KL(uniform ‖ q) = -log 4 - mean log q
    torch.testing.assert_close(found["kl_policy_ref"], -log4 - peaked.log_softmax(-1).mean(-1))
    torch.testing.assert_close(found["tilted@-1"], found["ref_logp"])
    torch.testing.assert_close(found["tilted@0"], found["logp"])


def test_distributions_that_do_not_overlap_stay_finite():
    """Probabilities that underflow in float32 must not become NaN on the way back."""
    logits = torch.tensor([[0.0, 300.0, -300.0]], requires_grad=True)
    reference = States(nn.Identity(), torch.tensor([[300.0, 0.0, -300.0]]))
    names = frozenset(NAMES) - {"top_k@4"}
    found = token_scores(States(nn.Identity(), logits), torch.tensor([2]), names, reference=reference)
    assert found["logp"].item() == -600 and found["kl_policy_ref"].item() == 300 == found["kl_ref_policy"].item()
    sum(value.sum() for value in found.values() if value.requires_grad).backward()
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("cap, factor", [(None, 0.0625), (30.0, 1.0), (5.0, 4.0)])
def test_caps_and_scales_are_part_of_the_logits(cap, factor):
    """Gemma 2 caps, Cohere and Granite scale."""
    case = Case()
    found = token_scores(States(Head(case.linear, factor, cap), case.policy.hidden_MD), case.target, chunk_elements=200)
    z = factor * case.linear(case.policy.hidden_MD)
    z = cap * torch.tanh(z / cap) if cap else z
    expected = {"logp": z.log_softmax(-1).gather(1, case.target[:, None])[:, 0]}
    same(found, expected)
    for ours, theirs in zip(case.gradients(found), case.gradients(expected), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_states_give_float32_scores(dtype):
    """What is lost is lost in the logits, not in the softmax: it agrees with float64 on the rounded logits."""
    case = Case()
    linear = nn.Linear(WIDTH, VOCABULARY).to(dtype)
    hidden = case.policy.hidden_MD.detach().to(dtype).requires_grad_()
    other = States(nn.Linear(WIDTH, VOCABULARY).to(dtype), case.reference.hidden_MD.to(dtype))
    found = token_scores(States(linear, hidden), case.target, ALL, reference=other, chunk_elements=400)
    z, z_ref = linear(hidden).detach().double(), other.head(other.hidden_MD).detach().double()
    expected = plain(z, z_ref, case.target)
    for name, value in found.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value.double(), expected[name], rtol=1e-6, atol=2e-6)
    exact = nn.Linear(WIDTH, VOCABULARY, dtype=torch.float64)
    exact.load_state_dict({name: value.double() for name, value in linear.state_dict().items()})
    wide = hidden.detach().double().requires_grad_()
    torch.autograd.backward(found["logp"].sum())
    torch.autograd.backward(token_scores(States(exact, wide), case.target)["logp"].sum())
    torch.testing.assert_close(hidden.grad.double(), wide.grad, rtol=0, atol=8 * torch.finfo(dtype).eps)


class Made(TorchDispatchMode):
    """Notes every tensor that is made inside, and for how long it lives."""

    def __init__(self):
        super().__init__()
        self.tensors: list[tuple[int, weakref.ref[Tensor]]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        made = [leaf for leaf in tree_leaves(found) if isinstance(leaf, Tensor)]
        self.tensors += [(leaf.numel(), weakref.ref(leaf)) for leaf in made]
        return found

    @property
    def largest(self) -> int:
        return max(elements for elements, _ in self.tensors)

    def alive(self, elements: int) -> int:
        """Different memory of this size that is still there."""
        living = [tensor for size, made in self.tensors if size == elements and (tensor := made()) is not None]
        return len({tensor.untyped_storage().data_ptr() for tensor in living})


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("extras", [frozenset(), ALL])
def test_no_tensor_exceeds_a_chunk_forward_or_backward(frozen, extras):
    case = Case(rows=400)
    case.linear.requires_grad_(not frozen)
    reference = case.reference if extras else None
    limit = 40 * VOCABULARY * (2 if extras else 1)
    with Made() as made:
        found = token_scores(case.policy, case.target, extras, reference=reference, chunk_elements=limit)
        case.gradients(found)
    assert made.largest == max(40 * VOCABULARY, 400 * WIDTH)
    with Made() as made:
        case.gradients(token_scores(case.policy, case.target, extras, reference=reference))
    assert made.largest == 400 * VOCABULARY


@pytest.mark.parametrize("frozen, kept", [(False, 1), (True, 0)])
def test_one_chunk_at_most_is_kept_for_the_gradient(frozen, kept):
    case = Case(rows=400)
    case.linear.requires_grad_(not frozen)
    with Made() as made:
        found = token_scores(case.policy, case.target, chunk_elements=40 * VOCABULARY)
    assert made.alive(40 * VOCABULARY) == kept
    case.gradients(found)


@pytest.mark.parametrize(
    "name, message",
    [
        ("entropi", "found the extra `entropi`; did you mean `entropy`"),
        ("kl_policy_reff", "did you mean `kl_policy_ref`"),
        ("tilted", "found the extra `tilted`; expected a number after `@`, as in `tilted@0.01`"),
        ("top_k@many", "expected a number after `@`, as in `top_k@8`"),
        ("top_k@0", "expected 1 to 31"),
        ("top_k@32", "expected 1 to 31, the size of the vocabulary"),
        ("hidden", "known: entropy"),
        ("tilted@0.1", "found the extras tilted@0.1 without a reference; pass `reference`"),
    ],
)
def test_extras_that_cannot_be_had_are_refused(name, message):
    case = Case()
    with pytest.raises(CapabilityError, match=message):
        token_scores(case.policy, case.target, frozenset({name}))


def test_a_reference_with_another_vocabulary_is_refused():
    case = Case()
    other = States(nn.Linear(WIDTH, VOCABULARY + 1, dtype=torch.float64), case.reference.hidden_MD)
    with pytest.raises(CapabilityError, match="found 31 logits in the policy and 32 in the reference"):
        token_scores(case.policy, case.target, frozenset({"ref_entropy"}), reference=other)


def test_no_scored_place_gives_empty_scores():
    case = Case(rows=0)
    found = token_scores(case.policy, case.target, ALL, reference=case.reference)
    assert {tuple(value.shape) for value in found.values()} == {(0,), (0, 4)}
