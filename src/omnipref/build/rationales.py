"""Why one response is better: asked of a model, and made into a case that a model learns to answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from omnipref.build.builder import Builder, Built, answered, case_of, each, generator, made_by, placed
from omnipref.errors import ConfigError, DataError, nearest
from omnipref.policies.contexts import Context, Sampler
from omnipref.preferences import RAW, Message, Part, Preference

RATIONALE = "rationale"
"""Role of the case, and name in `meta` of the reason as text."""

STYLES: Mapping[str, str] = {
    "general": "Explain in one short sentence, without details, why the first response is better.",
    "specific": "Explain why the first response is better, pointing at what it says.",
}
"""What a model is asked for, by the argument `style` of `write_rationale`."""

_SHOWN = '\n\nFirst response: "{chosen}"\nSecond response: "{rejected}"\n{ask}'
_QUESTION = '\n\nWhich of these two responses is preferable?\nResponse above: "{above}"\nResponse below: "{below}"'


def write_rationale(sampler: Sampler, style: str = "general") -> Builder:
    """Ask a model why the chosen response is better, and keep what it says in `meta["rationale"]`.

    The model sees which response was preferred, so a wrong label gets a confident reason too. A record is dropped where
    the model says nothing.

    Args:
        sampler: the model that is trained, or another.
        style: `general` or `specific`.

    Raises:
        ConfigError: an unknown style.

    Source: arXiv 2407.14477; the wording is ours.
    """
    if style not in STYLES:
        raise ConfigError(f"found style={style!r}; {nearest(style, STYLES)}")

    def step(records: Sequence[Preference]) -> Built:
        built, able = Built([]), list[tuple[Preference, Context]]()
        for record in records:
            try:
                texts = {role: case_of(record, role).text for role in ("chosen", "rejected")}
                ask = _SHOWN.format(**texts, ask=STYLES[style])
                able.append((record, asked(record.cases["chosen"].context, ask)))
            except DataError as error:
                built.dropped.append(placed(error, record))
        answers = sampler([context for _, context in able]) if able else []
        for (record, _), (answer, *_) in zip(able, answers, strict=True):
            if answer.strip():
                new = replace(record, meta={**record.meta, RATIONALE: answer.strip()})
                built.preferences.append(made_by(new, "write_rationale", style=style))
            else:
                built.dropped.append(placed(DataError("an empty rationale", "text", cure="ask another model"), record))
        return built

    return Builder("write_rationale", lambda pool: step)


def rationale_case(seed: int = 0, fixed_order: bool = False) -> Builder:
    """The reason in `meta["rationale"]` as role `rationale`: shown both responses, the model is to say it.

    The context is the record's own with both responses and the question which is preferable; the response says which,
    above or below, and then the reason. Which one stands above is drawn per record. A record without a reason is
    dropped.

    Args:
        seed: of the order, with the record's number.
        fixed_order: the chosen response always above and the reason alone as answer, as in the released code; then the
            order can be learned instead of the reason.

    Example:
        >>> from omnipref.preferences import pair
        >>> record = pair("1+1?", "2", "3", meta={"rationale": "It is right."})
        >>> rationale_case(fixed_order=True)([record]).preferences[0].cases["rationale"].text
        'It is right.'

    Source: arXiv 2407.14477, released code; the drawn order is ours.
    """

    def change(record: Preference) -> list[Preference]:
        reason = str(record.meta.get(RATIONALE, "")).strip()
        if not reason:
            cure = "build with write_rationale first"
            raise DataError("no rationale", "a text", cure=cure, field=f"meta.{RATIONALE}")
        chosen, rejected = (case_of(record, role) for role in ("chosen", "rejected"))
        above = fixed_order or bool(generator(seed, RATIONALE, record.record).integers(2))
        texts = (chosen.text, rejected.text) if above else (rejected.text, chosen.text)
        context = asked(chosen.context, _QUESTION.format(above=texts[0], below=texts[1]))
        said = reason if fixed_order else f"The response {'above' if above else 'below'} is preferable. {reason}"
        new = record.with_case(RATIONALE, answered(context, said))
        return [made_by(new, "rationale_case", seed=seed, chosen="above" if above else "below")]

    return each("rationale_case", change)


def asked(context: Sequence[Message], text: str) -> Context:
    """A context with a text after its last message, on a line of its own where no chat template follows.

    Example:
        >>> asked((Message.of(RAW, "1+1?"),), " Why?")[0].text
        '1+1? Why?\\n'
    """
    last = context[-1]
    ask = Part("text", text + ("\n" if last.role == RAW else ""))
    return (*context[:-1], Message(last.role, (*last.parts, ask)))
