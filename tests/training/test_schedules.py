"""A curriculum as data: which records each stage trains on."""

from __future__ import annotations

import pytest

from omnipref.errors import ConfigError, DataError
from omnipref.training.schedules import CurriculumStages

COLUMNS = [{"stage": float(k % 3), "level": float(k)} for k in range(7)]


def test_the_order_changes_the_stages_and_never_what_is_in_them():
    easy, hard = (CurriculumStages(stages=stages) for stages in (((0,), (1,), (2,)), ((2,), (1,), (0,))))
    assert easy == CurriculumStages()
    assert easy.parts(COLUMNS) == ((0, 3, 6), (1, 4), (2, 5)) == hard.parts(COLUMNS)[::-1]


def test_stages_may_share_records_leave_some_out_and_read_another_column():
    assert CurriculumStages(stages=((0, 1, 2),)).parts(COLUMNS) == (tuple(range(7)),)
    assert CurriculumStages(stages=((0,), (0, 1))).parts(COLUMNS) == ((0, 3, 6), (0, 1, 3, 4, 6))
    assert CurriculumStages(stages=((4,), (5,)), column="level").parts(COLUMNS) == ((4,), (5,))


def test_what_cannot_be_run_is_refused():
    for stages in ((), ((0,), ())):
        with pytest.raises(ConfigError, match="one or more, each with a value"):
            CurriculumStages(stages=stages)
    with pytest.raises(DataError, match=r"record 1, field `stage`: found no stage.*ranked_to_pairs"):
        CurriculumStages().parts([{"stage": 0.0}, {}])
    with pytest.raises(DataError, match=r"no record whose `stage` is in \(5,\)"):
        CurriculumStages(stages=((0,), (5,))).parts(COLUMNS)
