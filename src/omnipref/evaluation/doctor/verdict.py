"""What a diagnosis says of a run."""

from __future__ import annotations

from dataclasses import dataclass

from omnipref.errors import DataError

STATES = ("ill", "unknown", "fine")


@dataclass(frozen=True)
class Verdict:
    """One answer about one run.

    Args:
        name: what was asked, such as `likelihood displacement`.
        state: `fine`, `ill` or `unknown`.
        evidence: the numbers it rests on, in a sentence or two; of an unknown one, what is missing.
        remedy: what to do: of an ill one, how to mend it; of an unknown one, how it could be told.

    Raises:
        DataError: another state.

    Example:
        >>> Verdict("length drift", "fine", "Lengths stay between 12 and 13.").ill
        False
    """

    name: str
    state: str
    evidence: str
    remedy: str = ""

    def __post_init__(self) -> None:
        if self.state not in STATES:
            raise DataError(f"the state {self.state!r}", f"one of {', '.join(STATES)}", field="state")

    @property
    def ill(self) -> bool:
        """Whether something is wrong with the run."""
        return self.state == "ill"
