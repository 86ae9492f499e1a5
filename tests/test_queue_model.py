"""The queue's scripts against a model of them: any order of calls, retried or not, keeps the promises."""

import asyncio
from uuid import uuid4

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from service.job import JobState, Result
from service.queue.queue import Queue
from tests.jobs import PROBLEM, RESULT, job

STEPS = 40
EXAMPLES = 20


def test_any_order_of_calls_keeps_the_promises(valkey: str) -> None:
    machine = type("Machine", (QueueMachine,), {"url": valkey})
    run_state_machine_as_test(
        machine, settings=settings(max_examples=EXAMPLES, stateful_step_count=STEPS, deadline=None)
    )


class QueueMachine(RuleBasedStateMachine):
    """What the queue should say: who waits in which order, who is held by which attempt, who is done."""

    url = ""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.queue: Queue = self.run(self.connect())
        self.order: dict[str, tuple[int, int]] = {}
        self.state: dict[str, JobState] = {}
        self.attempt: dict[str, int] = {}
        self.released: dict[str, int] = {}

    async def connect(self) -> Queue:
        return Queue(self.url, namespace=uuid4().hex, lease_s=60, max_attempts=2)

    def run(self, call):
        return self.runner.run(call) if asyncio.iscoroutine(call) else call

    def teardown(self) -> None:
        self.run(self.queue.close())
        self.runner.close()

    def ids_in(self, state: JobState) -> list[str]:
        return sorted((name for name, now in self.state.items() if now is state), key=self.order.__getitem__)

    def requeue_or_fail(self, name: str) -> None:
        spent = self.attempt[name] - self.released[name] >= 2
        self.state[name] = JobState.FAILED if spent else JobState.QUEUED

    @rule(name=st.sampled_from("abcdefgh"), priority=st.integers(-10, 10))
    def submit(self, name: str, priority: int) -> None:
        self.run(self.queue.submit(job(name, priority=priority)))
        if name not in self.state:
            self.order[name] = (-priority, len(self.order))
            self.state[name], self.attempt[name], self.released[name] = JobState.QUEUED, 0, 0

    @rule(count=st.integers(1, 3))
    def lease(self, count: int) -> None:
        expected = self.ids_in(JobState.QUEUED)[:count]
        leased = self.run(self.queue.lease(["m"], "w", count))
        assert [each.job.id for each in leased] == expected
        for each in leased:
            self.attempt[each.job.id] += 1
            self.state[each.job.id] = JobState.RUNNING
            assert each.attempt == self.attempt[each.job.id]

    @precondition(lambda self: self.state)
    @rule(data=st.data(), way=st.sampled_from(["finish", "fail", "retry", "release"]), late=st.integers(0, 1))
    def settle(self, data: st.DataObject, way: str, late: int) -> None:
        name = data.draw(st.sampled_from(sorted(self.state)))
        attempt = self.attempt[name] - late
        may = self.state[name] is JobState.RUNNING and not late
        heard = self.run(self.call(way, name, attempt))
        if may:
            assert heard
            if way == "finish":
                self.state[name] = JobState.SUCCEEDED
            elif way == "fail":
                self.state[name] = JobState.FAILED
            elif way == "retry":
                self.requeue_or_fail(name)
            else:
                self.released[name] += 1
                self.state[name] = JobState.QUEUED
            assert self.run(self.call(way, name, attempt))  # the retry of a lost answer

    def call(self, way: str, name: str, attempt: int):
        if way == "finish":
            return self.queue.finish(name, attempt, RESULT)
        if way == "release":
            return self.queue.release(name, attempt)
        return self.queue.fail(name, attempt, PROBLEM, retry=way == "retry")

    @precondition(lambda self: self.state)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.state)))
        if not self.state[name].final:
            self.state[name] = JobState.CANCELLED
        assert self.run(self.queue.cancel(name)) is self.state[name]

    @invariant()
    def every_job_is_where_it_should_be(self) -> None:
        waiting = self.ids_in(JobState.QUEUED)
        for name, state in self.state.items():
            status = self.run(self.queue.status(name))
            assert (status.state, status.attempt) == (state, self.attempt[name])
            assert status.position == (waiting.index(name) if name in waiting else None)
            assert isinstance(status.result, Result) == (state is JobState.SUCCEEDED)
