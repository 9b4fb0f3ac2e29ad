"""What is refused before training, and what is set aside."""

from __future__ import annotations

import json
from dataclasses import replace

import factories
import pytest
from torch.utils.data import DataLoader

from omnipref.errors import DataError, NeedsError
from omnipref.objectives import dpo, kto, parse_objective, plackett_luce, sft
from omnipref.objectives.objective import Needs
from omnipref.policies.autoregressive.load import build_policy
from omnipref.preferences import Case, pair, ranked, unpaired
from omnipref.training import StreamedPreferences, check_needs, prepare
from omnipref.training.data import narrowed


@pytest.mark.parametrize(
    ("objective", "record", "message"),
    [
        (dpo(), ranked("a", ["b", "c"], record=5, source="f.jsonl"), r"f.jsonl, record 5: .*`chosen`.*--pairs"),
        (dpo(), unpaired("a", "b", True, record=2), r"record 2: .*`chosen`"),
        (dpo(rejected="chosen@negative_image"), pair("a", "b", "c"), r"chosen@negative_image.*omnipref build"),
        (plackett_luce(), unpaired("a", "b", True), "ranking of two or more"),
        (kto(), ranked("a", ["b", "c"]), r"mismatched.*omnipref build FILE --builders mismatched|liked and disliked"),
    ],
)
def test_data_that_lack_what_the_objective_reads_are_refused(objective, record, message):
    with pytest.raises(NeedsError, match=message):
        check_needs(objective.needs, record)


@pytest.mark.parametrize(
    ("text", "cure"),
    [
        ("sampled_kl()", "--online 'own_samples"),
        ("dpo() + 1e-5 * optimism('reference_sample_0')", "--builders \"own_samples(n=1, role='reference_sample')\""),
        ("xpo()", "ask for `reference_sample_0` instead"),
        ("rationale()", "--builders write_rationale rationale_case"),
        ("wider_margin()", "--builders inter_instructions"),
        ("pro()", "`score_chosen` and `score_rejected`"),
        ("gdpo_geometric()", "give each record a number `probability`"),
        ("dpo(rejected='other')", "omnipref build --help"),
    ],
)
def test_what_is_missing_comes_with_its_own_cure(text, cure):
    record = pair("a", "b", "c").with_case("third", Case.raw("a", "d"))
    with pytest.raises(NeedsError) as caught:
        check_needs(parse_objective(text).needs, record)
    assert cure in str(caught.value)


def test_two_cases_are_not_proposed_for_a_third():
    with pytest.raises(NeedsError, match=r"compares `completion`.*To mend: make it with a builder"):
        check_needs(parse_objective("dpo() + sft('completion')").needs, pair("a", "b", "c"))


def test_two_cases_of_other_names_are_proposed_as_they_are():
    record = pair("a", "b", "c")
    (better, worse), (first, _) = record.cases.values(), record.comparisons * 2
    renamed = replace(
        record,
        cases={"chosen": better, "chosen@negative_image": worse},
        comparisons=(replace(first, worse="chosen@negative_image"),),
    )
    with pytest.raises(NeedsError, match=r"dpo\(chosen='chosen', rejected='chosen@negative_image'\)"):
        check_needs(dpo().needs, renamed)


def test_many_records_set_aside_are_told_by_five_and_a_count(tmp_path, caplog):
    model, owner = factories.llama()
    policy = build_policy(model, owner, max_length=40)
    records = [pair("long " * 60, "a", "b", record=i) for i in range(9)] + [pair("short", "a", "b", record=9)]
    prepare(policy, records, dpo().needs, tmp_path / "aside.jsonl", progress=False)
    assert len((tmp_path / "aside.jsonl").read_text().splitlines()) == 9
    assert caplog.text.count("set aside: data") + caplog.text.count("set aside: record") == 5
    assert f"records set aside: 9 of 10, with reasons in {tmp_path / 'aside.jsonl'}" in caplog.text


def test_pairs_serve_lists_labels_and_pairs():
    record = pair("a", "b", "c")
    for objective in (dpo(), plackett_luce(), kto(baseline="batch"), sft()):
        check_needs(objective.needs, record)


def test_a_missing_column_is_named():
    with pytest.raises(NeedsError, match="column `margin`"):
        check_needs(Needs(columns=frozenset({"margin"})), pair("a", "b", "c", columns={"score": 1.0}))


def test_only_cases_that_are_read_are_encoded():
    record = pair("a", "b", "c").with_case("chosen@negative_image", Case.raw("x", "b"))
    assert narrowed(record, dpo().needs).roles == ("chosen", "rejected")
    assert narrowed(record, sft().needs).roles == ("chosen",)
    both = dpo() + dpo(rejected="chosen@negative_image")
    assert narrowed(record, both.needs).roles == record.roles


def test_a_record_that_cannot_be_encoded_is_set_aside_with_its_reason(tmp_path):
    model, owner = factories.llama()
    policy = build_policy(model, owner, max_length=40)
    records = [pair("short", "a", "b", record=0), pair("long " * 60, "a", "b", record=1, source="f.jsonl")]
    aside = tmp_path / "aside.jsonl"
    data = prepare(policy, records, dpo().needs, aside, progress=False)
    assert len(data) == 1
    (line,) = [json.loads(row) for row in aside.read_text().splitlines()]
    assert (line["record"], line["source"], line["field"]) == (1, "f.jsonl", "chosen")
    assert "at most 40" in line["reason"]
    with pytest.raises(DataError, match=r"no record that can be used.*record 1"):
        prepare(policy, records[1:], dpo().needs, aside, progress=False)


def test_records_beyond_the_memory_are_encoded_again(tmp_path, monkeypatch):
    model, owner = factories.llama()
    policy = build_policy(model, owner)
    records = [pair(f"What is {i}?", "a", "b", record=i) for i in range(6)]
    whole = prepare(policy, records, dpo().needs, tmp_path / "aside.jsonl", progress=False)
    monkeypatch.setattr("omnipref.training.data.CACHE_BYTES", 1000)
    part = prepare(policy, records, dpo().needs, tmp_path / "aside.jsonl", progress=False)
    assert len(part) == len(whole) == 6 and 0 < len(part.kept) < 6
    for one, other in zip(whole, part, strict=True):
        assert [case.ids.tolist() for case in one.cases] == [case.ids.tolist() for case in other.cases]


def test_every_worker_reads_its_own_part_of_a_stream(tmp_path):
    model, owner = factories.llama()
    records = [pair(f"What is {i}?", "a", "b", record=i) for i in range(7)]
    data = StreamedPreferences(build_policy(model, owner), lambda: records, dpo().needs, tmp_path / "aside.jsonl")
    seen = [item.preference.record for item in DataLoader(data, batch_size=None, num_workers=2)]
    assert sorted(seen) == list(range(7))


def test_a_tie_is_no_preference():
    record = pair("a", "b", "c")
    tied = replace(record, comparisons=(replace(record.comparisons[0], tie=True),))
    with pytest.raises(NeedsError, match="it is a tie"):
        check_needs(dpo().needs, tied)
