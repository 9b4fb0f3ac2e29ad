"""Messages from the shapes of the wild: chat turns, ShareGPT turns, content parts, and `<image>` marks inside text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from omnipref.errors import DataError
from omnipref.preferences.fields import Row, described
from omnipref.preferences.records import RAW, Message, Part

MODALITIES = ("image", "video", "audio")
"""Modalities that have marks (`<image>`) and columns (`image`, `images`) in public formats."""

_MARK = re.compile(rf"<({'|'.join(MODALITIES)})>")
_ROLES = {"human": "user", "gpt": "assistant", "bot": "assistant", "observation": "tool", "function_call": "assistant"}


class Media:
    """The media of one conversation, handed out in order to the marks and placeholders that ask for them.

    Args:
        values: modality to its media; a modality that is not named leaves its marks alone as text.
        field: column to name in errors.
    """

    def __init__(self, values: Mapping[str, list[Any]], field: str = ""):
        self.values = dict(values)
        self.used = dict.fromkeys(self.values, 0)
        self.field = field

    @staticmethod
    def of(row: Row, *, strict: bool = False, prefix: str = "") -> Media:
        """From the columns `image` or `images`, `video` or `videos`, `audio` or `audios` of a row.

        Args:
            row: the row.
            strict: marks without such a column are errors instead of text.
            prefix: of the column names, such as `rejected_`.
        """
        values: dict[str, list[Any]] = {}
        for kind in MODALITIES:
            names = [name for name in (f"{prefix}{kind}", f"{prefix}{kind}s") if name in row.value]
            if names or strict:
                values[kind] = [item for name in names for item in as_list(row.get(name))]
        return Media(values, next((name for name in row.value if name.startswith(prefix + "image")), "images"))

    @property
    def present(self) -> bool:
        """Whether the row has media columns at all, empty or not."""
        return bool(self.values)

    def parts(self, text: str) -> tuple[Part, ...]:
        """Text with each mark replaced by its medium, in place."""
        parts: list[Part] = []
        end = 0
        for mark in _MARK.finditer(text):
            if mark[1] not in self.values:
                continue
            parts += [Part("text", text[end : mark.start()]), self.take(mark[1])]
            end = mark.end()
        parts.append(Part("text", text[end:]))
        return tuple(part for part in parts if part.type != "text" or part.value)

    def take(self, kind: str) -> Part:
        """The next medium of a modality.

        Raises:
            DataError: there are more marks than media.
        """
        values, used = self.values.get(kind, []), self.used.get(kind, 0)
        if used >= len(values):
            raise DataError(
                f"{len(values)} {kind}(s) and more <{kind}> marks than that",
                "as many marks as media",
                cure=f"add the missing {kind}s or remove the marks",
                field=self.field,
            )
        self.used[kind] = used + 1
        return Part(kind, values[used])

    def finish(self, messages: tuple[Message, ...]) -> tuple[Message, ...]:
        """Put media that no mark asked for at the front of the first user turn, when there were no marks at all.

        Raises:
            DataError: there are marks, but fewer than media.
        """
        front: list[Part] = []
        for kind, values in self.values.items():
            if self.used[kind] and self.used[kind] < len(values):
                raise DataError(
                    f"{len(values)} {kind}(s) and {self.used[kind]} <{kind}> mark(s)",
                    "as many marks as media",
                    cure=f"write one <{kind}> per {kind}, or none at all to have them put first",
                    field=self.field,
                )
            front += [self.take(kind) for _ in range(len(values) - self.used[kind])]
        if not front:
            return messages
        first = next((i for i, message in enumerate(messages) if message.role == "user"), 0)
        mended = Message(messages[first].role, (*front, *messages[first].parts))
        return (*messages[:first], mended, *messages[first + 1 :])


NO_MEDIA = Media({})
"""For rows without media columns: marks stay text."""


def as_list(value: Any) -> list[Any]:
    """A medium, a list of media or nothing, as a list."""
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]


def conversation(value: Any, field: str, media: Media = NO_MEDIA) -> tuple[Message, ...]:
    """Turns `{"role", "content"}` or `{"from", "value"}` as messages.

    Raises:
        DataError: not a list of turns, an unknown content part, or a turn that holds tool calls.
    """
    if not isinstance(value, (list, tuple)) or not value:
        raise DataError(described(value), "a list of messages", cure="mend or drop the record", field=field)
    return tuple(turn(item, f"{field}[{i}]", media) for i, item in enumerate(value))


def turn(value: Any, field: str, media: Media = NO_MEDIA) -> Message:
    """One turn `{"role", "content"}` or `{"from", "value"}`."""
    row = Row.of(value, field)
    sharegpt = "from" in row.value
    role = row.text("from" if sharegpt else "role")
    if row.get("tool_calls"):
        raise DataError(
            "tool calls", "text content", cure="write the calls into `content`", field=row.name("tool_calls")
        )
    key = "value" if sharegpt else "content"
    content = row.require(key, "text or content parts")
    role = _ROLES.get(role, role)
    if isinstance(content, str):
        return Message(role, media.parts(content) if role in ("user", "system", "tool") else (Part("text", content),))
    if not isinstance(content, (list, tuple)):
        raise DataError(described(content), "text or content parts", field=row.name(key))
    return Message(role, tuple(_part(item, f"{row.name(key)}[{i}]", media) for i, item in enumerate(content)))


def _part(value: Any, field: str, media: Media) -> Part:
    row = Row.of(value, field)
    kind = row.text("type").removesuffix("_url").removesuffix("_path")
    if kind == "text":
        return Part("text", row.text("text"))
    inside = next(
        (row.get(key) for key in (kind, f"{kind}_url", "url", "path", "bytes", "base64") if row.has(key)), None
    )
    if inside is None:
        return media.take(kind)
    return Part(kind, inside["url"] if isinstance(inside, Mapping) and "url" in inside else inside)


def prompt_context(row: Row, key: str, media: Media, *, chat: bool = False) -> tuple[Message, ...]:
    """A prompt's messages: a list of turns; a user turn where media or `chat` ask for it; otherwise raw text."""
    value = row.require(key, "text or a list of messages")
    if not isinstance(value, str):
        return media.finish(conversation(value, row.name(key), media))
    role = "user" if chat or media.present else RAW
    return media.finish((Message(role, media.parts(value) or (Part("text", value),)),))


def response(value: Any, field: str, context: Iterable[Message]) -> tuple[Message, ...]:
    """A response's messages, from text, one turn, or a list of turns; a raw context gets a raw response.

    Raises:
        DataError: nothing but white space.
    """
    if isinstance(value, str):
        role = RAW if any(message.role == RAW for message in context) else "assistant"
        messages = (Message.of(role, value),)
    elif isinstance(value, Mapping):
        messages = (turn(value, field),)
    else:
        messages = conversation(value, field)
    if not any(message.text.strip() or message.media for message in messages):
        raise DataError("an empty response", "text", cure="drop the record or sample a response", field=field)
    return messages
