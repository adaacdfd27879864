"""The table of duties: every row has its job, and everybody who names duties derives from it."""

import inspect

import pytest

from actions.call import JOBS
from cron import SCHEDULES, mail_schedules, maintenance_schedules
from fleet.duties import DAY_S, DUTIES, Duty
from reporting.judge import EVERY_S


@pytest.mark.parametrize('duty', DUTIES, ids=lambda duty: duty.name)
def test_duty_runs_the_job_of_its_name(duty: Duty) -> None:
    (schedule,) = [schedule for schedule in SCHEDULES if schedule.duty is duty]
    assert schedule.job.__module__ == f'jobs.{duty.name}'
    assert list(inspect.signature(schedule.job).parameters) == ['ctx']
    assert inspect.iscoroutinefunction(schedule.job)


@pytest.mark.parametrize('duty', DUTIES, ids=lambda duty: duty.name)
def test_slots_of_a_duty_begin_at_midnight(duty: Duty) -> None:
    assert DAY_S % duty.every_s == 0


def test_every_duty_is_routed_to_one_queue() -> None:
    assert sorted(s.duty.name for s in (*mail_schedules(), *maintenance_schedules())) == sorted(
        duty.name for duty in DUTIES
    )


def test_call_and_the_judge_know_every_duty() -> None:
    names = {duty.name for duty in DUTIES}
    assert names <= JOBS.keys()
    assert EVERY_S.keys() == names
