"""What changes over time in a method, as data: a schedule says what happens when, and runs nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from omnipref.errors import ConfigError, DataError


@dataclass(frozen=True, kw_only=True)
class CurriculumStages:
    """One training run after another, each on its part of the data and from the previous run's model.

    Every stage is a whole run: its optimiser and its learning-rate schedule are fresh.

    Args:
        stages: for each stage, the values of the column that it trains on; `((0,), (1,), (2,))` goes from easy to
            hard, `((0, 1, 2),)` is one run on everything.
        column: of the records, as `ranked_to_pairs` writes it.
        refresh_reference: whether a stage's reference is the model that it starts from; otherwise that of the first.

    Raises:
        ConfigError: there is no stage, or one without a value.
    """

    stages: tuple[tuple[int, ...], ...] = ((0,), (1,), (2,))
    column: str = "stage"
    refresh_reference: bool = True

    def __post_init__(self) -> None:
        if not self.stages or not all(self.stages):
            raise ConfigError(f"found stages={self.stages!r}; expected one or more, each with a value of the column")

    def parts(self, columns: Sequence[Mapping[str, float]]) -> tuple[tuple[int, ...], ...]:
        """The numbers of the records that each stage trains on, in their order.

        Args:
            columns: of every record.

        Raises:
            DataError: a record lacks the column, or a stage has no record.

        Example:
            >>> easy_to_hard = CurriculumStages(stages=((0,), (1,)))
            >>> easy_to_hard.parts([{"stage": 1.0}, {"stage": 0.0}, {"stage": 1.0}])
            ((1,), (0, 2))
        """
        for number, record in enumerate(columns):
            if self.column not in record:
                cure = "omnipref build FILE --builders ranked_to_pairs --output OUT"
                raise DataError("no stage", "a number", cure=cure, record=number, field=self.column)
        parts = tuple(
            tuple(number for number, record in enumerate(columns) if record[self.column] in values)
            for values in self.stages
        )
        if not all(parts):
            empty = self.stages[[bool(part) for part in parts].index(False)]
            raise DataError(f"no record whose `{self.column}` is in {empty}", "one or more", cure="name other stages")
        return parts
