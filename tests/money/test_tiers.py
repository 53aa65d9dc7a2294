"""The tier really served decides what is booked, what it saved is told, and a tier without room is waited for."""

import time

import msgspec
import pytest

from farebox.errors import ProviderRateLimitError
from farebox.records import VERSION, Job, Result, decode_job, decode_result, encode_job
from farebox_worker.attempts.failures import judge
from farebox_worker.attempts.sending import prepare, send
from farebox_worker.bus.claim import Claimed
from farebox_worker.files.answers import output_line
from farebox_worker.files.lines import read_jobs
from farebox_worker.files.tally import Tally
from farebox_worker.files.written import note_of
from farebox_worker.prices.catalogue import Catalogue, Entry
from farebox_worker.prices.rates import flat, price_of
from farebox_worker.prices.table import PriceTable
from farebox_worker.prices.tiers import book, tier_named
from farebox_worker.providers.base import Facts, Prepared, Reply, TokenUsage
from farebox_worker.providers.openai import OpenAIProvider
from farebox_worker.routes import Patience, Route
from farebox_worker.settings import ModelSettings, ProviderSettings, Settings

STANDARD = price_of(flat(1_000_000, 2_000_000), "s")
FLEX = price_of(flat(500_000, 1_000_000), "f")
PRIORITY = price_of(flat(2_000_000, 4_000_000), "p")
PRICES = {"standard": STANDARD, "flex": FLEX, "priority": PRIORITY}
USAGE = TokenUsage(1000, 100)
STANDARD_NUSD, FLEX_NUSD, PRIORITY_NUSD = 1_200_000, 600_000, 2_400_000


def entry(tier, prices=PRICES):
    facts = Facts("m", 1000, 100, 100)
    return Entry("p:m", "p", "m", facts, prices.get(tier), free=False, rpm=None, tpm=None, max_concurrency=None,
                 prices=prices)  # fmt: skip


@pytest.mark.parametrize(
    ("asked", "said", "cost", "saved"),
    [
        ("flex", "flex", FLEX_NUSD, STANDARD_NUSD - FLEX_NUSD),
        ("flex", "default", STANDARD_NUSD, 0),
        ("flex", "standard", STANDARD_NUSD, 0),
        ("flex", "priority", PRIORITY_NUSD, STANDARD_NUSD - PRIORITY_NUSD),
        ("flex", "", STANDARD_NUSD, 0),  # unsaid: the dearer of the two it can be
        ("flex", "hyperspeed", PRIORITY_NUSD, STANDARD_NUSD - PRIORITY_NUSD),
        ("standard", "", STANDARD_NUSD, 0),
        ("standard", "default", STANDARD_NUSD, 0),
        ("standard", "on_demand", STANDARD_NUSD, 0),
        ("standard", "flex", FLEX_NUSD, STANDARD_NUSD - FLEX_NUSD),
        ("standard", "priority", PRIORITY_NUSD, STANDARD_NUSD - PRIORITY_NUSD),
        ("standard", "scale", PRIORITY_NUSD, STANDARD_NUSD - PRIORITY_NUSD),
    ],
)
def test_the_tier_served_decides_and_an_unknown_one_is_the_dearest(asked, said, cost, saved):
    booking = book(entry(asked), asked, said, USAGE)
    assert (booking.cost_nusd, booking.saved_nusd) == (cost, saved)


def test_a_price_for_the_served_tier_only_is_used_and_none_is_guessed():
    assert book(entry("flex", {"standard": STANDARD}), "flex", "default", USAGE).cost_nusd == STANDARD_NUSD
    assert book(entry("flex", {"standard": STANDARD}), "flex", "flex", USAGE) is None
    assert book(entry("standard", {}), "standard", "", USAGE) is None


def test_words_of_vendors_have_one_name_each():
    assert [tier_named(word) for word in ("default", "standard", "flex", "batch", "")] == [
        "standard", "standard", "flex", "batch", "",
    ]  # fmt: skip


class Served:
    """An adapter that serves a tier, or has no room."""

    provider_id = "p"

    def __init__(self, said="flex", error=None):
        self.said, self.error = said, error

    def prepare(self, job, facts):
        return Prepared(job.body, 2000, 200, capped_by_default=False, api="chat")

    async def post(self, prepared, *, timeout_s):
        if self.error:
            raise self.error
        return Reply(200, "r", b"{}", b"{}", USAGE, "answered", served_tier=self.said)


def attempt(provider, route=None):
    job = Job(VERSION, "c", "p:m", "chat", b"{}", tier="flex")
    claimed = Claimed("ns:1", "ns:flow:0:b:p:m@flex", "t" * 16, "1", 0, 0, 0, encode_job(job, 1))
    route = route or Route("p:m@flex", entry("flex"), provider)
    return prepare(claimed, "b", route, deadline=time.monotonic() + 60)


async def test_flex_is_held_at_flex_and_booked_as_served():
    made = attempt(Served("default"))
    assert made.hold_nusd == FLEX.worst_nusd(2000, 200)
    settlement, _ = await send(made, timeout_s=5, max_attempts=5)
    result = decode_result(settlement.result).r
    assert (settlement.amount_nusd, result.cost_nusd, result.saved_nusd) == (STANDARD_NUSD, STANDARD_NUSD, 0)
    assert (result.tier, result.served_tier, result.price_version) == ("flex", "standard", "s")


async def test_a_tier_without_room_pauses_its_lane_longer_each_time_and_costs_no_attempt():
    full = ProviderRateLimitError("p", "full", status_code=429, code="resource_unavailable", own_body=True)
    route = Route("p:m@flex", entry("flex"), Served(error=full))
    delays = []
    for _ in range(12):
        settlement, verdict = await send(attempt(route.provider, route), timeout_s=5, max_attempts=1)
        assert (settlement.action, settlement.money) == ("return", "release"), "back to its place, as if never claimed"
        assert (verdict.action, verdict.counted, verdict.failure_class) == ("pause_lane", False, "no_room")
        delays.append(verdict.delay_s)
    assert 0.5 <= delays[0] <= 1.5
    assert all(delay <= 1.5 * 300 for delay in delays)
    assert delays[-1] > 60
    route.provider.error = None
    await send(attempt(route.provider, route), timeout_s=5, max_attempts=1)
    assert route.patience.refused(time.monotonic()) == 1, "an answer begins anew"


def test_calls_that_were_sent_together_count_as_one_refusal():
    patience, sent_s = Patience(), time.monotonic() - 1
    assert [patience.refused(sent_s) for _ in range(5)] == [1] * 5
    assert patience.refused(time.monotonic() + 1) == 2


def test_a_providers_own_word_on_when_to_come_back_goes_first():
    words = {"status_code": 429, "code": "resource_unavailable", "own_body": True}
    full = ProviderRateLimitError("p", "full", retry_after=7.0, **words)
    assert judge(full, attempts=1, doubts=0, max_attempts=5, refusals=9).delay_s == 7.0


# --- which tier ---------------------------------------------------------------------------------------------------


def catalogue(models=None, **providers):
    known = {"openai": ProviderSettings(kind="openai"), "anthropic": ProviderSettings(kind="anthropic"), **providers}
    settings = Settings(providers=known | {"echo": ProviderSettings(kind="echo")}, models=models or {})
    return Catalogue(settings, PriceTable(settings))


@pytest.mark.parametrize(
    ("model_ref", "tier"),
    [
        ("openai:gpt-5-mini", "flex"), ("openai:gpt-4o-mini", "standard"), ("anthropic:claude-haiku-4-5", "standard"),
        ("echo:echo", "standard"),
    ],
)  # fmt: skip
def test_the_cheapest_tier_is_flex_where_vendor_and_price_table_have_it(model_ref, tier):
    assert catalogue().cheapest_tier(model_ref) == tier


def test_a_server_of_ones_own_has_flex_when_the_file_says_so():
    rates = {"input_usd_per_mtok": 1.0, "output_usd_per_mtok": 2.0}
    flex = {"flex_input_usd_per_mtok": 0.5, "flex_output_usd_per_mtok": 1.0}
    url = "http://127.0.0.1:1/v1"
    own = ProviderSettings(kind="openai", base_url=url, flex=True)
    plain = ProviderSettings(kind="openai", base_url=url)
    both = ModelSettings(**rates, **flex)
    made = catalogue({"own:m": both, "plain:m": both, "own:n": ModelSettings(**rates)}, own=own, plain=plain)
    assert [made.cheapest_tier(ref) for ref in ("own:m", "plain:m", "own:n")] == ["flex", "standard", "standard"]
    assert made.resolve("own:m", tier="flex").price.worst_nusd(1000, 1000) == 1_500_000


@pytest.mark.parametrize(
    ("provider", "has_flex"),
    [
        ({"kind": "openai"}, True), ({"kind": "openai", "base_url": "https://eu.api.openai.com/v1"}, True),
        ({"kind": "openai", "base_url": "https://api.openai.com.evil/v1"}, False), ({"kind": "anthropic"}, False),
        ({"kind": "openai", "flex": False}, False),
    ],
)  # fmt: skip
def test_which_endpoints_know_flex(provider, has_flex):
    assert ProviderSettings(**provider).has_flex is has_flex


def test_the_tier_is_sent_only_where_it_is_known():
    job = Job(VERSION, "c", "own:m", "chat", b'{"messages":[{"role":"user","content":"hi"}]}', tier="flex")
    facts = Facts("m", 1000, 100, 100)
    knows = OpenAIProvider("own", api_key="k", base_url="http://127.0.0.1:1/v1", has_flex=True)
    assert b'"service_tier":"flex"' in knows.prepare(job, facts).body
    with pytest.raises(Exception, match="no tier flex: use --tier standard, or cheapest"):
        OpenAIProvider("own", api_key="k", base_url="http://127.0.0.1:1/v1").prepare(job, facts)


def test_each_line_gets_the_tier_of_its_model_unless_it_says_its_own(tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_text(
        '{"model":"openai:gpt-5-mini","prompt":"a"}\n{"model":"openai:gpt-4o-mini","prompt":"b"}\n'
        '{"model":"openai:gpt-5-mini","prompt":"c","service_tier":"default"}\n'
    )
    made = catalogue()
    lines = read_jobs(path, resolve=lambda name, provider: made.resolve(name, provider=provider),
                      tier=made.cheapest_tier)  # fmt: skip
    assert [line.job.tier for line in lines] == ["flex", "standard", "standard"]


# --- what is told -------------------------------------------------------------------------------------------------


def test_a_result_of_before_is_read_and_a_new_one_tells_tier_and_saving():
    before = list(msgspec.structs.astuple(Result(1, "c", "p:m", "succeeded", cost_nusd=5)))[:21]
    envelope = {"t": 1, "f": "complete", "a": [], "k": {}, "et": 1, "s": True, "st": 1, "ft": 1, "q": "q", "id": "x"}
    old = decode_result(msgspec.msgpack.encode(envelope | {"r": before})).r
    assert (old.cost_nusd, old.capped_by_default) == (5, False)
    assert (old.served_tier, old.saved_nusd) == ("", 0)
    fields = {"tier": "flex", "served_tier": "flex", "cost_nusd": 600, "saved_nusd": 600}
    line = output_line("ns:1", Result(1, "c", "p:m", "succeeded", status_code=200, body=b"{}", **fields))
    assert b'"tier":"flex","served_tier":"flex"' in line
    assert b'"saved_nusd":600' in line
    tally = Tally()
    tally.count(note_of(line))
    assert (tally.saved_nusd, tally.served) == (600, {"flex": 1})
    tally.count(note_of(line), -1)
    assert (tally.saved_nusd, +tally.served) == (0, {})


def test_a_job_names_its_tier_on_the_bus():
    assert decode_job(encode_job(Job(VERSION, "c", "p:m", "chat", b"{}", tier="flex"), 1)).a[0].tier == "flex"
