"""Local sampling: a pure function of (seed, context, sample), whatever the batch, on real tiny models."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from factories import llama, llava, picture, qwen2_5_vl

from omnipref.errors import CapabilityError, DataError
from omnipref.policies.contexts import draw_seed
from omnipref.policies.sampling import LocalSampler, media_tokens
from omnipref.preferences import RAW, Message, Part


def text_contexts() -> list[tuple[Message, ...]]:
    texts = ["one plus one?", "Is there a tree?", "hello", "Describe the picture, please, in a few words."]
    return [(Message.of("user", text),) for text in texts]


def picture_contexts() -> list[tuple[Message, ...]]:
    return [(Message.of("user", Part("image", picture(i)), f"what is this {'?' * i}"),) for i in range(4)]


MODELS = {
    "text": (llama, text_contexts),
    "picture": (llava, picture_contexts),
    "multimodal rotary": (qwen2_5_vl, picture_contexts),
}


@pytest.fixture(scope="module", params=MODELS)
def setting(request: pytest.FixtureRequest):
    make, contexts = MODELS[request.param]
    model, owner = make()
    # In float64 the padding of a batch cannot move a logit across a threshold.
    return LocalSampler(model.double(), owner, max_new_tokens=6, seed=3, progress=False), contexts()


def test_batch_order_and_number_do_not_change_samples(setting):
    sampler, contexts = setting
    together = sampler(contexts, n=3)
    alone = [replace(sampler, batch_size=1)([context])[0] for context in contexts]
    assert [len(answers) for answers in together] == [3] * 4
    assert [answers[0] for answers in together] == [answers[0] for answers in alone]
    assert sampler(contexts[::-1], n=3)[::-1] == together
    assert replace(sampler, batch_size=3)(contexts, n=3) == together
    assert len({answer for answers in together for answer in answers}) > 6


def test_shared_prefill_equals_one_pass_per_row(setting, monkeypatch: pytest.MonkeyPatch):
    sampler, contexts = setting
    shared = sampler(contexts, n=3)
    monkeypatch.setattr(LocalSampler, "_shared_prefill", lambda *_: None)
    assert sampler(contexts, n=3) == shared


def test_a_prompt_is_read_once_for_all_its_samples(setting):
    sampler, contexts = setting
    read = []
    embedding = sampler.model.get_input_embeddings()
    hook = embedding.register_forward_hook(lambda _, inputs, __: read.append(inputs[0].numel()))
    sampler(contexts[:1], n=4)
    hook.remove()
    prompt = read[0]
    assert prompt > 4 and sum(read[1:]) <= 4 * sampler.max_new_tokens


def test_seed_changes_samples_and_greedy_does_not_draw(setting):
    sampler, contexts = setting
    assert replace(sampler, seed=4)(contexts) != sampler(contexts)
    greedy = replace(sampler, temperature=0.0)
    assert greedy(contexts) == replace(greedy, seed=4)(contexts)
    assert greedy(contexts) == replace(sampler, temperature=1e-4)(contexts)
    assert greedy(contexts) == replace(sampler, top_p=1e-6)(contexts)


def test_greedy_equals_generate():
    model, owner = llama()
    context = text_contexts()[0]
    ids = owner("<|im_start|>user\none plus one?<|im_end|>\n<|im_start|>assistant\n", return_tensors="pt").input_ids
    expected = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=6)
    said = LocalSampler(model, owner, max_new_tokens=6, temperature=0.0)([context])
    assert said == [[owner.decode(expected[0, ids.shape[1] :], skip_special_tokens=True)]]


def test_samples_follow_the_model_distribution():
    """First tokens of many samples: a chi-square-like bound on the total variation to the model's own softmax."""
    model, owner = llama()
    n = 2000
    context = (Message.of(RAW, "hello"),)
    sampler = LocalSampler(model, owner, max_new_tokens=1, batch_size=n, temperature=0.5)
    ids = owner("hello", return_tensors="pt").input_ids
    with torch.no_grad():
        share = (model(ids).logits[0, -1].float() / 0.5).softmax(-1)
    said = sampler([context], n=n)[0]
    texts = owner.batch_decode(torch.arange(len(share))[:, None], skip_special_tokens=True)
    for text in set(texts):
        p = sum(float(share[i]) for i, other in enumerate(texts) if other == text)
        assert abs(said.count(text) / n - p) < 4.5 * (p * (1 - p) / n) ** 0.5 + 1e-3


def test_placeholders_are_never_drawn():
    model, owner = llava()
    image = model.config.image_token_id
    with torch.no_grad():
        model.lm_head.weight[image] += 50 * model.lm_head.weight.abs().max()
    assert image in media_tokens(model, owner)
    drawn = []
    hook = model.get_input_embeddings().register_forward_hook(lambda _, inputs, __: drawn.append(inputs[0]))
    LocalSampler(model, owner, max_new_tokens=8)(picture_contexts(), n=2)
    hook.remove()
    assert all((ids != image).all() for ids in drawn[1:])


def test_pictures_of_different_sizes_share_a_call():
    model, owner = qwen2_5_vl()
    sampler = LocalSampler(model.double(), owner, max_new_tokens=5)
    sizes = [(32, 32), (64, 32), (32, 48)]
    contexts = [(Message.of("user", Part("image", picture(1, *size)), "what"),) for size in sizes]
    contexts.append((Message.of("user", "no picture"),))
    together = sampler(contexts, n=2)
    assert together == [sampler([context], n=2)[0] for context in contexts]


def test_a_partial_answer_is_continued():
    model, owner = llama()
    sampler = LocalSampler(model, owner, max_new_tokens=4, temperature=0.0)
    raw = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nthe answer"
    continued = sampler([(Message.of("user", "hi"), Message.of("assistant", "the answer"))])
    ids = owner(raw, return_tensors="pt").input_ids
    expected = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=4)
    assert continued == [[owner.decode(expected[0, ids.shape[1] :], skip_special_tokens=True)]]


def test_training_mode_is_given_back():
    model, owner = llama()
    model.train()
    LocalSampler(model, owner, max_new_tokens=1)(text_contexts())
    assert model.training


def test_draws_depend_on_content():
    context = picture_contexts()[0]
    same = (Message.of("user", Part("image", picture(0)), "what is this "),)
    other = (Message.of("user", Part("image", picture(1)), "what is this "),)
    assert draw_seed(0, context, 0) == draw_seed(0, same, 0)
    assert len({draw_seed(0, c, s) for c in (context, other) for s in (0, 1)} | {draw_seed(1, context, 0)}) == 5


def test_errors_name_the_place_and_the_lack():
    model, owner = llava()
    broken = (Message.of("user", Part("image", "missing.png"), "what"),)
    with pytest.raises(DataError, match=r"record 1.*missing.png"):
        LocalSampler(model, owner)([picture_contexts()[0], broken])
    text, tokenizer = llama()
    with pytest.raises(CapabilityError, match="image"):
        LocalSampler(text, tokenizer)(picture_contexts())


def test_a_prompt_longer_than_the_model_reads_is_refused():
    model, owner = llama(max_position_embeddings=16)
    sampler = LocalSampler(model, owner, max_new_tokens=4, progress=False)
    contexts = [(Message.of("raw", "hello"),), (Message.of("raw", "word " * 40),)]
    with pytest.raises(DataError, match=r"record 1, field `prompt`.*16 positions"):
        sampler(contexts)
