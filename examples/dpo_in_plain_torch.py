"""DPO in a plain torch loop: a policy that is a table of logits, and nothing of omnipref but `Scores`.

Three prompts, three answers each, where a lower number is preferred. Run: python examples/dpo_in_plain_torch.py
"""

import torch
import torch.nn.functional as F

from omnipref.scores import Scores, pair_scores

BETA = 0.1
PROMPTS, ANSWERS = 3, 3


def log_likelihood(table: torch.Tensor, prompt: torch.Tensor, answer: torch.Tensor) -> torch.Tensor:
    """log pi(answer | prompt) of P cases, `[P]`."""
    return table.log_softmax(-1)[prompt, answer]


def dpo_loss(scores: Scores) -> torch.Tensor:
    """-log sigmoid(beta * (log-ratio of chosen - log-ratio of rejected)), `[P]`.  # (7) of 2305.18290"""
    assert scores.ref_logp is not None
    log_ratio_N = (scores.logp - scores.ref_logp).sum(1)
    margin_P = scores.at("chosen", log_ratio_N) - scores.at("rejected", log_ratio_N)
    return -F.logsigmoid(BETA * margin_P)


def main() -> float:
    """Train; print and return the share of preferences that the policy ends up agreeing with."""
    torch.manual_seed(0)
    reference = torch.randn(PROMPTS, ANSWERS)
    policy = reference.clone().requires_grad_()
    optimizer = torch.optim.Adam([policy], lr=0.1)

    for step in range(201):
        prompt = torch.randint(PROMPTS, (32,))
        answers = torch.stack([torch.randperm(ANSWERS)[:2] for _ in prompt]).sort(dim=1).values
        chosen, rejected = answers.unbind(1)
        scores = pair_scores(
            log_likelihood(policy, prompt, chosen),
            log_likelihood(policy, prompt, rejected),
            log_likelihood(reference, prompt, chosen),
            log_likelihood(reference, prompt, rejected),
        )
        loss = dpo_loss(scores).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 50 == 0:
            print(f"step {step:3d}  loss {loss.item():.4f}")

    agrees = torch.stack([policy[:, better] > policy[:, better + 1] for better in range(ANSWERS - 1)])
    print(f"answers in the right order: {agrees.float().mean():.0%}")
    return agrees.float().mean().item()


if __name__ == "__main__":
    main()
