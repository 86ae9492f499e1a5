"""What the queue should do, in plain Python: the model that its scripts are held against."""

import math
from dataclasses import dataclass, field

from service.job import Job, JobState

ALLOWED = 2
"""Deliveries of a job."""


@dataclass
class Known:
    """A job that was accepted."""

    job: Job
    place: tuple[int, int, int]
    """(- priority, start tag, arrival): the smallest is next."""
    span: int
    files: int
    state: JobState = JobState.QUEUED
    attempt: int = 0
    released: int = 0
    lease_over: bool = False
    asked_for: bool = True

    @property
    def late(self) -> bool:
        return self.job.options.deadline_s is not None


@dataclass
class Model:
    """All jobs, the line, and what every call should come to."""

    jobs: dict[str, Known] = field(default_factory=dict)
    keys: dict[tuple[str, str], str] = field(default_factory=dict)
    letters: list[str] = field(default_factory=list)
    expired: dict[str, int] = field(default_factory=dict)
    """Bytes of what was removed and not swept yet."""
    arrivals: int = 0
    times: dict[int, int] = field(default_factory=dict)
    """Virtual time by priority."""
    tags: dict[tuple[int, str], int] = field(default_factory=dict)
    """Finish tags by priority and client."""

    @property
    def line(self) -> list[str]:
        waiting = [name for name, known in self.jobs.items() if known.state is JobState.QUEUED]
        return sorted(waiting, key=lambda name: self.jobs[name].place)

    @property
    def stored(self) -> int:
        return sum(known.files for known in self.jobs.values()) + sum(self.expired.values())

    def waiting_of(self, client: str) -> int:
        return sum(self.jobs[name].job.client == client for name in self.line)

    def active_of(self, client: str) -> int:
        return sum(known.job.client == client and not known.state.final for known in self.jobs.values())

    def accept(self, job: Job) -> None:
        priority = job.options.priority
        flow = priority, job.client
        span = math.ceil(math.ceil(job.cost * 1e6) / job.weight)
        start = max(self.times.get(priority, 0), self.tags.get(flow, 0))
        self.arrivals += 1
        self.tags[flow] = start + span
        self.jobs[job.id] = Known(job, (-priority, start, self.arrivals), span, job.bytes)
        if job.idempotency_key:
            self.keys[job.client, job.idempotency_key] = job.id

    def lease(self, count: int) -> list[str]:
        taken: list[str] = []
        for name in self.line:
            if len(taken) == count:
                break
            known = self.jobs[name]
            if known.late:
                self.end(name, JobState.FAILED)
                continue
            priority, start = -known.place[0], known.place[1]
            self.times[priority] = max(self.times.get(priority, 0), start)
            known.state, known.span, known.lease_over = JobState.RUNNING, 0, False
            known.attempt += 1
            self._forget_tags(priority)
            taken.append(name)
        return taken

    def end(self, name: str, state: JobState, *, dead: bool = False) -> None:
        known = self.jobs[name]
        waited, known.state = known.state is JobState.QUEUED, state
        if waited:
            flow = -known.place[0], known.job.client
            if flow in self.tags:
                self.tags[flow] -= known.span
            self._forget_tags(flow[0])
        if dead:
            self.letters.append(name)
        if state is not JobState.SUCCEEDED:
            self.keys = {key: of for key, of in self.keys.items() if of != name}

    def deliver_again(self, name: str) -> None:
        known = self.jobs[name]
        if known.attempt - known.released < ALLOWED:
            known.state = JobState.QUEUED
        else:
            self.end(name, JobState.FAILED, dead=True)

    def reclaim(self) -> None:
        under_way = [name for name, known in self.jobs.items() if not known.state.final]
        for name in (name for name in under_way if self.jobs[name].late):
            self.end(name, JobState.FAILED)
        for name, known in self.jobs.items():
            if known.state is JobState.RUNNING and known.lease_over:
                self.deliver_again(name)
        for name in under_way:
            if not self.jobs[name].state.final and not self.jobs[name].asked_for:
                self.end(name, JobState.CANCELLED)

    def remove_letter(self, name: str) -> None:
        self.letters.remove(name)
        self.expired[name] = self.jobs.pop(name).files

    def _forget_tags(self, priority: int) -> None:
        if any(-self.jobs[name].place[0] == priority for name in self.line):
            past: float = self.times.get(priority, 0)
        else:
            past = math.inf
        self.tags = {flow: tag for flow, tag in self.tags.items() if flow[0] != priority or tag > past}
