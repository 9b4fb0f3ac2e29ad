"""Objectives side by side: the same start, the same preferences, equal steps and equal divergence."""

from omnipref.comparing.board import Board, Standing, board
from omnipref.comparing.job import Job, run_job
from omnipref.comparing.trace import Trace, check_objective, trace

__all__ = ["Board", "Job", "Standing", "Trace", "board", "check_objective", "run_job", "trace"]
