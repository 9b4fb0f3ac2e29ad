"""All diagnoses of a run, in the order in which they should be read."""

from __future__ import annotations

from collections.abc import Callable

from omnipref.evaluation.doctor.data import off_policy, separable
from omnipref.evaluation.doctor.learning import learning, over_optimisation, reference, saturation
from omnipref.evaluation.doctor.likelihoods import dispersion, displacement, length_drift
from omnipref.evaluation.doctor.run import Run
from omnipref.evaluation.doctor.verdict import Verdict

DIAGNOSES: tuple[Callable[[Run], Verdict], ...] = (
    learning,
    reference,
    displacement,
    dispersion,
    saturation,
    length_drift,
    over_optimisation,
    off_policy,
    separable,
)
"""A wrong reference or a run that learns nothing makes the later ones hard to read, so these come first."""


def examine(run: Run) -> tuple[Verdict, ...]:
    """One verdict per diagnosis.

    Example:
        >>> from omnipref.evaluation.doctor import Run
        >>> {verdict.state for verdict in examine(Run("empty", {}, []))}
        {'unknown'}
    """
    return tuple(diagnose(run) for diagnose in DIAGNOSES)
