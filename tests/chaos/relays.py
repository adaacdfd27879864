"""Relays that refuse connections, close them at any verb, or say nothing after the dot."""

import asyncio
import time

from tests.chaos import recovery
from tests.chaos.arena import Arena, Stage
from tests.chaos.load import Producer
from tests.chaos.report import Row
from tests.chaos.sink import KEEP
from tests.chaos.waiting import until

RELAYS = ('primary', 'backup')
# The rules of one verb are in force until they are used up; those of a new connection cost a
# cool-down each.
OPENING_VERBS = ('connect', 'ehlo', 'starttls', 'auth', 'mail')
VERBS = ('rcpt', 'data', 'dot', 'dot, kept')
IDLE_TIMEOUT_S = 0.2  # so that every batch needs new connections
COOL_DOWN_S = 40.0
THROTTLED_PER_S = 14  # Amazon SES, to begin with


async def refuses(arena: Arena) -> list[Row]:
    """Both relays refuse connections for 60 s (short: 8 s) under load."""
    row = Row('relays refuse connections', faults=1)
    async with arena.stage('refuses') as stage, Producer(stage) as producer:
        await stage.fleet.start_up(2)
        enough = asyncio.Event()
        trickling = asyncio.create_task(producer.trickle(stage.pick(20, 10), enough))
        await producer.queue(stage.pick(300, 60))
        await _listen(stage, on=False)
        await asyncio.sleep(stage.pick(60, 8))
        await _listen(stage, on=True)
        ended_at = time.time()
        enough.set()
        await trickling
        await stage.finish(
            row,
            producer.ids,
            # The cool-down doubles while nobody answers: it may be as long as the outage was.
            deadline_s=stage.pick(60, 8) + COOL_DOWN_S,
            recovery=lambda evidence: recovery.after_outage(evidence, ended_at),
        )
    return [row]


async def _listen(stage: Stage, *, on: bool) -> None:
    for relay in RELAYS:
        await asyncio.to_thread(stage.control.listen, relay, on=on)


async def closes(arena: Arena) -> list[Row]:
    """The relays close the connection after each verb.

    Only after the dot may that give a duplicate.
    """
    row = Row('relays close after each verb')
    async with (
        arena.stage('closes', SMTP_IDLE_TIMEOUT_S=str(IDLE_TIMEOUT_S)) as stage,
        Producer(stage) as producer,
    ):
        # Those that a killed worker of another scenario left in the middle of a body nobody reads.
        left_open = _open_connections(stage)
        await stage.fleet.start_up(1)
        for verb in (*OPENING_VERBS, *VERBS):
            await _close_at(stage, producer, verb)
            await until(
                lambda: _open_connections(stage) <= left_open, 60, 'end of idle connections'
            )
        row.faults = len(stage.events(do='drop')) + len(stage.events(do='store-then-drop'))
        kept = len(stage.events(do='store-then-drop'))
        await stage.finish(row, producer.ids, deadline_s=COOL_DOWN_S, most_duplicates=kept)
        if row.duplicates != kept:
            row.problems.append(
                f'{kept} messages were kept without an answer, and {row.duplicates} came twice'
            )
    return [row]


async def _close_at(stage: Stage, producer: Producer, verb: str) -> None:
    times = 1 if verb in OPENING_VERBS else stage.pick(10, 3)
    where, do = ('dot', 'store-then-drop') if verb == 'dot, kept' else (verb, 'drop')
    before = len(stage.events(verb=where, do=do))
    for relay in RELAYS:  # whichever is not cooling down
        await asyncio.to_thread(stage.control.misbehave, where, do, relay=relay, times=times)
    ids = await producer.queue(stage.pick(50, 15))
    await until(
        lambda: len(stage.events(verb=where, do=do)) >= before + times,
        60,
        f'{times} x {do} at {where}',
    )
    await asyncio.to_thread(stage.control.behave)
    await stage.quiet(ids, COOL_DOWN_S)


def _open_connections(stage: Stage) -> int:
    return sum(relay['open'] for relay in stage.control.stats().values())


async def throttles(arena: Arena) -> list[Row]:
    """Both relays take no more than so many e-mails a second.

    No attempt counts, and nothing comes twice.
    """
    row = Row('relays throttle', faults=1)
    async with arena.stage('throttles') as stage, Producer(stage) as producer:
        await stage.fleet.start_up(2)
        words = {
            'code': 454,
            'text': 'Throttling failure: Maximum sending rate exceeded.',
            'beyond': THROTTLED_PER_S,
        }
        await asyncio.to_thread(stage.control.misbehave, 'mail', 'refuse', **words)
        count = stage.pick(2000, 300)
        began = time.monotonic()
        await producer.queue(count)
        alone_s = count / (len(RELAYS) * THROTTLED_PER_S)
        evidence = await stage.finish(
            row, producer.ids, deadline_s=4 * alone_s + 30, most_duplicates=0
        )
        row.notes.append(
            f'{len(stage.events(do="refuse")):,} refused beyond {THROTTLED_PER_S} a second at '
            'each of two relays; '
            f'all sent in {time.monotonic() - began:.0f} s, {alone_s:.0f} s would be as fast as '
            'they take them'
        )
        charged = sum(email['attempts'] > 1 for email in evidence.emails)
        if charged:
            row.problems.append(f'{charged} e-mails were charged more than one attempt')
    return [row]


async def stalls(arena: Arena) -> list[Row]:
    """The primary relay says nothing after the dot.

    Uncertain after the timeout, and nothing else is held up.
    """
    row = Row('relay stalls after the dot')
    timeout_s = 10 if arena.short else 20
    async with (
        arena.stage('stalls', SMTP_REPLY_TIMEOUT_S=str(timeout_s)) as stage,
        Producer(stage) as producer,
    ):
        await stage.fleet.start_up(2)
        for details in ({}, {'text': KEEP}):
            before = len(stage.events(verb='dot', do='stall'))
            await asyncio.to_thread(
                stage.control.misbehave, 'dot', 'stall', relay='primary', times=4, **details
            )
            await producer.queue(stage.pick(300, 40))
            await until(
                lambda so_far=before: len(stage.events(verb='dot', do='stall')) == so_far + 4,
                60,
                '4 stalls after the dot',
            )
        row.faults = len(stage.events(verb='dot', do='stall'))
        evidence = await stage.finish(
            row,
            producer.ids,
            deadline_s=timeout_s + 60,
            recovery=lambda found: _beyond_timeout(found, timeout_s),
            most_duplicates=4,
        )
        others = [
            e['sent_at'] - e['created_at']
            for e in evidence.emails
            if len(evidence.of(e)) == 1 and e['sent_at']
        ]
        if max(others) > timeout_s:
            row.problems.append(f'an e-mail that did not stall took {max(others):.1f} s')
        if row.duplicates != 4:
            row.problems.append(
                f'4 messages were kept without an answer, and {row.duplicates} came twice'
            )
    return [row]


def _beyond_timeout(evidence: recovery.Evidence, timeout_s: float) -> list[float]:
    """From the end of the timeout to the delivery of what had stalled."""
    uncertain = {
        email['id']: attempt['started_at'] + timeout_s
        for email in evidence.emails
        for attempt in evidence.of(email)
        if attempt['outcome'] == 'uncertain'
    }
    return [
        e['sent_at'] - uncertain[e['id']]
        for e in evidence.emails
        if e['id'] in uncertain and e['sent_at']
    ]
