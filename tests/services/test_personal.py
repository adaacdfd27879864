"""What is held on a person is read out, and erased; nobody else's mail is touched."""

import asyncio
import json
from pathlib import Path

import pytest

from actions.erase import erase_person
from actions.safety import RequestError
from db.audit import Actor
from db.personal import ERASED, person_of
from db.suppressions import add, suppressed
from jobs.send_email import send_email
from mail_outbox.envelope import Attachment
from reporting.servers import ServerAddresses, Servers
from tests.services.ops_desk import rendered, run

ACTOR = Actor('tests', 'localhost')
ANNA = 'anna@example.com'
OTHERS = ('xanna@example.com', 'anna@example.com.au', 'anna+x@example.com', "o'anna@example.com")


@pytest.fixture
async def servers(env):
    servers = Servers(ServerAddresses(env['DATABASE_URL'], env['ARQ_REDIS_URL']))
    yield servers
    await servers.close()


async def erase(servers, key=ANNA, **options):
    return await erase_person(servers, key, ACTOR, 'asked for it', **options)


async def everything(pool) -> str:
    """Return all rows of all tables as one text."""
    tables = await pool.fetch(
        "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
    )
    texts = []
    for table in tables:
        rows = await pool.fetch(f'SELECT to_jsonb(t)::text AS row FROM "{table["relname"]}" AS t')
        texts += [row['row'] for row in rows]
    return '\n'.join(texts)


async def test_everything_on_a_person_goes_and_others_mail_stays(ctx, servers, pool, queue):
    sent = await queue('Anna Smith <Anna@Example.com>', template_data=None, body_text='to Anna')
    await send_email(ctx, sent)
    waiting = await queue(ANNA, attachments=[Attachment('a.txt', None, b'hello')])
    others = [await queue(address) for address in OTHERS]
    contact = await queue(
        'shop@example.com', reply_to=ANNA, subject='From anna@example.com', body_text=f'({ANNA})',
        template_data={'who': ANNA, 'n': 1}, metadata={'from': ANNA}, tags={'a': 'b'},
        idempotency_key=f'contact:{ANNA}',
    )  # fmt: skip
    await pool.execute(
        "INSERT INTO mail_audit (actor, origin, action, details) VALUES ('a', 'b', 'x', $1)",
        {'name': ANNA, 'reason': 'x'},
    )
    await pool.execute(
        "INSERT INTO email_feedback (report_key, kind, source, recipient) VALUES ('k', 'bounce', "
        "'smtp', $1)",
        ANNA,
    )
    await pool.execute(
        'INSERT INTO mail_webhook_deliveries (webhook_id, event_type, payload) VALUES '
        "(1, 'email.sent', $1)",
        {'data': {'recipient': f'Anna Smith <{ANNA}>'}},
    )
    would = await erase(servers, dry_run=True)
    assert (would.emails, would.freed) == (2, 1)
    assert would.elsewhere.deliveries == 1
    assert 'anna smith' in (await everything(pool)).lower()
    done = await erase(servers)
    assert (done.emails, done.freed, done.under_way, done.kept) == (2, 1, 0, 0)
    assert done.elsewhere[:3] == (1, 1, 1)  # audit, reports, deliveries
    left = await everything(pool)
    for address in OTHERS:
        assert address in left
        left = left.replace(address, '')
    assert ANNA not in left.lower()
    assert 'anna smith' not in left.lower()
    rows = {row['id']: row for row in await pool.fetch('SELECT * FROM outbound_emails')}
    assert set(rows) == {*others, contact}
    assert waiting not in rows
    assert rows[contact]['template_data'] == {'who': ERASED, 'n': 1}
    assert rows[contact]['tags'] == {'a': 'b'}
    assert rows[contact]['idempotency_key'] is None
    assert await pool.fetchval('SELECT count(*) FROM email_attachments') == 0
    assert await pool.fetchval('SELECT count(*) FROM email_attempts') == 0
    assert await pool.fetchval("SELECT details ->> 'reason' FROM mail_audit WHERE action = "
                               "'personal.erase'") == 'asked for it'  # fmt: skip
    again = await erase(servers)
    assert (again.emails, again.freed) == (0, 0)


async def test_e_mail_that_waits_for_others_too_goes_to_them_alone(ctx, servers, queue, row, inbox):
    shared = await queue(
        ['Anna Smith <anna@example.com>', 'Bob <bob@example.com>'], cc=f'{ANNA}, carl@example.com'
    )
    in_copy = await queue(ANNA, cc='dora@example.com')
    done = await erase(servers)
    assert (done.emails, done.freed) == (0, 2)
    for email_id in (shared, in_copy):
        assert (await send_email(ctx, email_id))['status'] == 'sent'
    assert (await row(shared))['recipient'] == '"Bob" <bob@example.com>'
    assert (await row(shared))['cc'] == 'carl@example.com'
    assert [len(inbox.accepted(f'{who}@example.com')) for who in ('bob', 'carl', 'dora')] == [1] * 3
    assert inbox.accepted(ANNA) == []
    assert inbox.accepted(ERASED) == []


async def test_who_unsubscribed_from_a_type_stays_so_by_a_hash_and_may_take_it_back(
    env, servers, pool, tmp_path
):
    await add(pool, [ANNA], reason=f'unsubscribed {ANNA}', email_type='newsletter')
    await run(env, 'export', ANNA, '--output', str(tmp_path / 'anna.json'))
    [entry] = json.loads((tmp_path / 'anna.json').read_text())['entries']
    assert (entry['kind'], entry['email_type']) == ('type_suppression', 'newsletter')
    assert (await erase(servers)).is_suppressed
    assert ANNA not in await everything(pool)
    assert list(await suppressed(pool, ['Anna@example.com'], 'newsletter')) == ['Anna@example.com']
    assert await suppressed(pool, ['Anna@example.com'], 'invoice') == {}
    given = await run(env, 'suppress', 'rm', ANNA, '--type', 'newsletter', '--yes')
    assert given.document['removed'] == [ANNA]
    assert await suppressed(pool, [ANNA], 'newsletter') == {}


async def test_who_is_suppressed_stays_so_by_a_hash(env, ctx, servers, pool, queue, row):
    await add(pool, [ANNA], reason=f'550 no {ANNA}', source='bounce')
    assert (await erase(servers)).is_suppressed
    assert ANNA not in await everything(pool)
    assert list(await suppressed(pool, ['Anna@example.com', 'bob@example.com'])) == [
        'Anna@example.com'
    ]
    email_id = await queue(ANNA)
    assert (await send_email(ctx, email_id))['status'] == 'failed'
    assert (await row(email_id))['dead_reason'] == 'suppressed'
    given = await run(env, 'suppress', 'rm', ANNA, '--yes')
    assert '1 removed' in rendered('suppress', given)
    assert await suppressed(pool, [ANNA]) == {}


async def test_what_is_being_sent_is_left_and_told_or_waited_for(servers, pool, queue):
    email_id = await queue(ANNA)
    await pool.execute(
        "UPDATE outbound_emails SET status = 'sending', claim_token = gen_random_uuid(), "
        "claimed_by = 'w', claimed_at = now(), lease_expires_at = now() + interval '1 hour'"
    )
    done = await erase(servers, wait_s=0)
    assert (done.emails, done.under_way) == (0, 1)
    assert 'being sent now' in done.problems[0].what
    erasing = asyncio.create_task(erase(servers))
    await asyncio.sleep(0)
    await pool.execute(
        "UPDATE outbound_emails SET status = 'sent', sent_at = now(), claim_token = NULL, "
        'claimed_by = NULL, lease_expires_at = NULL WHERE id = $1',
        email_id,
    )
    assert (await erasing).emails == 1
    assert await pool.fetchval('SELECT count(*) FROM outbound_emails') == 0


async def test_row_that_another_table_refers_to_is_kept_and_told(servers, pool, queue):
    email_id = await queue(ANNA)
    await queue(ANNA)
    await pool.execute('CREATE TABLE orders (mail bigint REFERENCES outbound_emails)')
    try:
        await pool.execute('INSERT INTO orders VALUES ($1)', email_id)
        done = await erase(servers, wait_s=0)
        assert (done.emails, done.kept) == (1, 1)
        assert 'refer to them' in done.problems[0].what
    finally:
        await pool.execute('DROP TABLE orders')


async def test_domain_is_refused_and_idn_is_found_as_it_is_written(servers, pool, queue):
    with pytest.raises(RequestError, match='is a domain'):
        await erase(servers, '@example.com')
    assert person_of('a@xn--bcher-kva.example').forms == (
        'a@xn--bcher-kva.example', 'a@bücher.example',
    )  # fmt: skip
    await queue('a@bücher.example')
    assert (await erase(servers, 'a@xn--bcher-kva.example')).emails == 1


async def test_commands_export_and_erase(env, ctx, pool, queue, tmp_path: Path, capsys):
    email_id = await queue(ANNA, attachments=[Attachment('a.txt', None, b'hello')])
    await queue('bob@example.com', cc=ANNA, bcc='secret@example.com')
    await send_email(ctx, email_id)
    await add(pool, [ANNA], reason='x')
    file = tmp_path / 'anna.json'
    given = await run(env, 'export', ANNA, '--output', str(file))
    assert '3 entries written' in rendered('export', given)
    assert file.stat().st_mode & 0o777 == 0o600
    document = json.loads(file.read_text())
    mail, copy, entry = document['entries']
    assert (mail['recipient'], mail['status'], len(mail['attempts_made'])) == (ANNA, 'sent', 1)
    assert mail['attached'][0]['data'] == 'aGVsbG8='
    assert 'secret@example.com' not in json.dumps(copy)
    assert (entry['kind'], entry['address']) == ('suppression', ANNA)
    again = await run(env, 'export', ANNA, '--output', str(file))
    assert 'anna.json' in again.problems[0].what
    capsys.readouterr()
    await run(env, 'export', 'nobody@example.com')
    assert json.loads(capsys.readouterr().out) == {
        'address': 'nobody@example.com', 'entries': [], 'count': 0,
    }  # fmt: skip
    given = await run(env, 'erase', ANNA, '--reason', 'asked', '--dry-run')
    assert 'would be erased' in rendered('erase', given)
    given = await run(env, 'erase', ANNA, '--reason', 'asked', '--yes')
    assert '1 e-mail to this address alone erased' in rendered('erase', given)
    assert ANNA not in await everything(pool)
