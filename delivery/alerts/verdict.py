"""Whether a subject is down, from what it said check by check, and whether that is to be told.

A failed check weighs more than a good one, and both add up: one failure alone tells nobody, and a
subject that comes and goes is down until it has stayed up for a while. So each outage is one alert,
reminders, and one recovery.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from db.alerts import AlertState

BAD, GOOD = 2, 1
DOWN_FROM = 4  # two failures in a row; also the most: then four good checks are a recovery
LONGEST_DETAIL = 500


class NoticeKind(StrEnum):
    """What is told."""

    DOWN = 'down'
    STILL_DOWN = 'still down'
    UP = 'up'


@dataclass(frozen=True, slots=True)
class Notice:
    """Something to tell.

    Attributes:
        since: Since when it is down; of a recovery, since when it had been.
        detail: What it said last when it was down.
    """

    kind: NoticeKind
    subject: str
    since: datetime
    detail: str


def next_state(
    before: AlertState | None,
    subject: str,
    error: str | None,
    now: datetime,
    *,
    remind_after: timedelta,
    at_once: bool = False,
) -> tuple[AlertState, Notice | None]:
    """Return how a subject stands after a check, and what is to be told of it.

    The state is as if it was not told: see after_telling.

    Args:
        error: What is wrong; None: nothing is.
        at_once: One check decides.
    """
    state = before or AlertState(subject, 0, is_down=False, since=now)
    weight = DOWN_FROM if at_once or (error and state.is_down) else BAD if error else GOOD
    score = min(DOWN_FROM, state.score + weight) if error else max(0, state.score - weight)
    detail = state.detail if error is None else error[:LONGEST_DETAIL]
    state = replace(state, score=score, detail=detail)
    if not state.is_down:
        if score < DOWN_FROM:
            return state, None
        state = replace(state, is_down=True, since=now, told_at=None)
    if score == 0:
        if state.told_at is None:  # nobody knows that it was down
            return AlertState(subject, 0, is_down=False, since=now), None
        return state, Notice(NoticeKind.UP, subject, state.since, state.detail)
    if error and state.told_at is None:
        return state, Notice(NoticeKind.DOWN, subject, state.since, state.detail)
    if error and state.told_at and now - state.told_at >= remind_after:
        return state, Notice(NoticeKind.STILL_DOWN, subject, state.since, state.detail)
    return state, None


def after_telling(state: AlertState, notice: Notice, now: datetime) -> AlertState:
    """Return how a subject stands once somebody was told."""
    if notice.kind is NoticeKind.UP:
        return AlertState(state.subject, 0, is_down=False, since=now)
    return replace(state, told_at=now)
