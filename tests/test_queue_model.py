"""The queue's scripts against a model of them: any order of calls, each perhaps repeated, keeps the promises."""

import asyncio
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from redis.asyncio import Redis

from service.errors import JobNotFound, KeyReused, QueueFull, ShareFull
from service.job import JobState, JobStatus
from service.queue.blobs import BlobStore, input_key
from service.queue.fleet import Fleet
from service.queue.limits import Limits
from service.queue.queue import Queue
from tests.jobs import PROBLEM, RESULT, job
from tests.queue_model import ALLOWED, Model
from tests.soak import times

STEPS = 50
EXAMPLES = times(10_000 // STEPS, 25)
MODEL_LIMITS = Limits(max_waiting=9, max_client_waiting=6, max_active=8)
BY_ITS_END = {"finish": JobState.SUCCEEDED, "fail": JobState.FAILED, "dead": JobState.FAILED}


def test_any_order_of_calls_keeps_the_promises(valkey: str) -> None:
    machine = type("Machine", (QueueMachine,), {"url": valkey})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            print_blob=False,
        ),
    )


class StutteringQueue(Queue):
    """One whose connection breaks after every second call: the client library makes such a call once more."""

    stutters = False

    async def _run(self, script: str, *args: str | float) -> Any:
        answer = await super()._run(script, *args)
        return await super()._run(script, *args) if self.stutters else answer


class QueueMachine(RuleBasedStateMachine):
    """Every rule makes a call, and the model says what should come of it."""

    url = ""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = TemporaryDirectory(prefix="omgsr-")
        self.blobs = BlobStore(self.folder.name)
        self.model = Model()
        self.namespace = uuid4().hex
        self.queue, self.hasty = self.run(self.connect())

    async def connect(self) -> tuple[StutteringQueue, Queue]:
        """The queue, and one whose leases are over as soon as they are made."""
        return (
            StutteringQueue(self.url, namespace=self.namespace, lease_s=60, max_attempts=ALLOWED),
            Queue(self.url, namespace=self.namespace, lease_s=-1),
        )

    def run(self, call: Any) -> Any:
        return self.runner.run(call)

    def teardown(self) -> None:
        self.run(self.everything_ends())
        self.run(self.queue.close())
        self.run(self.hasty.close())
        self.runner.close()
        self.folder.cleanup()

    async def everything_ends(self) -> None:
        """And then nothing is left of the line, of its clients, or of the order among them."""
        for name, known in self.model.jobs.items():
            if not known.state.final:
                await self.queue.cancel(name)
        async with Redis.from_url(self.url, decode_responses=True) as server:
            prefix = f"{{{self.namespace}}}:"
            names = {key.removeprefix(prefix) async for key in server.scan_iter(f"*{self.namespace}*", count=1000)}
            ends = {"totals", "vtime", "files", "expiring", "dead", "ended", "called_off", "arrivals"}
            assert not {n for n in names - ends if not n.startswith(("job:", "events:", "lease:", "key:"))}
            totals = await server.hgetall(f"{prefix}totals")
            assert (totals.get("waiting", "0"), totals.get("weight", "0")) == ("0", "0")

    @property
    def names(self) -> list[str]:
        return sorted(self.model.jobs)

    def drawn(self, data: st.DataObject) -> str:
        return str(data.draw(st.sampled_from(self.names)))

    @rule(stutters=st.booleans())
    def connection_changes(self, stutters: bool) -> None:
        self.queue.stutters = stutters

    @rule(
        name=st.sampled_from([f"job {number}" for number in range(30)]),
        priority=st.sampled_from([0, 0, 0, -10, 10]),
        client=st.sampled_from(["a", "a:1", "b"]),
        cost=st.sampled_from([0.3, 1.0, 4.0]),
        key=st.sampled_from(["", "1:k", "k"]),
        digest=st.sampled_from("xy"),
        late=st.sampled_from([False, False, True]),
        attended=st.booleans(),
    )
    def submit(self, name: str, late: bool, client: str, key: str, digest: str, **told: Any) -> None:
        weight, deadline_s = {"a": 1.0, "a:1": 3.0, "b": 0.7}[client], 1e-6 if late else None
        made = job(name, client=client, weight=weight, key=key, digest=digest, deadline_s=deadline_s, **told)
        if name in self.model.expired:
            return  # an id is never used again
        known = self.model.jobs.get(name)
        holder = self.model.keys.get((client, key)) if key else None
        self.blobs.put(made.input_key, b"one") if not known else None
        expected: type[Exception] | None = None
        if known is None and holder and self.model.jobs[holder].job.digest != digest:
            expected = KeyReused
        elif known is None and holder is None:
            expected = self.full_for(client)
        if expected:
            with pytest.raises(expected):
                self.run(self.queue.submit(made, MODEL_LIMITS))
            return
        receipt = self.run(self.queue.submit(made, MODEL_LIMITS))
        if known is None and holder is None:
            self.model.accept(made)
            assert receipt.position == self.model.line.index(name)
        assert (receipt.job_id, receipt.joined) == ((holder, True) if known is None and holder else (name, False))

    @rule(turns=st.lists(st.tuples(st.sampled_from(["a", "b"]), st.sampled_from([0.3, 4.0])), min_size=2, max_size=6))
    def many_submit(self, turns: list[tuple[str, float]]) -> None:
        for client, cost in turns:
            made = job(f"many {len(self.model.jobs)}", client=client, cost=cost, weight={"a": 1.0, "b": 0.7}[client])
            if made.id not in self.model.jobs | self.model.expired:
                self.blobs.put(made.input_key, b"one")
                self.run(self.queue.submit(made))
                self.model.accept(made)

    def full_for(self, client: str) -> type[Exception] | None:
        if self.model.active_of(client) >= 8 or self.model.waiting_of(client) >= 6:
            return ShareFull
        return QueueFull if len(self.model.line) >= 9 else None

    @rule(client=st.sampled_from(["a", "b"]), key=st.sampled_from(["", "k"]), digest=st.sampled_from("xy"))
    def joined(self, client: str, key: str, digest: str) -> None:
        holder = self.model.keys.get((client, key))
        if holder and self.model.jobs[holder].job.digest != digest:
            with pytest.raises(KeyReused):
                self.run(self.queue.joined(client, key, digest))
        else:
            receipt = self.run(self.queue.joined(client, key, digest))
            assert (receipt.job_id if receipt else None) == holder

    @rule(count=st.integers(1, 3))
    def lease(self, count: int) -> None:
        leased = self.run(self.queue.lease(["m"], "w", count))
        assert [each.job.id for each in leased] == self.model.lease(count)
        for each in leased:
            known = self.model.jobs[each.job.id]
            assert (each.attempt, each.suspect) == (known.attempt, known.attempt - known.released > 1)

    @precondition(lambda self: self.model.jobs)
    @rule(
        data=st.data(),
        way=st.sampled_from(["finish", "fail", "dead", "retry", "release", "progress", "renew", "silence"]),
        behind=st.sampled_from([0, 0, 0, 1]),
    )
    def worker_acts(self, data: st.DataObject, way: str, behind: int) -> None:
        name = self.drawn(data)
        known = self.model.jobs[name]
        attempt = known.attempt - behind
        if known.state is not JobState.RUNNING:
            behind += self.was_heard(name, way)
        may = known.state is JobState.RUNNING and not behind
        heard = self.run(self.call(way, name, attempt))
        if may:
            assert heard
            self.heard(name, way)
        elif behind:
            return
        else:
            assert not heard

    def was_heard(self, name: str, way: str) -> bool:
        """Whether the call is like one that brought the job where it is: then it is taken for that one's repetition."""
        state = self.model.jobs[name].state
        after = {
            "retry": {JobState.QUEUED, JobState.FAILED},
            "release": {JobState.QUEUED},
            "finish": {JobState.SUCCEEDED},
        }
        return state in after.get(way, {JobState.QUEUED, JobState.FAILED} if way in ("fail", "dead") else set())

    def call(self, way: str, name: str, attempt: int) -> Any:
        if way == "finish":
            return self.queue.finish(name, attempt, RESULT)
        if way == "release":
            return self.queue.release(name, attempt)
        if way == "progress":
            return self.queue.progress(name, attempt, 1, 4)
        if way in ("renew", "silence"):
            return (self.queue if way == "renew" else self.hasty).renew({name: attempt})
        return self.queue.fail(name, attempt, PROBLEM, retry=way == "retry", dead=way == "dead")

    def heard(self, name: str, way: str) -> None:
        known = self.model.jobs[name]
        if way == "retry":
            self.model.deliver_again(name)
        elif way == "release":
            known.released += 1
            known.state = JobState.QUEUED
        elif way in ("renew", "silence"):
            known.lease_over = way == "silence"
        elif way != "progress":
            known.files += RESULT.bytes if way == "finish" else 0
            self.model.end(name, BY_ITS_END[way], dead=way == "dead")

    @precondition(lambda self: self.model.jobs)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        name = self.drawn(data)
        if not self.model.jobs[name].state.final:
            self.model.end(name, JobState.CANCELLED)
        assert self.run(self.queue.cancel(name)) is self.model.jobs[name].state

    @precondition(lambda self: self.model.jobs)
    @rule(data=st.data(), leaves=st.booleans())
    def attend(self, data: st.DataObject, leaves: bool) -> None:
        name = self.drawn(data)
        self.run(self.queue.attend([name], -1 if leaves else 60))
        known = self.model.jobs[name]
        known.asked_for = not (leaves and known.job.attended)

    @rule()
    def reclaim(self) -> None:
        self.run(self.queue.reclaim())
        self.model.reclaim()

    @rule(data=st.data(), replays=st.booleans())
    def letter(self, data: st.DataObject, replays: bool) -> None:
        name = data.draw(st.sampled_from([*self.model.letters, "nobody"]))
        call = self.queue.replay(name, self.blobs) if replays else self.queue.bury(name)
        if name == "nobody":
            with pytest.raises(JobNotFound):
                self.run(call)
            return
        new_id = self.run(call)
        if replays:
            told = self.run(self.queue.status(new_id)).job
            assert self.blobs.get(input_key(new_id)) == b"one"
            self.model.accept(told)
        self.model.remove_letter(name)

    @rule()
    def sweep(self) -> None:
        expired = self.run(self.queue.expired(100))
        assert set(expired) == set(self.model.expired)
        self.run(self.queue.forget(expired))
        self.model.expired.clear()

    @invariant()
    def every_job_is_where_it_should_be(self) -> None:
        line = self.model.line
        statuses, fleet, letters = self.run(self.everything_told())
        for status, (name, known) in zip(statuses, self.model.jobs.items(), strict=True):
            assert (status.state, status.attempt) == (known.state, known.attempt)
            assert status.position == (line.index(name) if name in line else None)
            assert (status.result == RESULT) == (known.state is JobState.SUCCEEDED)
        assert (fleet.stored_bytes, fleet.dead) == (self.model.stored, len(self.model.letters))
        assert {letter.job.id for letter in letters} == set(self.model.letters)

    async def everything_told(self) -> tuple[list[JobStatus], Fleet, list[JobStatus]]:
        self.queue.stutters, stutters = False, self.queue.stutters
        statuses = await asyncio.gather(*(self.queue.status(name) for name in self.model.jobs))
        told = statuses, await self.queue.fleet(), await self.queue.dead_letters()
        self.queue.stutters = stutters
        return told
