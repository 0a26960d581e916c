"""Threads: how many cores are free, and which number of threads goes fastest. The clock is the test's."""

from __future__ import annotations

import pytest

from trafficllm.core import machine
from trafficllm.core.machine import Pace, free_cores, stated_threads, thread_counts, work_threads


class Work:
    """Steps of 100 units, whose seconds depend on the threads in force."""

    def __init__(self, seconds: dict[int, float]) -> None:
        self.seconds, self.now, self.in_force = seconds, 0.0, 0
        self.used: list[int] = []
        self.pace = Pace(tuple(seconds), use=self.use, clock=lambda: self.now)

    def use(self, threads: int) -> None:
        self.in_force = threads

    def steps(self, count: int) -> list[int]:
        """The threads of so many steps."""
        begun = len(self.used)
        for _ in range(count):
            with self.pace.step(100):
                self.used.append(self.in_force)
                self.now += self.seconds[self.in_force]
        return self.used[begun:]


def test_the_counts_take_turns_and_the_fastest_stays() -> None:
    work = Work({1: 1.0, 2: 0.6})
    assert work.steps(9) == [1, 1, 2, 1, 2, 1, 2, 1, 2]
    assert set(work.steps(50)) == {2}
    assert work.pace.trials == 1


def test_more_threads_must_be_worth_it() -> None:
    work = Work({1: 1.0, 2: 0.95, 4: 0.93})
    work.steps(13)
    assert set(work.steps(50)) == {1}


def test_a_count_that_is_hopeless_is_tried_once() -> None:
    work = Work({1: 1.0, 2: 50.0})
    assert work.steps(9) == [1, 1, 2, 1, 1, 1, 1, 1, 1]


@pytest.mark.parametrize(("busy", "end"), [({1: 1.1, 2: 8.0}, 1), ({1: 3.0, 2: 2.0}, 2)])
def test_it_is_looked_at_again_when_progress_falls(busy: dict[int, float], end: int) -> None:
    """Another program takes a core: two threads then wait for each other."""
    work = Work({1: 1.0, 2: 0.6})
    work.steps(100)
    work.seconds = busy
    work.steps(40)
    assert (work.pace.trials, work.pace.threads) == (2, end)
    assert set(work.steps(50)) == {end}


def test_it_is_looked_at_again_when_the_other_program_has_gone() -> None:
    work = Work({1: 2.0, 2: 8.0})
    work.steps(100)
    assert work.pace.threads == 1
    work.seconds = {1: 1.0, 2: 0.6}
    work.steps(40)
    assert work.pace.threads == 2


def test_one_slow_step_changes_nothing() -> None:
    work = Work({1: 1.0, 2: 0.6})
    work.steps(100)
    work.now, (seconds, work.seconds) = work.now, (work.seconds, {1: 90.0, 2: 90.0})
    work.steps(1)
    work.seconds = seconds
    assert set(work.steps(100)) == {2}
    assert work.pace.trials == 1


def test_it_is_looked_at_now_and_then_in_any_case() -> None:
    work = Work({1: 1.0, 2: 2.0})
    work.steps(Pace.AGAIN + 100)
    assert work.pace.trials == 2


def test_a_stated_number_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert (stated_threads(), thread_counts(8), work_threads(), work_threads(2)) == (3, (3,), 3, 2)
    work = Work({3: 1.0, 0: 1.0})
    work.pace = Pace((3,), use=work.use)
    assert work.steps(10) == [0] * 10  # left as the environment has it
    monkeypatch.setenv("OMP_NUM_THREADS", "2,1")
    assert stated_threads() is None


def test_counts_to_choose_among(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(machine, "cores", lambda: 6)
    assert [thread_counts(most) for most in (1, 2, 4, 16)] == [(1,), (1, 2), (1, 2, 4), (1, 2, 4, 6)]


@pytest.mark.parametrize(("share", "free"), [(1.0, 1), (1.5, 1), (1.75, 2), (1.95, 2), (0.4, 1), (2.6, 2)])
def test_half_a_core_is_none(share: float, free: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What two threads hash together, in what one does alone."""
    monkeypatch.setattr(machine, "_hashed", lambda count: 1000 if count == 1 else round(1000 * share))
    monkeypatch.setattr(machine, "cores", lambda: 2)
    monkeypatch.setattr(machine, "_probed", None)
    assert free_cores() == free
    monkeypatch.setattr(machine, "_hashed", lambda count: 1 / 0)
    assert free_cores() == free  # it stands for a while


def test_threads_hash_side_by_side() -> None:
    assert machine._hashed(2) > 0
    assert 1 <= machine._probe(2) <= 2
