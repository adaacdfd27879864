"""The ways that installations go, each as docs/migration.md has it.

A section is named by how its heading begins.
"""

from collections.abc import Awaitable, Callable

from tests.chaos.waiting import until
from tests.rehearsal.ledger import HELD, ONCE
from tests.rehearsal.stage import Stage

LOAD_PER_S = 6.0
SOON_S, LATER_S = 20.0, 45.0
# From before anything is changed to about the end; a busy machine needs longer.
KILLED_AFTER_S = (0.8, 1.2, 1.6, 2.0, 2.5, 3.0)


async def seed_backlog(stage: Stage) -> None:
    """Make what an installation has in its table and its broker, before anybody works on it."""
    await stage.seed('old pending', 10)
    await stage.seed('old failed', 10)
    await stage.seed('given up', 5)
    await stage.seed('sent before', 20)
    await stage.seed('tomorrow', 5)
    await stage.seed('asked again', 5)
    await stage.seed('crashed', 10)
    await stage.seed('refused', 5)
    await stage.seed('scheduled', 6, in_s=LATER_S)
    await stage.seed('eta', 6, in_s=LATER_S)
    await stage.seed('waiting', 60)


async def burst(stage: Stage) -> None:
    """Leave more in the broker than the workers can send before they are stopped."""
    await stage.seed('asked again', 5)
    await stage.seed('eta', 9, in_s=SOON_S)
    await stage.seed('refused', 5)
    await stage.seed('waiting', 60)
    await stage.seed('eta', 9, in_s=SOON_S)


async def begin(stage: Stage) -> None:
    """Start the installation under load."""
    await stage.open()
    await seed_backlog(stage)
    await stage.old.start()
    await stage.load(LOAD_PER_S)
    await stage.more_arrive(5)
    await stage.orm_goes_round()


async def expand(stage: Stage) -> None:
    """Look, and add what is needed, while Celery goes on."""
    await stage.follow('1.')
    await stage.orm_goes_round()
    await stage.follow('2.')
    await stage.form_is_untouched('after db.migrate')
    await stage.orm_goes_round()
    await stage.more_arrive(5)


async def take_over(
    stage: Stage, before_import: Callable[[Stage], Awaitable[None]] | None = None
) -> None:
    """Stop Celery with messages left, take them, and start the worker."""
    await stage.seed('eta', 6, in_s=LATER_S)
    await burst(stage)
    await stage.follow('4.')
    await stage.seed('old waiting', 6)  # a Celery that runs would have sent them
    await stage.orm_goes_round()
    if before_import:
        await before_import(stage)
    await stage.follow('5.')
    await stage.orm_goes_round()
    await stage.follow('6.')
    await stage.more_arrive(10)


async def decide_on_held(stage: Stage) -> None:
    """Release one of what is held, cancel the rest.

    The old producers end, and what they left is taken.
    """
    held = await stage.conn.fetch("SELECT id FROM mail_outbox WHERE status = 'held' ORDER BY id")
    stage.row.held = len(held)
    ledger = stage.ledger()
    if unexpected := [h['id'] for h in held if ledger.entries[h['id']].kind not in HELD]:
        kinds = {ledger.entries[number].kind for number in unexpected}
        stage.row.problems.append(f'held although they are not old: {len(unexpected)} of {kinds}')
    if not held:
        stage.row.problems.append('nothing is held')
        return
    first = held[0]['id']
    stage.examples['101'] = str(first)
    stage.released.add(first)
    await stage.load(0)
    await decide_on_uncertain(stage)
    await stage.follow('7.')
    await stage.nothing_of_celery_is_in_the_way()
    left = await stage.conn.fetchval("SELECT count(*) FROM mail_outbox WHERE status = 'held'")
    if left:
        stage.row.problems.append(f'{left} still held after all were cancelled')


async def decide_on_uncertain(stage: Stage) -> None:
    """Say of what was being sent at a KILL what the relay knows.

    It has the e-mail, or it is sent again.
    """
    arrivals = {entry.id: len(entry.arrivals) for entry in stage.ledger().entries.values()}
    for row in await stage.conn.fetch(
        "SELECT id FROM mail_outbox WHERE status = 'uncertain' ORDER BY id"
    ):
        words = (
            ['resolve', str(row['id']), '--as', 'sent']
            if arrivals[row['id']]
            else ['retry', str(row['id'])]
        )
        answered = await stage.run('-m', 'ops', *words, '--yes')
        if answered.status:
            stage.row.problems.append(
                f'{answered.command}: status {answered.status}: {answered.said[-300:]}'
            )


async def celery_alone(stage: Stage) -> None:
    """Nothing moves: the old installation sends everything once, so the harness counts rightly."""
    await stage.open()
    await seed_backlog(stage)
    await stage.old.start()
    await stage.load(LOAD_PER_S, forgets=False)
    await stage.orm_goes_round(8)
    await burst(stage)
    await stage.close()


async def move_over(stage: Stage) -> None:
    """Steps 1 to 7 with Celery stopped in step 4; the application goes on to queue the old way."""
    await begin(stage)
    await expand(stage)
    await take_over(stage)
    await decide_on_held(stage)
    await stage.close()


async def celery_not_stopped(stage: Stage) -> None:
    """The operator forgets step 4: the import says so and changes nothing; then he stops Celery."""
    await begin(stage)
    await expand(stage)
    answered = await stage.run('-m', 'ops', 'import-celery', '--yes')
    if answered.status == 0:
        stage.row.problems.append('import-celery goes ahead although Celery runs')
    if 'Celery' not in answered.said:
        stage.row.problems.append(f'import-celery does not name Celery: {answered.said[-300:]}')
    await stage.follow('6.')  # and even starts the worker
    await stage.more_arrive(20)
    await stage.orm_goes_round()
    await take_over(stage)
    await decide_on_held(stage)
    await stage.close()


async def both_for_a_while(stage: Stage) -> None:
    """Step 3: the worker beside Celery with beat, and both kinds of producers.

    Later everything moves.
    """
    await begin(stage)
    await expand(stage)
    await stage.follow('3.')
    await stage.start_new_producer()
    await stage.more_arrive(20, {'new'})
    await stage.more_arrive(20, {'live'})
    await stage.seed('refused', 5)
    await stage.seed('scheduled', 6, in_s=5.0)
    await stage.orm_goes_round(4)
    await stage.more_arrive(10, {'new'})
    await take_over(stage)
    await decide_on_held(stage)
    await stage.more_arrive(10, {'new'})
    await stage.close()


async def end_new_producer(stage: Stage) -> None:
    """Have no more queued the new way."""
    if stage.new:
        await stage.new.end()
        stage.new = None


async def back_to_celery(stage: Stage) -> None:
    """Everything moves, then the operator changes his mind: Celery sends what is left."""
    await begin(stage)
    await expand(stage)
    await stage.follow('3.')
    await stage.start_new_producer()
    await stage.seed('eta', 6, in_s=LATER_S)
    await burst(stage)
    await stage.follow('4.')
    await stage.follow('5.')
    await stage.more_arrive(10)
    await stage.orm_goes_round()
    await end_new_producer(stage)
    await stage.follow('The way back')
    await stage.orm_goes_round()
    await stage.form_is_untouched('after the way back', exactly=True)
    await stage.seed('waiting', 20)
    await stage.close()


async def interrupted(stage: Stage) -> None:
    """`python -m db.migrate` is killed again and again, a little later each time, and then run to
    its end.
    """
    await begin(stage)
    for delay_s in KILLED_AFTER_S:
        await stage.run_and_kill('-m', 'db.migrate', after_s=delay_s)
        await stage.orm_goes_round(1)
        await stage.form_is_untouched('after an interrupted db.migrate')
    await expand(stage)
    await take_over(stage)
    await decide_on_held(stage)
    await stage.close()


async def import_interrupted(stage: Stage) -> None:
    """`ops import-celery --yes` is killed again and again, a little later each time, and then run
    to its end.
    """
    await begin(stage)
    await expand(stage)
    await take_over(stage, kill_imports)
    await decide_on_held(stage)
    await stage.close()


async def kill_imports(stage: Stage) -> None:
    """See import_interrupted."""
    for delay_s in KILLED_AFTER_S:
        await stage.run_and_kill('-m', 'ops', 'import-celery', '--yes', after_s=delay_s)
        await stage.orm_goes_round(1)


async def finish(stage: Stage) -> None:
    """All steps and the last.

    No old program writes any more, and the table has the form of a new installation.
    """
    await begin(stage)
    await expand(stage)
    await stage.follow('3.')
    await stage.start_new_producer()
    await take_over(stage)
    await decide_on_held(stage)
    await stage.orm.end()
    dry = await stage.run('-m', 'db.migrate', '--finish', '--dry-run')
    if 'trigger note_status' not in dry.said or not dry.status:
        stage.row.problems.append(
            f'--finish --dry-run does not name what stands on status: {dry.said[-300:]}'
        )
    trigger = await stage.conn.fetchval(
        "SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE tgname = 'note_status'"
    )
    await stage.conn.execute('DROP TRIGGER note_status ON outbound_emails')
    await stage.follow('8.')
    await stage.conn.execute(trigger)
    before = len(stage.ledger().of(ONCE))
    await until(
        lambda: len(stage.ledger().of(ONCE)) >= before + 10, 60, 'more queued after --finish'
    )
    await stage.more_arrive(10, {'new'})
    await stage.close()
