"""What is trained: two methods, and the controls without which the comparison of the two would mislead."""

from __future__ import annotations

from dataclasses import dataclass

BETA = 0.3
_TEXT = f"dpo(beta={BETA})"


@dataclass(frozen=True)
class DemoArm:
    """One row of the demo's table.

    Args:
        key: folder name, and the arm's name in claims.
        name: as people read it.
        objective: as in `omnipref train --objective`; empty leaves the base model as it is.
        group: heading in the table.
        note: what differs from the row it is compared with.
        learning_rate: peak rate.
    """

    key: str
    name: str
    objective: str
    group: str
    note: str
    learning_rate: float = 5e-5


BASE = DemoArm("base", "Before", "", "Base model", "trained on careless captions of biased pictures")
TEXT = DemoArm("text", "Text DPO", _TEXT, "Methods", "the truer of two own captions is preferred")
VISUAL = DemoArm(
    "text+visual",
    "Text + visual",
    f"{_TEXT} + dpo(beta={BETA}, rejected='chosen@negative_image')",
    "Methods",
    "and the true picture is preferred to another one for the same caption",
)
ANCHOR = DemoArm(
    "text+anchor",
    "Text + anchor",
    f"{_TEXT} + anchor(beta={BETA})",
    "Controls",
    "the chosen caption is held up, with no contrast of pictures",
)
FLIPPED = DemoArm(
    "text+flipped",
    "Text + flipped visual",
    f"{_TEXT} + dpo(beta={BETA}, chosen='chosen@positive_image', rejected='chosen@negative_image')",
    "Controls",
    "a coin decides which picture counts as the true one",
)
SLOWER = DemoArm(
    "text-lower-rate", "Text DPO, lower rate", _TEXT, "Controls", "text DPO at 3e-5 instead of 5e-5", learning_rate=3e-5
)
ARMS: tuple[DemoArm, ...] = (BASE, TEXT, VISUAL, ANCHOR, FLIPPED, SLOWER)
