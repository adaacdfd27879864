"""Workers killed at random under load, and by an e-mail that kills whoever sends it."""

import asyncio
import itertools
import signal
import time
from contextlib import suppress

from tests.chaos import recovery
from tests.chaos.arena import SMTP_CONNECTIONS, Arena, Stage
from tests.chaos.load import Producer
from tests.chaos.report import Row
from tests.chaos.waiting import until

WORKERS = 3
KILL_EVERY_S = (0.5, 2.0)
# After two lost attempts in a row; a third makes an e-mail poison.
AT_ITS_LAST_SQL = """
SELECT EXISTS (SELECT FROM outbound_emails WHERE lost_attempts = 2
               AND (status = 'sending' OR (status <> 'sent' AND next_retry_at IS NOT NULL)))
"""


async def random_kills(arena: Arena) -> list[Row]:
    """SIGKILL a random worker every 0.5 to 2 s while the load lasts; each is replaced at once."""
    row = Row('SIGKILL every 0.5-2 s')
    async with arena.stage('kills') as stage, Producer(stage) as producer:
        total = stage.pick(10_000, 600)
        await stage.fleet.start_up(WORKERS)
        killing = asyncio.create_task(_keep_killing(stage))
        try:
            await producer.keep_busy(total, waiting=300)
        finally:
            killing.cancel()
            await asyncio.gather(killing, return_exceptions=True)
        row.notes.append(
            f'{total:,} e-mails were queued within {time.time() - stage.started_at:.0f} s'
        )
        row.faults = len(stage.fleet.kills)
        stage.killed_at_random = stage.fleet.kills
        evidence = await stage.finish(
            row,
            producer.ids,
            deadline_s=stage.pick(200, 90),
            recovery=lambda evidence: recovery.after_kills(evidence, stage.fleet.kills),
            most_duplicates=row.faults * SMTP_CONNECTIONS,
        )
        row.problems += recovery.beyond_promise(evidence, stage.fleet.kills)
    return [row]


async def _keep_killing(stage: Stage) -> None:
    while True:
        await asyncio.sleep(stage.rng.uniform(*KILL_EVERY_S))
        if stage.arena.short:
            # A fraction of the lease, as many kills: chance would hit one e-mail three times in a
            # row far more often.
            await until(
                lambda: _nobody_at_its_last(stage),
                60,
                'a decision about e-mails that were lost twice',
            )
        if (
            len(stage.fleet.up) > 1
        ):  # what is promised needs somebody alive; a busy machine starts workers slowly
            stage.fleet.kill(stage.rng.choice(stage.fleet.up))
            stage.fleet.start()


async def _nobody_at_its_last(stage: Stage) -> bool:
    return not await stage.pool.fetchval(AT_ITS_LAST_SQL)


async def poison(arena: Arena) -> list[Row]:
    """One e-mail's worker gets SIGSEGV whenever its recipient reaches RCPT.

    Everything else must be sent.
    """
    row = Row('poison e-mail (SIGSEGV)')
    async with arena.stage('poison') as stage, Producer(stage) as producer:
        await stage.fleet.start_up(2)
        await producer.queue(stage.pick(100, 60))
        (poisoned,) = await producer.queue(1, tag='+poison')
        await producer.queue(stage.pick(100, 60))
        stage.expected[poisoned] = ('failed:poison',)
        shooting = asyncio.create_task(_shoot_holders(stage, poisoned))
        try:
            with suppress(Exception):
                await stage.quiet(producer.ids, 3 * (stage.lease_s + 20) + 30)
        finally:
            shooting.cancel()
            await asyncio.gather(shooting, return_exceptions=True)
        row.faults = len(stage.fleet.kills)
        evidence = await stage.finish(
            row,
            producer.ids,
            deadline_s=5,
            recovery=lambda evidence: recovery.after_kills(evidence, stage.fleet.kills),
            most_duplicates=row.faults * SMTP_CONNECTIONS,
        )
        row.problems += recovery.beyond_promise(evidence, stage.fleet.kills)
        outcomes = [attempt['outcome'] for attempt in evidence.attempts.get(poisoned, [])]
        if outcomes != ['lost', 'lost', 'lost']:
            row.problems.append(
                f'the poisoned e-mail {poisoned} has the attempts {outcomes}, not three lost ones'
            )
    return [row]


async def _shoot_holders(stage: Stage, poisoned: int) -> None:
    for occasion in itertools.count(1):
        await until(
            lambda n=occasion: len(stage.events(do='poison')) >= n,
            3600,
            'poison at RCPT',
            poll_s=0.002,
        )
        holder = await stage.pool.fetchval(
            'SELECT claimed_by FROM outbound_emails WHERE id = $1', poisoned
        )
        for worker in stage.fleet.up:
            if worker.identity == holder:
                stage.fleet.kill(worker, signal.SIGSEGV)
                stage.fleet.start()
