"""Hallucinations that read well: blanks filled beside a similar picture, and answers continued without the picture."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from omnipref.build.builder import Builder, Built, Step, answered, case_of, made_by, paired, placed
from omnipref.build.pictures import PoolPicture, add_negative, pictures_of
from omnipref.build.retrieval import Features, index_of
from omnipref.build.texts import WORD, Predicate, words_of
from omnipref.errors import ConfigError, DataError
from omnipref.policies.contexts import Context, Sampler
from omnipref.preferences import RAW, Case, Message, Part, Preference

BLANK = "____"
_INSTRUCTION = f"Fill in each blank {BLANK} so that the text fits the picture, and change nothing else:\n"


@dataclass(frozen=True)
class Masked:
    """A text with blanks: `frame[0]` blank `frame[1]` blank ... `frame[-1]`."""

    frame: tuple[str, ...]

    @property
    def text(self) -> str:
        """The text with its blanks shown."""
        return BLANK.join(self.frame)


Fill = Callable[[Sampler, Sequence[Context], Sequence[Masked]], list[str | None]]
"""Fills the blanks of each text in its context; None where the result does not keep the frame."""


def masked(case: Case, grounded: Predicate) -> Masked:
    """The response with its grounded words blanked.

    Raises:
        DataError: there are none.
    """
    frame, end = [], 0
    for match in WORD.finditer(case.text):
        if grounded(case, match[0]):
            frame.append(case.text[end : match.start()])
            end = match.end()
    if not frame:
        raise DataError("no grounded word", "at least one", cure="give more words, or drop the record", field="chosen")
    return Masked((*frame, case.text[end:]))


def instructed(sampler: Sampler, contexts: Sequence[Context], texts: Sequence[Masked]) -> list[str | None]:
    """Ask the model in words to fill the blanks, as the paper does; a reply that breaks the frame is None."""
    asked = [_instruction(context, text) for context, text in zip(contexts, texts, strict=True)]
    replies = [answers[0].strip() for answers in sampler(asked)]
    return [reply if _keeps(reply, text) else None for reply, text in zip(replies, texts, strict=True)]


def _instruction(context: Context, text: Masked) -> Context:
    ask = Part("text", f"\n{_INSTRUCTION}{text.text}" + ("\n" if context[-1].role == RAW else ""))
    return (*context[:-1], Message(context[-1].role, (*context[-1].parts, ask)))


def _keeps(reply: str, text: Masked) -> bool:
    return re.fullmatch(r".+?".join(map(re.escape, text.frame)), reply, re.DOTALL) is not None


def continued(sampler: Sampler, contexts: Sequence[Context], texts: Sequence[Masked]) -> list[str | None]:
    """Let the model continue the text at each blank and keep one word: for models that follow no instructions."""
    said = [text.frame[0] for text in texts]
    dead: set[int] = set()
    for blank in range(1, max(len(text.frame) for text in texts)):
        rows = [row for row, text in enumerate(texts) if blank < len(text.frame) and row not in dead]
        # A trailing space would split the next word's token for most tokenizers.
        answers = sampler([continuing(contexts[row], said[row].rstrip()) for row in rows]) if rows else []
        for row, answer in zip(rows, answers, strict=True):
            word = WORD.search(answer[0])
            if word is None:
                dead.add(row)
            else:
                said[row] += word[0] + texts[row].frame[blank]
    return [None if row in dead else text for row, text in enumerate(said)]


def continuing(context: Context, start: str) -> Context:
    """The context with the start of its answer, to be continued; an empty start leaves it as it is."""
    if not start:
        return context
    return (*context, Message.of(RAW if context[-1].role == RAW else "assistant", start))


def masked_infill(
    sampler: Sampler,
    grounded: Sequence[str] | Predicate,
    features: Features,
    k: int = 10,
    upper: float = 0.98,
    fill: Fill = instructed,
    accept: Callable[[str, str], bool] = lambda chosen, filled: chosen != filled,
    role: str = "chosen",
) -> Builder:
    """Re-Align's negatives: blank the grounded words of the answer, let the model fill them beside a similar picture.

    Neighbours are tried nearest first until a filled text is accepted; that text is `rejected`, and the neighbour is
    the picture of `chosen@negative_image`. A record with none accepted is dropped.

    Args:
        sampler: the model.
        grounded: words that name what is seen, or a predicate of case and word.
        features: such as `vision_features(model, processor)`.
        k: neighbours to try.
        upper: cosine above which a picture is a duplicate.
        fill: `instructed` or `continued`.
        accept: of (chosen, filled); the paper's is a sentence similarity strictly below 0.95.
        role: the case that becomes `chosen`, in most cases the model's own answer.

    Source: arXiv 2502.13146, section 3.
    """
    meant = grounded if callable(grounded) else words_of(grounded)

    def prepare(pool: Sequence[Preference]) -> Step:
        index = index_of(pool, features)

        def step(records: Sequence[Preference]) -> Built:
            built, tries = Built([]), []
            for record in records:
                try:
                    case = case_of(record, role)
                    near = index.near(pictures_of(case)[:1], k, upper)[0]
                    tries.append(_Try(record, case, masked(case, meant), [picture for picture, _ in near]))
                except DataError as error:
                    built.dropped.append(placed(error, record))
            for one in _filled(tries, sampler, fill, accept, k):
                (built.dropped if isinstance(one, DataError) else built.preferences).append(one)  # type: ignore[arg-type]
            return built

        return step

    return Builder("masked_infill", prepare)


@dataclass(frozen=True)
class _Try:
    record: Preference
    case: Case
    text: Masked
    near: list[PoolPicture]

    def beside(self, attempt: int) -> Context:
        """The context beside its neighbour; with several pictures the first is exchanged."""
        pictures = [self.near[attempt].value, *pictures_of(self.case)[1:]]
        queue = iter(pictures)
        media = [part for message in self.case.context for part in message.media]
        return self.case.replace_media([next(queue) if part.type == "image" else part.value for part in media]).context

    def pair(self, filled: str, attempt: int) -> Preference:
        """The accepted record."""
        new = paired(self.record, self.case, answered(self.case.context, filled), "self")
        picture = self.near[attempt]
        pictures = [picture.value, *pictures_of(self.case)[1:]]
        facts = {"picture_of_record": picture.record, "neighbour": attempt, "blanks": len(self.text.frame) - 1}
        return add_negative(new, "chosen", pictures, "masked_infill", **facts)


def _filled(
    tries: Sequence[_Try], sampler: Sampler, fill: Fill, accept: Callable[[str, str], bool], k: int
) -> list[Preference | DataError]:
    """One result per record, in order; each round gives every record that is still open its next neighbour."""
    done: dict[int, Preference] = {}
    for attempt in range(k):
        rows = [row for row, one in enumerate(tries) if row not in done and attempt < len(one.near)]
        if not rows:
            break
        texts = fill(sampler, [tries[row].beside(attempt) for row in rows], [tries[row].text for row in rows])
        for row, text in zip(rows, texts, strict=True):
            if text is not None and text != tries[row].case.text and accept(tries[row].case.text, text):
                done[row] = tries[row].pair(text, attempt)
    return [done[row] if row in done else _refused(one) for row, one in enumerate(tries)]


def _refused(one: _Try) -> DataError:
    error = DataError(
        f"{len(one.near)} neighbours, none with an accepted text",
        "one",
        cure="raise k, or sample at a higher temperature",
    )
    return placed(error, one.record)


def dropout_ntp(sampler: Sampler, keep: float = 0.5, role: str = "chosen") -> Builder:
    """Rejected is the start of the answer, continued by the model without the pictures.

    Args:
        sampler: the model.
        keep: share of the answer's words that is kept, rounded down, at least one.
        role: the case that becomes `chosen`.

    Raises:
        ConfigError: keep outside (0, 1).

    Source: arXiv 2411.10442 (MPO), DropoutNTP.
    """
    if not 0 < keep < 1:
        raise ConfigError(f"found keep {keep}; expected a share between 0 and 1")

    def step(records: Sequence[Preference]) -> Built:
        built, open_ = Built([]), []
        for record in records:
            try:
                open_.append((record, *_blind(case_of(record, role), keep)))
            except DataError as error:
                built.dropped.append(placed(error, record))
        answers = sampler([continuing(context, start) for _, context, start in open_]) if open_ else []
        for (record, _, start), answer in zip(open_, answers, strict=True):
            try:
                case = case_of(record, role)
                new = paired(record, case, answered(case.context, _joined(start, answer[0])), "self")
                built.preferences.append(made_by(new, "dropout_ntp", keep=keep))
            except DataError as error:
                built.dropped.append(placed(error, record))
        return built

    return Builder("dropout_ntp", lambda pool: step)


def _blind(case: Case, keep: float) -> tuple[Context, str]:
    """The context without media, and the start of the answer."""
    pictures_of(case)
    words = case.text.split()
    text = tuple(
        Message(message.role, tuple(part for part in message.parts if part.type == "text")) for message in case.context
    )
    return text, " ".join(words[: max(1, int(keep * len(words)))])


def _joined(start: str, more: str) -> str:
    # Word-level tokenizers give no leading space; after whole words a letter or digit begins another word.
    return start + (" " if more[:1].isalnum() else "") + more
