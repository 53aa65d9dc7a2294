"""Every Redis key, in one table. `<ns>` is the namespace; live keys have no TTL, retention starts at the finish.

| key | type | TTL | writer | reader | holds |
|---|---|---|---|---|---|
| `<ns>:ledger` | hash | none | every verb | every verb | epoch, seq, clock, grace, lapsed, looked (how far lapse came with the parked), lease, jobs (last sequence number), journal (rows ever written), lost (why, until adopted) |
| `<ns>:limit:<limit>` | string | none; batches: ids_days | operator; producer for its own batch | admit, settle | the limit in nano-dollars; `<limit>` is `<scope>`, `day:<scope>` or `month:<scope>` |
| `<ns>:scope:<scope>` | hash | none; batches: ids_days, unless money is unconfirmed | admit, settle, lapse, book | everybody | spent, held, unconfirmed, overrun (nusd), calls, tokens, unpriced; batches: since (the journal's rows when it began) |
| `<ns>:window:day:<date>`, `<ns>:window:month:<month>` | hash | 40 days, 400 days | settle, lapse, confirm, book | admit, budget | `spent <scope>`, `unconfirmed <scope>` (nusd) of that UTC day or month, limited or not |
| `<ns>:journal` | stream | none; 35 days or 200,000 rows | whatever books | audit, cost | one entry per verb: n, d, scope sets, then a row per booking (see `tally.lua`) |
| `<ns>:checkpoint` | hash | none | fold | audit | until (last folded entry), rows, `day <date>` per day that has one |
| `<ns>:checkpoint:scope:<scope>` | hash | none; batches: fold, after their counters | fold | audit | sums of what was folded, as in the scope, but held |
| `<ns>:checkpoint:<date>` | hash | 400 days | fold | audit, cost | `<counter> <scope>` of what was folded of that UTC day |
| `<ns>:scopes` | set | none | settle, book, limit | cost | names of the scopes that ever counted or had a limit |
| `<ns>:holds` | hash | none | admit, settle, lapse | settle, lapse | attempt token: hold, job, flow, scopes |
| `<ns>:unconfirmed` | hash | none | settle, lapse, confirm | settle, cost | attempt token: amount, job, flow, scopes, when, why |
| `<ns>:marks:<claim>` | string | 10 min; 1 day once an operator confirmed one | settle, confirm | settle, reassert | which attempts of one claim are settled, or released ("r"), each between spaces; `<claim>` and a digit for each 64 of them, 12 characters in all |
| `<ns>:claim:<claim>` | string | one lease | claim | claim | what a claim took, so that it can be asked again |
| `<ns>:lanes` | set | none | submit | workers, lapse | every lane that ever had a job |
| `<ns>:lane:<lane>` | hash | none | claim, admit, settle, pause, blame, tune, moves | claim, lanes, moves | paused_until (ms), paused_why, paused_by (operator or provider); overrun (nusd): of the first bill above its hold; alike_what, alike_count, alike_calls: bad requests in a row of one kind; the pace of `pace.lua`: rpm, tpm, rpm_seen, tpm_seen, requests, tokens, paced, window, need, mean, target, cut, ceiling, grown, grew, short, refusals, refused; away_since (ms): since when moves see that it cannot go on |
| `<ns>:provider:<id>` | hash | none | claim, admit, settle, pause, tune | claim, lanes | what all lanes of a provider share: paused_until, paused_why, paused_by; rpm, tpm and their buckets as of a lane; starved: until when its tokens are kept for which lane; probing and probe: one job goes first |
| `<ns>:open:<lane>` | zset | none | submit, claim, settle | claim | flows with work now, by priority and jobs served |
| `<ns>:wait:<lane>` | zset | none | claim, settle | claim | flows whose next job is due later, by ms |
| `<ns>:turns:<lane>` | zset | 5 s | claim | claim | which batches, "" for all, wait for room in flight, by since when in ms, where some processes serve one alone |
| `<ns>:turn:<lane>` | string | 100 ms | claim | claim | which of them was called to take it |
| `<ns>:leases:<lane>` | zset | none | claim, renew, settle | lapse | ids in flight, by the end of their lease in ms |
| `<ns>:parking` | hash | none | admit, drop | admit, status | parked flow: limit, need, since |
| `<ns>:parked:<limit>` | zset | none | admit | settle, limit | parked flows by their need in nusd |
| `<ns>:starved:<limit>` | string | 60 s | lapse | admit | the flow that waited 30 s: nothing smaller may pass it |
| `<ns>:strikes` | hash | none | lapse, settle | claim | per job: attempts of unknown outcome, claims without an admit |
| `<ns>:history:<id>` | list | none; results_days once its job has ended | settle, lapse | job | one line per attempt that did not answer the job, the last 20: when (ms), host and pid, lane, class, status, request id, money, nusd, ms, message |
| `<ns>:deadlines` | zset | none | submit, retry | expire | `<batch>`, a tab and the id of jobs that have a deadline, by that in ms |
| `<ns>:flow:<priority>:<batch>:<lane>` | zset | none | submit, claim, settle | claim, arq | job ids: sequence numbers < 1e12, due times and lease ends in ms |
| `<ns>:flow:<priority>:<batch>+<limit>:<lane>` | zset | none | admit, claim, settle | claim, arq | its siding: jobs that wait for this limit, so that others of the flow go on; `<limit>` with `+` for each `:` |
| `<ns>:batch:<batch>` | hash | ids_days | submit, settle | everybody | name, created_ms, total, sealed, cancelled, aborted, counts |
| `<ns>:batches` | zset | none | submit | batches | batch ids by creation in ms |
| `<ns>:flows:<batch>` | set | ids_days | submit, admit, lapse | cancel, claim, status | the flows of a batch, and their sidings |
| `<ns>:movable` | set | none | submit, settle, move | workers | flows whose jobs name fallbacks; empty ones are forgotten by move |
| `<ns>:spread` | set | none | submit, settle, move | workers | flows whose jobs several lanes share |
| `<ns>:ids:<batch>` | hash | ids_days | submit | submit | job digest: body digest; the tombstones |
| `<ns>:results:<batch>` | stream | results_days | settle, drop | results, client | entries of id, outcome pairs, one entry per settled group |
| `<ns>:content:<digest>` | string | 7 days | submit of a single job, or with reuse | submit with reuse | id of the job that asked this first, to reuse its answer |
| `<ns>:cancelled` | set | none | cancel | workers | batches whose waiting jobs are still to be swept |
| `<ns>:bell:lane:<lane>`, `<ns>:bell:batch:<batch>` | list | 60 s | submit, claim, settle | workers | at most 4 doorbell tokens |
| `<ns>:control` | channel | - | submit, limit, cancel | workers | "lane <lane>", "limit <scope>", "cancel <batch>", "abort <batch>", "pause <lane>" |
| `<ns>:workers` | zset | 1 hour | workers | lanes, workers | ids of worker processes, by their last heartbeat in ms |
| `<ns>:worker:<id>` | hash | 30 s | workers | lanes, workers | host, pid, version, started_ms, batch, in flight, lanes (one a line), retried and errors (lane, tab, which), latencies (lane, tab, counts), away (lane, tab, why), stopped (provider, tab, why), unserved (lane, tab, why) |
| `<ns>:housekeeping` | zset | none | arq's cron | arq | arq's own queue for housekeeping |
| `arq:job:<id>` | string | none | submit, retry | claim, arq | arq's job dictionary, MessagePack |
| `arq:in-progress:<id>` | string | none | claim, settle, lapse | arq, settle | attempt token (16 characters), then the flow |
| `arq:retry:<id>` | string | none | settle, lapse | claim | attempts that were admitted and did not finish the job |
| `arq:result:<id>` | string | results_days | settle, drop | arq, results, client, retry | arq's result dictionary, MessagePack; of failed jobs with the job |

Job ids begin with the namespace, so arq's keys are told apart by it too. Lua builds keys from the prefix `<ns>:`
(Redis Cluster is refused). Names: batch ids are 1 to 64 of `A-Z a-z 0-9 . _ -`; models and tags hold no control characters.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from farebox.errors import InputError

SEQUENCE_END = 10**12  # scores below are sequence numbers, above are milliseconds
_BATCH_ID = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_TAG = re.compile(r"[^\x00-\x1f\x7f,]{1,64}\Z")


def lane_of(model_ref: str, tier: str = "standard") -> str:
    """Name the lane of a model and tier: the model_ref, and `@flex` unless standard."""
    return model_ref if tier == "standard" else f"{model_ref}@{tier}"


def parts_of_lane(lane: str) -> tuple[str, Literal["standard", "flex"]]:
    """The model_ref and the tier of a lane; a model's own name may hold an `@`."""
    model_ref = lane.removesuffix("@flex")
    return model_ref, "standard" if model_ref == lane else "flex"


def check_batch_id(batch_id: str) -> str:
    """Return a batch id that may stand in a key. Raises: InputError."""
    if not _BATCH_ID.match(batch_id):
        raise InputError(f"batch id {batch_id!r}: use 1 to 64 letters, digits, dots, dashes and underscores")
    return batch_id


def check_lane(lane: str) -> str:
    """Return a lane that may stand in keys, records and sets of scopes. Raises: InputError."""
    if _CONTROL.search(lane):
        raise InputError(f"model {lane!r}: no control characters are allowed in a model's name")
    return lane


def check_tag(tag: str) -> str:
    """Return a tag that may stand in a scope's name. Raises: InputError."""
    if not _TAG.match(tag):
        raise InputError(f"tag {tag!r}: use 1 to 64 characters, no commas and no control characters")
    return tag


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of one namespace."""

    namespace: str = "farebox"

    @property
    def prefix(self) -> str:
        """What stands before every key of ours."""
        return f"{self.namespace}:"

    @property
    def ledger(self) -> str:
        """The ledger's identity and clock."""
        return f"{self.prefix}ledger"

    @property
    def scopes(self) -> str:
        """Names of all scopes that ever counted."""
        return f"{self.prefix}scopes"

    @property
    def unconfirmed(self) -> str:
        """Money of attempts whose outcome is unknown."""
        return f"{self.prefix}unconfirmed"

    @property
    def holds(self) -> str:
        """Money set aside for attempts that run."""
        return f"{self.prefix}holds"

    @property
    def journal(self) -> str:
        """Every booking since the checkpoint."""
        return f"{self.prefix}journal"

    @property
    def checkpoint(self) -> str:
        """Up to where the journal was folded."""
        return f"{self.prefix}checkpoint"

    @property
    def lanes(self) -> str:
        """All lanes."""
        return f"{self.prefix}lanes"

    @property
    def parking(self) -> str:
        """Parked flows."""
        return f"{self.prefix}parking"

    @property
    def batches(self) -> str:
        """All batches by creation."""
        return f"{self.prefix}batches"

    @property
    def cancelled(self) -> str:
        """Cancelled batches that still hold waiting jobs."""
        return f"{self.prefix}cancelled"

    def flows_to_move(self, kind: str) -> str:
        """Flows whose jobs other lanes may answer: when theirs cannot ("movable"), or as its equals ("spread")."""
        return f"{self.prefix}{kind}"

    @property
    def workers(self) -> str:
        """Worker processes by their last heartbeat."""
        return f"{self.prefix}workers"

    @property
    def control(self) -> str:
        """The control channel."""
        return f"{self.prefix}control"

    @property
    def housekeeping(self) -> str:
        """The name of arq's queue for housekeeping."""
        return f"{self.prefix}housekeeping"

    def scope(self, name: str) -> str:
        """Counters of a scope."""
        return f"{self.prefix}scope:{name}"

    def limit(self, name: str) -> str:
        """Limit of a scope, or with `day:` or `month:` before its name, of its windows."""
        return f"{self.prefix}limit:{name}"

    def window(self, per: str, date: str) -> str:
        """Counters of the UTC day, or of the month, of an ISO date."""
        return f"{self.prefix}window:{per}:{date[:7] if per == 'month' else date}"

    def checkpoint_of_scope(self, name: str) -> str:
        """What was folded of a scope."""
        return f"{self.prefix}checkpoint:scope:{name}"

    def checkpoint_of_day(self, date: str) -> str:
        """What was folded of a UTC day."""
        return f"{self.prefix}checkpoint:{date}"

    def flow(self, priority: int, batch_id: str, lane: str) -> str:
        """The part of a lane that belongs to one batch at one priority: an arq queue."""
        return f"{self.prefix}flow:{priority}:{batch_id}:{lane}"

    def parts_of_flow(self, flow: str) -> tuple[int, str, str]:
        """Priority, batch and lane of a flow's key."""
        priority, batch_id, lane = flow[len(self.prefix) + len("flow:") :].split(":", 2)
        return int(priority), batch_id.partition("+")[0], lane

    def lane(self, lane: str) -> str:
        """A lane's state."""
        return f"{self.prefix}lane:{lane}"

    def provider(self, provider_id: str) -> str:
        """A provider's state: what all its lanes share."""
        return f"{self.prefix}provider:{provider_id}"

    def leases(self, lane: str) -> str:
        """A lane's ids in flight."""
        return f"{self.prefix}leases:{lane}"

    def batch(self, batch_id: str) -> str:
        """A batch's record."""
        return f"{self.prefix}batch:{batch_id}"

    def flows(self, batch_id: str) -> str:
        """A batch's flows."""
        return f"{self.prefix}flows:{batch_id}"

    def results(self, batch_id: str) -> str:
        """A batch's result stream."""
        return f"{self.prefix}results:{batch_id}"

    def lane_bell(self, lane: str) -> str:
        """The doorbell of a lane."""
        return f"{self.prefix}bell:lane:{lane}"

    def batch_bell(self, batch_id: str) -> str:
        """The doorbell of a batch, for workers that serve nothing else."""
        return f"{self.prefix}bell:batch:{batch_id}"

    def worker(self, worker_id: str) -> str:
        """A worker process's heartbeat."""
        return f"{self.prefix}worker:{worker_id}"

    @property
    def deadlines(self) -> str:
        """Jobs that have a deadline, by it."""
        return f"{self.prefix}deadlines"

    def history(self, job_id: str) -> str:
        """What was tried of a job and did not answer it."""
        return f"{self.prefix}history:{job_id}"

    def opened(self, lane: str) -> str:
        """A lane's flows with work now."""
        return f"{self.prefix}open:{lane}"

    def waiting(self, lane: str) -> str:
        """A lane's flows whose next job is due later."""
        return f"{self.prefix}wait:{lane}"

    def content(self, digest: str) -> str:
        """Which job asked this first."""
        return f"{self.prefix}content:{digest}"

    @staticmethod
    def job(job_id: str) -> str:
        """Arq's payload key."""
        return f"arq:job:{job_id}"

    @staticmethod
    def in_progress(job_id: str) -> str:
        """Arq's running key."""
        return f"arq:in-progress:{job_id}"

    @staticmethod
    def result(job_id: str) -> str:
        """Arq's result key."""
        return f"arq:result:{job_id}"
