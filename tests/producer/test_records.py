"""Records are a promise between versions: these bytes were written by version 1 and must be read for ever."""

import msgspec
import pytest

from farebox.records import (
    Job,
    Result,
    ResultEnvelope,
    body_digest,
    decode_job,
    decode_result,
    encode_job,
    encode_result,
    job_id,
)

JOB = Job(1, "c1", "openai:gpt-5-mini", "chat", b'{"messages":[]}', 100, "flex", ("t",), ("seed",))
JOB_BYTES = bytes.fromhex(
    "85a174c0a166a8636f6d706c657465a1619199"
    "01a26331b16f70656e61693a6770742d352d6d696e69a463686174c40f7b226d65737361676573223a5b5d7d"
    "64a4666c657891a17491a473656564"
    "a16b80a2657405"
)


# with its deadline, fallbacks and spread
JOB_BYTES_NOW = JOB_BYTES.replace(b"\x91\x99", b"\x91\x9c").replace(b"\xa1k\x80", b"\x00\x90\xc2\xa1k\x80")


def test_a_job_is_written_as_these_bytes_and_read_from_them():
    assert encode_job(JOB, 5) == JOB_BYTES_NOW
    assert decode_job(JOB_BYTES).a[0] == decode_job(JOB_BYTES_NOW).a[0] == JOB


def test_a_job_of_an_older_version_is_read_with_defaults():
    old = msgspec.msgpack.encode({"t": None, "f": "complete", "a": [[1, "c", "p:m", "chat", b"{}"]], "k": {}, "et": 1})
    assert decode_job(old).a[0] == Job(1, "c", "p:m", "chat", b"{}")


@pytest.mark.parametrize("api", ["chat", "messages", "responses", "embeddings"])
def test_a_job_of_every_api_comes_back(api):
    job = msgspec.structs.replace(JOB, api=api)
    assert decode_job(encode_job(job, 1)).a[0] == job


def test_a_job_of_an_api_of_tomorrow_is_refused_by_name():
    newer = [2, "c", "p:m", "speech", b"{}"]
    with pytest.raises(msgspec.DecodeError, match="speech"):
        decode_job(msgspec.msgpack.encode({"t": None, "f": "complete", "a": [newer], "k": {}, "et": 1}))


def test_a_job_of_a_newer_version_is_read_by_its_known_fields():
    newer = [2, "c", "p:m", "chat", b"{}", None, "standard", [], [], 0, [], False, "a field of tomorrow"]
    read = decode_job(msgspec.msgpack.encode({"t": None, "f": "complete", "a": [newer], "k": {}, "et": 1}))
    assert read.a[0].custom_id == "c"


@pytest.mark.parametrize("garbage", [b"", b"\x00", b"\x80\x04\x95", msgspec.msgpack.encode({"a": 1})])
def test_garbage_is_refused(garbage):
    with pytest.raises(msgspec.DecodeError):
        decode_job(garbage)


def test_a_result_comes_back_whole():
    result = Result(1, "c1", "p:m", "succeeded", "answered", 200, "req", b"{}", attempts=2, cost_nusd=3)
    envelope = ResultEnvelope(t=2, f="complete", a=(), k={}, et=1, s=True, r=result, st=2, ft=3, q="q", id="farebox:x")
    assert decode_result(encode_result(envelope)) == envelope


def test_a_job_id_names_its_namespace_and_tells_batches_and_custom_ids_apart():
    assert job_id("farebox", "b", "c") == "farebox:" + job_id("farebox", "b", "c")[8:]
    assert len({job_id("ns", "ab", "c"), job_id("ns", "a", "bc"), job_id("ns2", "ab", "c")}) == 3


def test_another_body_cap_or_model_is_another_digest():
    changed = [{"body": b"{}"}, {"max_tokens": 5}, {"model_ref": "p:m"}, {"drop_params": ()}, {"tier": "standard"}]
    digests = {body_digest(msgspec.structs.replace(JOB, **change)) for change in changed}
    assert len(digests | {body_digest(JOB)}) == 6
    assert body_digest(JOB) == body_digest(msgspec.structs.replace(JOB, tags=("other",)))


def test_other_fallbacks_are_the_same_question():
    assert body_digest(JOB) == body_digest(msgspec.structs.replace(JOB, fallbacks=("p:m",), spread=True))
