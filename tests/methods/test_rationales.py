"""The file of rationales: the paper's form, the code's, and its builders (card rationales)."""

from __future__ import annotations

from omnipref.objectives import dpo, rationale
from omnipref.registry import load_method


def test_forms():
    assert str(load_method("rationales").objective) == str(dpo() + rationale())
    code = load_method("rationales", {"form": "logsigmoid", "gamma": 0.1, "fixed_order": True})
    assert str(code.objective) == str(dpo() + rationale(form="logsigmoid", gamma=0.1))
    assert code.builders == ("write_rationale", "rationale_case(fixed_order=True)")
    assert code.needs.roles == {"chosen", "rejected", "rationale"}
