"""Any OpenAI-compatible server (vLLM, SGLang, TGI, `transformers serve`): parallel requests, and sampling."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from tqdm import tqdm

from omnipref.errors import CapabilityError, ConfigError, OmniprefError
from omnipref.policies.autoregressive.prompts import is_raw
from omnipref.policies.contexts import Context, draw_seed
from omnipref.preferences import Message, Part
from omnipref.preferences.media import is_url, load_image


class ServerError(OmniprefError, ConnectionError):
    """A server did not answer some requests; the answers that did come are kept.

    Args:
        message: what happened and what to do.
        answers: one per request, None where there is none; for a sampler, the samples by context.
        reasons: number of the failed request to its reason.
    """

    def __init__(self, message: str, answers: Sequence[Any], reasons: Mapping[int, str]):
        super().__init__(message)
        self.answers, self.reasons = answers, reasons


@dataclass(frozen=True)
class Server:
    """Where to ask, and how patiently.

    Args:
        url: address that ends in `/v1`.
        model: the name that the server knows the model by.
        api_key: None takes `OPENAI_API_KEY` from the environment, or a dummy that local servers accept.
        concurrency: requests at once.
        retries: of a request that was refused for load, timed out or lost its connection; waits double up to 8 s.
        timeout: seconds per try.
        options: further fields of each request, such as `{"extra_body": {"top_k": 20}}`.
        progress: show a progress bar.
    """

    url: str
    model: str
    api_key: str | None = field(default=None, repr=False)
    concurrency: int = 8
    retries: int = 4
    timeout: float = 600.0
    options: Mapping[str, Any] = field(default_factory=dict)
    progress: bool = True

    def ask(self, requests: Sequence[tuple[Context, Mapping[str, Any]]], what: str = "asking") -> list[str]:
        """One answer per (context, options of the request), in order.

        A raw context goes to `/completions`, a dialogue to `/chat/completions`, pictures as data URLs.

        Raises:
            ServerError: some requests failed after all retries; all others were finished and are kept in it.
            CapabilityError: the extra `serve` is not installed, or a medium has no place in the protocol.
            ConfigError: the address is no address.
        """
        client = self._client()
        # Built before the first request, so that a bad record costs nothing.
        bodies = [(*_body(context), options) for context, options in requests]
        with client, ThreadPoolExecutor(self.concurrency) as pool:
            found = list(
                tqdm(
                    pool.map(lambda body: self._one(client, *body), bodies),
                    total=len(bodies),
                    desc=what,
                    disable=not self.progress or len(bodies) < 2,
                )
            )
        reasons = {number: str(answer) for number, answer in enumerate(found) if isinstance(answer, _Failure)}
        answers = [None if isinstance(answer, _Failure) else answer for answer in found]
        if reasons:
            raise _server_error(self, answers, reasons)
        return [str(answer) for answer in answers]

    def _client(self) -> Any:
        try:
            from openai import OpenAI
        except ImportError:
            raise CapabilityError("asking a server needs its client: pip install 'omnipref[serve]'") from None
        if not is_url(self.url):
            raise ConfigError(f"found server address {self.url!r}; expected one such as http://localhost:8000/v1")
        key = self.api_key or os.environ.get("OPENAI_API_KEY") or "none"
        return OpenAI(base_url=self.url, max_retries=self.retries, timeout=self.timeout, api_key=key)

    def _one(self, client: Any, chat: bool, body: dict[str, Any], options: Mapping[str, Any]) -> str | _Failure:
        from openai import OpenAIError

        create = client.chat.completions.create if chat else client.completions.create
        fields = {**body, **self.options, **options}
        extra = {**self.options.get("extra_body", {}), **body.get("extra_body", {})}
        try:
            choices = create(model=self.model, **{**fields, "extra_body": extra}).choices
        except OpenAIError as error:
            return _Failure(f"{type(error).__name__}: {error}")
        if not choices:
            return _Failure("an answer without choices")
        text = choices[0].message.content if chat else choices[0].text
        return text if text is not None else _Failure(f"an empty answer (finish_reason {choices[0].finish_reason})")


@dataclass(frozen=True)
class _Failure:
    reason: str

    def __str__(self) -> str:
        return self.reason


@dataclass(frozen=True)
class ServerSampler:
    """Samples from a server, one request per sample; each carries its own `seed`, which servers may ignore.

    Args:
        server: where to ask.
        max_new_tokens: longest response, in tokens.
        temperature: 0 is greedy.
        top_p: nucleus.
        seed: draws the samples where the server honours `seed`.
    """

    server: Server
    max_new_tokens: int = 256
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0

    def __call__(self, contexts: Sequence[Context], *, n: int = 1) -> list[list[str]]:
        """`n` responses to each context.

        Raises:
            ServerError: some requests failed; its `answers` hold the samples that came, None where one did not.
        """
        requests = [(context, self._options(context, k)) for context in contexts for k in range(n)]
        try:
            return _rows(self.server.ask(requests, "sampling"), n)
        except ServerError as error:
            raise ServerError(str(error), _rows(error.answers, n), error.reasons) from None

    def _options(self, context: Context, sample: int) -> dict[str, Any]:
        # Servers take seeds of 32 bits and a sign.
        return {
            "max_tokens": self.max_new_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "seed": draw_seed(self.seed, context, sample) % 2**31,
        }


def _rows(answers: Sequence[Any], n: int) -> list[list[Any]]:
    return [list(answers[start : start + n]) for start in range(0, len(answers), n)]


def _server_error(server: Server, answers: Sequence[Any], reasons: Mapping[int, str]) -> ServerError:
    first = next(iter(reasons.items()))
    return ServerError(
        f"{len(reasons)} of {len(answers)} requests to {server.url} (model {server.model!r}) failed after "
        f"{server.retries} retries; the first, request {first[0]}: {first[1]}. The other answers are kept. "
        "To mend: check that the server runs, serves this model and takes these media, then run again",
        answers,
        reasons,
    )


def _body(context: Context) -> tuple[bool, dict[str, Any]]:
    """Whether a request is a dialogue, and what it asks."""
    if is_raw(context):
        for message in context:
            for part in message.media:
                raise CapabilityError(f"found {part.type} in a raw prompt; servers take media in user messages only")
        return False, {"prompt": "".join(message.text for message in context)}
    messages = [{"role": message.role, "content": _content(message)} for message in context]
    if context[-1].role == "assistant":
        continued = {"add_generation_prompt": False, "continue_final_message": True}
        return True, {"messages": messages, "extra_body": continued}
    return True, {"messages": messages}


def _content(message: Message) -> str | list[dict[str, Any]]:
    return [_item(part) for part in message.parts] if message.media else message.text


def _item(part: Part) -> dict[str, Any]:
    if part.type not in _ITEMS:
        raise CapabilityError(f"found {part.type} input; OpenAI-compatible servers are sent {', '.join(_ITEMS)} only")
    return _ITEMS[part.type](part.value)


def _image(value: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": value if is_url(value) else data_url(value)}}


_ITEMS = {"text": lambda value: {"type": "text", "text": value}, "image": _image}


def data_url(image: Any) -> str:
    """A picture as a lossless data URL.

    Raises:
        DataError: the picture cannot be read.

    Example:
        >>> from PIL import Image
        >>> data_url(Image.new("RGB", (1, 1)))[:30]
        'data:image/png;base64,iVBORw0K'
    """
    buffer = io.BytesIO()
    load_image(image).save(buffer, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
