"""Scores of text and vision-language models: forest, rows and an independent forward pass agree."""

from __future__ import annotations

import factories
import pytest
import torch

from omnipref.errors import CapabilityError, DataError
from omnipref.policies.autoregressive.backbone import positions_of
from omnipref.policies.autoregressive.layouts import Forest, Rows
from omnipref.policies.autoregressive.load import build_policy, load_model, load_owner
from omnipref.policies.autoregressive.policy import AutoregressivePolicy
from omnipref.policies.autoregressive.trials import why_no_forest
from omnipref.preferences import Case, Comparison, Message, Part, Preference, pair, ranked

WORDS = "two cups, a fork and a spoon on the table"


def _step_tree() -> Preference:
    prompt = (Message.of("raw", "What is one plus one? "),)
    roles = {
        "chosen": ("First add. ", "Then write two."),
        "rejected": ("First add. ", "Then write three."),
        "response_2": ("Guess: ", "seven."),
    }
    cases = {role: Case(prompt, (Message.of("raw", *steps),)) for role, steps in roles.items()}
    return Preference(cases, (Comparison("chosen", "rejected"), Comparison("rejected", "response_2")))


def _text_records() -> list[Preference]:
    return [
        pair("What is one plus one? ", "two", "three cups and a spoon"),
        pair((Message.of("user", "hello, how are you?"),), "I am fine", "no"),
        ranked("Describe the picture. ", ["a red cube", "a blue ball", "a tree", WORDS]),
        _step_tree(),
    ]


def _picture_records() -> list[Preference]:
    one, two = Part("image", factories.picture(0)), Part("image", factories.picture(1, 48, 32))
    context = (Message.of("user", one, "Describe the picture."),)
    swapped = Case.chat((Message.of("user", two, "Describe the picture."),), "a red cube")
    both = (Message.of("user", one, "Describe ", two, "the picture."),)
    cases = {
        "chosen": Case.chat(both, "yes"),
        "rejected": Case.chat((Message.of("user", two, "Describe ", one, "the picture."),), "yes"),
        "response_2": Case.chat(context, "yes"),
    }
    return [
        pair(context, "a red cube", "a blue ball").with_case("chosen@negative_image", swapped),
        pair(both, "two cups", "no"),
        Preference(cases, (Comparison("chosen", "rejected"),)),
        pair((Message.of("user", "Is there a tree?"),), "yes", "no"),
    ]


MODELS = {
    "llama": (factories.llama, _text_records),
    "llava": (factories.llava, _picture_records),
    "qwen2_5_vl": (factories.qwen2_5_vl, _picture_records),
}


@pytest.fixture(scope="module", params=MODELS)
def made(request):
    factory, records = MODELS[request.param]
    model, owner = factory()
    return model.double(), owner, records()


def _score(model, owner, records, layout):
    policy = AutoregressivePolicy(owner, layout, positions_of(model))
    return policy.score(model, policy.collate([policy.encode(record) for record in records]))


@pytest.mark.parametrize("layout", [Forest(), Forest(row_tokens=200)])
def test_forest_equals_one_row_per_case(made, layout):
    model, owner, records = made
    rows, forest = (_score(model, owner, records, each) for each in (Rows(), layout))
    assert torch.equal(rows.mask, forest.mask)
    assert rows.logp[rows.mask].max() < 0
    assert (rows.logp - forest.logp).abs().max() < 1e-10
    gradients = [
        torch.autograd.grad((scores.logp * torch.linspace(0, 1, scores.logp.shape[1])).sum(), _weights(model))
        for scores in (rows, forest)
    ]
    for one, other in zip(*gradients, strict=True):
        # The models' norms run in float32 inside, so gradients that are summed in another order agree to that.
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def _weights(model):
    return [p for name, p in model.named_parameters() if "layers.0" in name or "embed_tokens" in name]


def test_forest_of_a_batch_equals_records_alone(made):
    model, owner, records = made
    together = _score(model, owner, records, Forest())
    sums = torch.cat([_score(model, owner, [record], Forest()).logp.sum(1) for record in records])
    assert (together.logp.sum(1) - sums).abs().max() < 1e-10


def test_rows_equal_a_stock_forward_pass_through_the_real_processor(made):
    """An independent path: the processor's own inputs, the model's own logits, a full log-softmax."""
    model, owner, records = made
    scores = _score(model, owner, records, Forest())
    n = 0
    for record in records:
        for case in record.cases.values():
            expected = _stock_logps(model, owner, case)
            assert (scores.logp[n, : len(expected)] - expected).abs().max() < 1e-10, (record, n)
            assert int(scores.mask[n].sum()) == len(expected)
            n += 1


@torch.no_grad()
def _stock_logps(model, owner, case):
    tokenizer = getattr(owner, "tokenizer", owner)
    images = [part.value for message in case.context for part in message.media]
    if case.context[0].role == "raw":
        start = tokenizer(case.context[0].text)["input_ids"]
        whole = tokenizer(case.context[0].text + case.text)["input_ids"]
        kept = whole[: len(start)] == start
        answer = whole[len(start) :] if kept else tokenizer(case.text, add_special_tokens=False)["input_ids"]
        inputs = {"input_ids": torch.tensor([start])}
        answer.append(tokenizer.eos_token_id)
    else:
        content = [
            {"type": p.type} if p.type != "text" else {"type": "text", "text": p.value} for p in case.context[0].parts
        ]
        dialogue = [{"role": "user", "content": content if owner is not tokenizer else case.context[0].text}]
        text = owner.apply_chat_template(dialogue, tokenize=False, add_generation_prompt=True)
        inputs = dict(owner(text=[text], **({"images": images} if images else {}), return_tensors="pt"))
        answer = tokenizer(case.text + "<|im_end|>\n", add_special_tokens=False)["input_ids"]
    start = inputs.pop("input_ids")
    inputs.pop("attention_mask", None)
    whole = torch.cat([start, torch.tensor([answer])], 1)
    if "mm_token_type_ids" in inputs:
        types = torch.as_tensor(inputs["mm_token_type_ids"])
        inputs["mm_token_type_ids"] = torch.cat([types, torch.zeros(1, len(answer), dtype=types.dtype)], 1)
    elif hasattr(model.model, "get_rope_index"):
        inputs["mm_token_type_ids"] = torch.zeros_like(whole)
    logits = model(input_ids=whole, **inputs).logits.log_softmax(-1)
    places = range(start.shape[1], whole.shape[1])
    return torch.stack([logits[0, place - 1, whole[0, place]] for place in places])


def test_the_picture_matters():
    model, owner = factories.llava()
    record = _picture_records()[0]
    sums = _score(model.double(), owner, [record], Forest()).logp.sum(1)
    assert (sums[0] - sums[2]).abs() > 1e-3


@pytest.mark.parametrize("factory", [factories.llava, factories.qwen2_5_vl])
def test_a_picture_that_cases_share_is_encoded_once(factory, monkeypatch):
    model, owner = factory()
    encoder, seen = model.model.get_image_features, []
    monkeypatch.setattr(model.model, "get_image_features", lambda *a, **k: seen.append(k) or encoder(*a, **k))
    policy = build_policy(model, owner)
    seen.clear()
    batch = policy.collate([policy.encode(record) for record in _picture_records()])
    policy.score(model, batch)
    grids = [k["image_grid_thw"] if "image_grid_thw" in k else k["pixel_values"] for k in seen]
    assert sum(len(grid) for grid in grids) == 2
    media = batch.inputs["media_order"]["image"]
    assert len(media) > 2


def test_tokens_of_a_shared_prefix_stand_once():
    model, owner = factories.llama()
    policy = build_policy(model, owner)
    encoded = policy.encode(pair("What is one plus one? ", "two", "three"))
    prompt = len(encoded.cases[0].prompt.ids)
    responses = [len(case.response) for case in encoded.cases]
    assert policy.collate([encoded]).inputs["ids_BT"].shape[1] <= prompt + sum(responses)


def test_segments_follow_the_parts_of_a_response():
    model, owner = factories.llama()
    policy = build_policy(model, owner)
    encoded = policy.encode(_step_tree())
    case = encoded.cases[0]
    for number, part in enumerate(("First add.", "Then write two.")):
        assert owner.decode(case.response[case.segment == number]).replace("</s>", "").strip() == part


def test_turns_of_others_inside_a_response_are_not_scored():
    model, owner = factories.llama()
    policy = build_policy(model, owner)
    turns = (Message.of("assistant", "two"), Message.of("user", "and a fork?"), Message.of("assistant", "three cups"))
    record = Preference({"completion": Case((Message.of("user", "hello"),), turns)}, labels={"completion": True})
    batch = policy.collate([policy.encode(record)])
    scores = policy.score(model, batch)
    told = owner.decode(batch.inputs["target_NU"][scores.mask])
    assert "two" in told and "three cups" in told and "fork" not in told
    assert (scores.logp[~scores.mask] == 0).all()


@pytest.mark.parametrize("text", ["a <image> b", "<image>"])
def test_a_placeholder_in_a_response_is_refused(text):
    model, owner = factories.llava()
    context = (Message.of("user", Part("image", factories.picture(0)), "what?"),)
    with pytest.raises(DataError, match=r"record 0, field `chosen`.*placeholder"):
        build_policy(model, owner).encode(pair(context, text, "b"))


def test_prompt_and_response_are_tokenised_together_where_the_prompt_stays():
    _, owner = factories.llama()
    model, _ = factories.llama()
    case = build_policy(model, owner).encode(pair("What is", " one plus one", "two")).cases[0]
    assert case.ids.tolist() == [*owner("What is one plus one")["input_ids"], owner.eos_token_id]


def test_a_prompt_that_brings_its_own_first_token_gets_no_second():
    model, owner = factories.llama()
    ids = build_policy(model, owner).encode(pair("<s>hello", "a", "b")).cases[0].prompt.ids
    assert ids.tolist().count(owner.bos_token_id) <= 1


def test_saved_models_load_by_path_and_score_the_same(made, tmp_path):
    model, owner, records = made
    factories.save(model.float(), owner, tmp_path)
    loaded, reloaded_owner = load_model(str(tmp_path)), load_owner(str(tmp_path))
    assert type(loaded) is type(model)
    ours = _score(model, owner, records, Forest()).logp
    theirs = _score(loaded.eval(), reloaded_owner, records, Forest()).logp
    model.double()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


def test_prompt_longer_than_the_context_is_refused_with_its_tokens():
    model, owner = factories.llava()
    policy = build_policy(model, owner, max_length=20)
    record = pair((Message.of("user", Part("image", factories.picture(0)), "Describe."),), "a", "b", record=7)
    with pytest.raises(DataError, match=r"record 7, field `chosen`.*16 of them media.*at most 20"):
        policy.encode(record)


def test_truncation_cuts_responses_only():
    model, owner = factories.llama()
    policy = build_policy(model, owner, max_length=12, truncate=True)
    encoded = policy.encode(pair("one plus one", WORDS, "two"))
    assert max(case.length for case in encoded.cases) <= 12
    assert len(encoded.cases[0].prompt.ids) == len(owner("one plus one")["input_ids"])


def test_placeholders_that_disagree_with_the_media():
    model, owner = factories.llava()
    policy = build_policy(model, owner)
    record = pair((Message.of("raw", "<image><image> what?", Part("image", factories.picture(0))),), "a", "b", record=3)
    with pytest.raises(DataError, match=r"record 3.*placeholders"):
        policy.encode(record)


def test_pictures_for_a_text_model_are_refused():
    model, owner = factories.llama()
    record = pair((Message.of("user", Part("image", factories.picture(0)), "what?"),), "a", "b")
    with pytest.raises(CapabilityError, match="image input"):
        build_policy(model, owner).encode(record)


def test_a_model_without_chat_template_says_so():
    model, owner = factories.llama()
    bare = type(owner)(tokenizer_object=owner.backend_tokenizer, eos_token="</s>")
    with pytest.raises(CapabilityError, match="no chat template"):
        build_policy(model, bare).encode(pair((Message.of("user", "hello"),), "a", "b"))


def test_empty_response_names_the_record():
    model, owner = factories.llama()
    with pytest.raises(DataError, match=r"record 4, field `rejected`.*empty response"):
        build_policy(model, owner).encode(pair("a", "b", "  ", record=4))


def test_a_recurrent_model_falls_back_to_rows():
    from transformers import MambaConfig, MambaForCausalLM

    config = MambaConfig(vocab_size=len(factories.tokenizer()), hidden_size=16, num_hidden_layers=1, state_size=4)
    assert "recurrent" in (why_no_forest(MambaForCausalLM(config).eval()) or "")
