"""The file of the survey: any objective as text, and the losses that its claim compares (card survey-dpo)."""

from __future__ import annotations

import pytest
from objectives.examples import card_scores

from omnipref.errors import ConfigError
from omnipref.objectives import dpo, parse_objective
from omnipref.registry import load_claim, load_method


def test_any_objective_is_taken_as_text():
    assert str(load_method("survey-dpo").objective) == str(dpo(beta=0.1))
    made = load_method("survey-dpo", {"objective": "0.5 * apo_down() + sft()"}).objective
    assert made(card_scores()).loss_P.item() == pytest.approx(0.5 * 0.975145 + 2.0, abs=1e-6)
    with pytest.raises(ConfigError, match="did you mean `apo_down`"):
        load_method("survey-dpo", {"objective": "apo_donw()"})


# The card's world has these at beta .1, and hinge, with the fixture's numbers where it has some.
COMPARED = {
    "sppo": 32.0,
    "dpo": 0.598139,
    "hinge": 0.8,
    "anchored": 0.798139,
    "ipo": 22.168403,
    "apo_zero": 0.950042,
    "bco": 1.288793,
    "nca": 1.338793,
    "cal": 0.126928,
    "dpop": 0.598139,
    "chi_po": 0.499100,
    "simpo": 1.501929,
}


@pytest.mark.parametrize("arm", COMPARED)
def test_the_claim_compares_the_losses_of_the_table(arm: str):
    objective = parse_objective(load_claim("survey-dpo").options["arms"][arm]["objective"])
    assert objective(card_scores()).loss_P.item() == pytest.approx(COMPARED[arm], rel=0, abs=5.1e-7)


def test_the_control_differs_in_its_target_alone():
    arms = load_claim("survey-dpo").options["arms"]
    assert arms["far_target"]["objective"] == arms["sppo"]["objective"].replace("0.1", "0.01")
