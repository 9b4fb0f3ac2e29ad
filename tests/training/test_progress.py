"""The line of progress ends cleanly and leaves transformers' own bars as they were."""

from __future__ import annotations

import pytest
from transformers import TrainerState
from transformers.utils import logging

from omnipref.training.progress import ProgressLine


@pytest.mark.parametrize("enabled", [True, False])
def test_other_bars_wait_and_come_back_as_they_were(enabled, capsys):
    before = logging.is_progress_bar_enabled()
    switch = {True: logging.enable_progress_bar, False: logging.disable_progress_bar}
    switch[enabled]()
    try:
        line = ProgressLine()
        line.on_train_begin(None, TrainerState(max_steps=2), None)
        assert not logging.is_progress_bar_enabled()
        line.close()
        line.close()
        assert logging.is_progress_bar_enabled() is enabled and line.bar is None
        assert capsys.readouterr().err.count("training") >= 1
    finally:
        switch[before]()
