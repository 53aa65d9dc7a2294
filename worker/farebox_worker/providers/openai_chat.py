"""OpenAI's chat completions: the request with its bounds, the answer with its finish."""

from __future__ import annotations

import msgspec
from msgspec import Raw

from farebox.records import Finish, Job
from farebox_worker.providers import body as bodies
from farebox_worker.providers import openai_request as requests
from farebox_worker.providers import openai_usage
from farebox_worker.providers.base import Facts, Prepared, Said
from farebox_worker.providers.openai_request import Endpoint
from farebox_worker.providers.translate_messages import chat_to_message, messages_to_chat

CAP_FIELDS = ("max_completion_tokens", "max_tokens")
_FINISH: dict[str | None, Finish] = {
    "length": "truncated",
    "tool_calls": "tool_call",
    "function_call": "tool_call",
    "content_filter": "filtered",
}


class _Answered(msgspec.Struct):
    refusal: str | None = None
    tool_calls: list[Raw] | None = None


class _Error(msgspec.Struct):
    """Why a call that was let in failed: OpenRouter tells it within a 200, its code as HTTP's status would be."""

    code: str | int | None = None
    message: str | None = None


class _Choice(msgspec.Struct):
    message: _Answered | None = None
    finish_reason: str | None = None
    error: _Error | None = None


class _Completion(msgspec.Struct):
    choices: list[_Choice] | None = None
    error: _Error | None = None
    usage: Raw = Raw()
    service_tier: str | None = None


_completion = msgspec.json.Decoder(_Completion)


def prepare(job: Job, facts: Facts, endpoint: Endpoint) -> Prepared:
    """Make the request for a chat or messages job. Raises: UntranslatableError, InputError."""
    body = bodies.unescaped(job.body)
    if job.api == "messages":
        body = messages_to_chat(body, provider_id=endpoint.provider_id, drop=job.drop_params)
    request = requests.read(body)
    cap, by_default = bodies.output_cap([request.max_completion_tokens, request.max_tokens], job.max_tokens, facts)
    fields = bodies.fields_of(body)
    for name in CAP_FIELDS:
        fields.pop(name, None)
    fields["model"] = bodies.raw(facts.model_id)
    fields[endpoint.cap_field] = bodies.raw(cap)
    requests.set_tier(fields, request.service_tier, job, endpoint)
    final = bodies.written(fields)
    return Prepared(
        body=final,
        input_bound=requests.input_bound(request, fields, final, facts, is_vendor=endpoint.is_vendor),
        output_bound=requests.output_bound(request, cap),
        capped_by_default=by_default,
        api=job.api,
        fees=requests.fees(request, fields, facts.model_id, is_vendor=endpoint.is_vendor),
    )


def read(original: bytes, prepared: Prepared) -> Said | None:
    """Read an answer; None when it is none. Raises: msgspec.DecodeError."""
    answer = _completion.decode(original)
    usage = openai_usage.read(answer.usage, prepared)
    if error := _error_of(answer):
        failure = (str(error.code or "server_error"), error.message or "the completion failed")
        return Said(original, usage, "", answer.service_tier or "", failure)
    if not answer.choices:
        return openai_usage.billed(original, prepared)
    as_asked = chat_to_message(original) if prepared.api == "messages" else original
    return Said(as_asked, usage, _finish_of(answer.choices), answer.service_tier or "")


def _error_of(answer: _Completion) -> _Error | None:
    """Find what failed, where nothing was answered; beside no choice only a code tells it from any foreign text."""
    if not answer.choices:
        return answer.error if answer.error and answer.error.code else None
    return answer.choices[0].error if all(choice.error for choice in answer.choices) else None


def _finish_of(choices: list[_Choice]) -> Finish:
    """Judge the choices: the first that is not plainly answered speaks for all."""
    for choice in choices:
        if choice.message and choice.message.refusal:
            return "refused"
        if finish := _FINISH.get(choice.finish_reason):
            return finish
        if choice.message and choice.message.tool_calls:  # some servers call it "stop" all the same
            return "tool_call"
    return "answered"
