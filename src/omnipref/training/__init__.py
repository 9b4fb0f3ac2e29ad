"""One trainer for every objective and every policy, and the run that a configuration describes."""

from omnipref.training.checkpoints import checkpoint_to_resume
from omnipref.training.data import EncodedPreferences, StreamedPreferences, check_needs, prepare
from omnipref.training.finite import check_finite
from omnipref.training.trainer import PreferenceTrainer

__all__ = [
    "EncodedPreferences",
    "PreferenceTrainer",
    "StreamedPreferences",
    "check_finite",
    "check_needs",
    "checkpoint_to_resume",
    "prepare",
]
