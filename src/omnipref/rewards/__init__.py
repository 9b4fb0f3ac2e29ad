"""How good is each case: rules, judges, and mixtures of them."""

from omnipref.rewards.judges import Judge, both_orders, win_rate
from omnipref.rewards.reward import Reward, RewardTerm, count, length, rule
from omnipref.rewards.served import Unscored, quarantine_file, server_judge, server_reward

__all__ = [
    "Judge",
    "Reward",
    "RewardTerm",
    "Unscored",
    "both_orders",
    "count",
    "length",
    "quarantine_file",
    "rule",
    "server_judge",
    "server_reward",
    "win_rate",
]
