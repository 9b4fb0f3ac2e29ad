"""Whether a training run is healthy: one pure function per question, each answered with numbers and a remedy."""

from omnipref.evaluation.doctor.examine import DIAGNOSES, examine
from omnipref.evaluation.doctor.run import Run, Series, read_log, read_run
from omnipref.evaluation.doctor.verdict import Verdict

__all__ = ["DIAGNOSES", "Run", "Series", "Verdict", "examine", "read_log", "read_run"]
