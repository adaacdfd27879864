"""Every set of states, once, and the SQL conditions that are made of them.

A state and what is true of it stand in `mail_outbox/states.py`, which applications and `mail` may
import. A set here takes its members from there, so a new state joins the sets by its traits and no
statement is edited. `tests/unit/test_states.py` asks every place that answers for each state.

Conditions are text for f-strings, so they do not end in `_SQL`: that is what statements end in.
"""

from collections.abc import Iterable

from mail_outbox.states import DeadReason, Status, Trait


def having(trait: Trait) -> tuple[Status, ...]:
    """Return the states with a trait, in the order of their declaration."""
    return tuple(status for status in Status if trait in status.traits)


def sql_list(words: Iterable[str]) -> str:
    """Return words as SQL lists them between parentheses: 'pending', 'failed'."""
    return ', '.join(f"'{word}'" for word in words)


# A worker claims these when their next_retry_at comes. The partial indexes on due rows name the
# same ones in the same order, and a condition that differs from an index's goes without it.
CLAIMED = having(Trait.CLAIMED)
# What has had an attempt, and gets no other one by itself once it has no time.
TRIED = tuple(status for status in CLAIMED if status is not Status.PENDING)
# Work that is not done: what `qshape` shows.
OPEN = (*CLAIMED, Status.SENDING)
# It has ended, whatever stands in its other columns, and the retention deletes it.
OVER = having(Trait.OVER)
RETRYABLE = having(Trait.RETRYABLE)
CANCELLABLE = having(Trait.CANCELLABLE)
# A relay accepted them; of those that came back, a report says so.
ACCEPTED = having(Trait.ACCEPTED)
CAME_BACK = tuple(status for status in ACCEPTED if status is not Status.SENT)
# EMAIL_DROP_CONTENT deleted what it said when it was sent, see db/results.py.
IS_EMPTIED = "COALESCE(raw_message = '', false)"
# Over without having been sent.
OVER_UNSENT = tuple(status for status in OVER if status not in ACCEPTED)
# Nobody sends these by themselves, or nobody here.
NOT_SENT_BY_ITSELF = tuple(
    status for status in Status if status not in (Status.PENDING, Status.SENDING, *ACCEPTED)
)
# Those of e-mails that are ours. `external` is the mark of those that are not.
OURS = tuple(status for status in Status if status is not Status.EXTERNAL)

# Ours that are neither sent nor being sent.
UNSENT = tuple(status for status in OURS if status not in (Status.SENDING, *ACCEPTED))

# What is neither on its way nor sent: few of all. Lists of one of these states go by the index
# outbound_emails_other, which begins with the state and whether no attempt follows.
OTHERS = tuple(s for s in OURS if s not in {Status.PENDING, Status.SENDING, Status.SENT})

FOLLOWED_BY_NONE = 'COALESCE(next_retry_at IS NULL OR attempts >= max_attempts, false)'

ALL_WORDS = sql_list(Status)
ALL_DEAD_REASONS = sql_list(DeadReason)

IS_CLAIMED = f'status IN ({sql_list(CLAIMED)})'
IS_TRIED = f'status IN ({sql_list(TRIED)})'
IS_HELD = f"status = '{Status.HELD}'"
IS_SENDING = f"status = '{Status.SENDING}'"
# Only attempts that are left count. An operator's `SET status = 'pending'` allows one more.
HAS_ATTEMPTS = f"(status = '{Status.PENDING}' OR attempts < max_attempts)"
# In the due index; what has no time yet is IS_UNSCHEDULED, in an index of its own.
IS_SCHEDULED = f'{IS_CLAIMED} AND next_retry_at IS NOT NULL'
IS_UNSCHEDULED = f"status = '{Status.PENDING}' AND next_retry_at IS NULL"
# An attempt follows by itself, now or later.
HAS_NEXT_ATTEMPT = f"""({IS_CLAIMED} AND (status = '{Status.PENDING}'
    OR (next_retry_at IS NOT NULL AND attempts < max_attempts)))"""
# No attempt follows by itself: dead if it failed, waiting for an operator if it is uncertain.
IS_FINAL = f'({IS_TRIED} AND (next_retry_at IS NULL OR attempts >= max_attempts))'
# A part of the index: a state, and FOLLOWED_BY_NONE.
IS_PART = (
    f'status IN ({sql_list(OTHERS)}) AND status = {{}}::text AND {FOLLOWED_BY_NONE} = {{}}::boolean'
)
