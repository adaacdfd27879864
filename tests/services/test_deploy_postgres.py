"""deploy/postgresql-roles.sql on a real server.

Every role can do its work, and is refused what is not.
"""

import re
import signal
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from actions.erase import erase_person
from actions.export import export_person
from actions.template_preview import send_test
from actions.templates import push_templates, remove_pushed
from actions.tokens import new_token
from db.audit import Actor
from db.feedback import count_feedback, store_reports
from db.feedback_effects import apply_reports
from db.feedback_suppression import FeedbackRules
from db.suppressions import add
from mail.bounce.reading import read_returned_message
from mail_outbox.envelope import Attachment
from mail_outbox.outbox import queue_email
from mail_outbox.reading import attempts, status
from reporting.servers import ServerAddresses, Servers
from tests.conftest import DEADLINE_S, ROOT, wait_until
from tests.services.api_desk import open_desk
from tests.services.ingress_desk import MESSAGE, open_ingress
from tests.services.ops_desk import insert, run
from tests.services.test_api_fleet import WORDS
from tests.services.test_sql import statements
from tests.services.test_templates import DATA, WELCOME
from tests.unit.bounce_messages import PATHS, dsn
from web.questions import OVERVIEW
from web.watch import Source, Watch

PASSWORD = 'loopback'
ROLES = (
    'email_worker', 'email_web', 'email_api', 'email_readonly', 'email_producer', 'email_ingress',
)  # fmt: skip
NOT_MAIL = {'sessions', 'refresh_tokens'}

# Modules whose statements are those of the worker, and what in them is not.
WORKERS_MODULES = {
    'attachments',
    'claims',
    'leases',
    'narrowing',
    'results',
    'content',
    'cron_runs',
    'health',
    'due',
    'history',
    'late',
    'schema',
    'sessions',
    'transitions',
    'waiting',
    'wakeups',
}
DESKS_MODULES = {
    'reports',
    'ages',
    'attempts',
    'selection',
    'switches',
    'suppressions',
    'senders',
    'cancellation',
    'schema',
}
CHANGES = {'RETRY_SQL', 'MARK_SENT_SQL', 'GIVE_UP_SQL', 'CANCEL_SQL', 'CANCEL_IDS_SQL'}
WRITES = {
    'ADD_SQL', 'REMOVE_SQL', 'ADD_OF_TYPE_SQL', 'REMOVE_OF_TYPE_SQL', 'ADD_SENDERS_SQL',
    'REMOVE_SENDERS_SQL', 'PAUSE_SQL', 'RESUME_SQL', *CHANGES,
}  # fmt: skip


@pytest.fixture
async def granted(database):
    """A database with the roles; a function that gives a role's address."""
    conn = await asyncpg.connect(database.dsn)
    sql = (ROOT / 'deploy/postgresql-roles.sql').read_text()
    await conn.execute(sql)
    await conn.execute('GRANT SELECT, DELETE ON outbound_emails TO email_producer')
    async with conn.transaction():
        await conn.execute(sql)  # may be run again, and then takes back what somebody gave
    for role in ROLES:
        await conn.execute(f"ALTER ROLE {role} PASSWORD '{PASSWORD}'")
    await conn.close()

    def address(role):
        place = urlsplit(database.dsn)
        return urlunsplit(place._replace(netloc=f'{role}:{PASSWORD}@{place.hostname}:{place.port}'))

    return address


@pytest.fixture
async def as_role(granted):
    opened = []

    async def connect(role):
        opened.append(await asyncpg.connect(granted(role)))
        return opened[-1]

    yield connect
    for conn in opened:
        await conn.close()


async def refused(conn, found):
    """The statements this connection may not run.

    Permissions are checked when a plan is explained.
    """
    names = []
    for name, sql in found.items():
        count = len((await conn.prepare(sql)).get_parameters())
        nulls = f'({", ".join(["NULL"] * count)})' if count else ''
        await conn.execute(f'PREPARE checked AS {sql}')
        try:
            await conn.execute(f'EXPLAIN EXECUTE checked{nulls}')
        except asyncpg.InsufficientPrivilegeError:
            names.append(name)
        finally:
            await conn.execute('DEALLOCATE checked')
    return names


def select(wanted):
    return {name: sql for name, sql in statements().items() if wanted(*name.split('.')[-2:])}


async def test_worker_forgets_keys_of_the_api_and_reads_no_answer(as_role):
    conn = await as_role('email_worker')
    assert await refused(conn, select(lambda _, name: name == 'REMOVE_REQUESTS_SQL')) == []
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await conn.fetch('SELECT answer FROM mail_api_requests')


async def test_worker_may_run_every_statement_of_its_jobs(as_role):
    found = select(lambda module, _: module in WORKERS_MODULES) | select(
        lambda _, name: name == 'READ_SWITCHES_SQL'
    )
    assert len(found) > 20
    conn = await as_role('email_worker')
    assert sorted(await refused(conn, found)) == [  # not without their grant
        'db.results.DROP_CONTENT_SQL', 'db.results.RECORD_AND_DROP_SQL',
    ]  # fmt: skip


async def test_worker_with_the_grant_for_it_may_delete_what_was_sent(as_role, pool):
    roles = (ROOT / 'deploy' / 'postgresql-roles.sql').read_text()
    (grant,) = re.findall(r'^--     (GRANT .*);$', roles, re.MULTILINE)
    assert 'body_text' in grant
    await pool.execute(grant)
    found = select(lambda _, name: name in {'RECORD_AND_DROP_SQL', 'DROP_CONTENT_SQL'})
    assert await refused(await as_role('email_worker'), found) == []


async def test_desk_may_run_every_statement_of_the_operators_commands(as_role):
    found = select(
        lambda module, name: (
            module in DESKS_MODULES
            or (
                module == 'api_tokens'
                and name in {'ADD_TOKEN_SQL', 'REVOKE_SQL', 'READ_TOKENS_SQL'}
            )
            or (module == 'audit' and name != 'REMOVE_AUDIT_SQL')
            or name in CHANGES
            or name == 'QUEUE_SQL'
        )
    )
    assert {
        'db.transitions.RETRY_SQL',
        'db.suppressions.ADD_SQL',
        'mail_outbox.queueing.QUEUE_SQL',
    } <= set(found)
    assert await refused(await as_role('email_web'), found) == []


async def test_api_may_run_every_statement_of_its_handlers(as_role):
    found = select(
        lambda module, name: (
            module in {'attempts', 'one_email', 'selection', 'schema', 'email_list', 'held'}
            or module in {'recipients', 'desk_sessions', 'switches', 'suppressions', 'senders'}
            or module == 'unsubscriptions'
            or (module == 'api_tokens' and name != 'ADD_TOKEN_SQL')
            or (module == 'audit' and name != 'REMOVE_AUDIT_SQL')
            or (module == 'api_requests' and name != 'REMOVE_REQUESTS_SQL')
            or module == 'queued_emails'
            or name in CHANGES
            or name in {'QUEUE_SQL', 'QUEUE_MANY_SQL', 'ATTACH_SQL', 'UNLISTED_SQL'}
            or name in {'FIND_TEMPLATES_SQL', 'NOTIFY_SQL'}
        )
    )
    assert {
        'db.audit.BEGIN_AUDIT_SQL',
        'db.api_tokens.NOTE_USE_SQL',
        'db.api_requests.CLAIM_KEYS_SQL',
        'db.queued_emails.RESCHEDULE_SQL',
        'db.content.FIND_TEMPLATES_SQL',
        'mail_outbox.queueing.QUEUE_MANY_SQL',
        'mail_outbox.queueing.ATTACH_SQL',
    } <= set(found)
    assert await refused(await as_role('email_api'), found) == []


async def test_reader_may_run_every_statement_that_reads_and_none_that_writes(as_role):
    conn = await as_role('email_readonly')
    found = select(lambda module, _: module in DESKS_MODULES)
    writing = {name for name in found if name.rpartition('.')[2] in WRITES}
    assert set(await refused(conn, found)) == writing
    with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
        await conn.execute('CREATE TEMP TABLE t ()')


async def test_producer_may_run_every_statement_of_mail_outbox(as_role):
    found = {name: sql for name, sql in statements().items() if name.startswith('mail_outbox.')}
    assert {'mail_outbox.queueing.QUEUE_MANY_SQL', 'mail_outbox.reading.STATUS_SQL'} <= set(found)
    assert await refused(await as_role('email_producer'), found) == []


async def test_producer_queues_mail_repeats_a_key_and_reads_what_became_of_it_but_no_mail(
    as_role, pool
):
    conn = await as_role('email_producer')
    ids = []
    for _ in range(2):
        async with conn.transaction():
            ids.append(
                await queue_email(
                    conn,
                    recipient='a@example.com',
                    subject='s',
                    body_text='t',
                    idempotency_key='k',
                    notify=True,
                )
            )
    assert ids[0] == ids[1]
    found = await status(conn, ids[0])
    assert found is not None
    assert (found.status, await attempts(conn, ids[0])) == ('pending', [])
    await pool.execute("INSERT INTO allowed_senders (pattern) VALUES ('me@example.com')")
    attached = await queue_email(
        conn,
        recipient='a@example.com',
        subject='s',
        body_text='t',
        from_address='me@example.com',
        attachments=[Attachment('a.txt', None, b'x')],
    )
    await conn.execute(
        "INSERT INTO email_attachments (email_id, position, data) VALUES ($1, 1, 'x'), ($2, 0, '')",
        attached,
        ids[0],
    )
    await conn.execute(
        'INSERT INTO outbound_emails (recipient, subject, body_text, status) '
        "VALUES ('bob@example.com', 'Hello', 'Hello.', 'pending')"
    )
    assert await pool.fetchval('SELECT count(*) FROM outbound_emails') == 3
    assert await pool.fetchval(
        'SELECT count(*) FROM outbound_emails WHERE has_attachments AND EXISTS '
        '(SELECT FROM email_attachments WHERE email_id = outbound_emails.id)'
    ) == 2  # fmt: skip


async def test_the_ingress_stores_reports_and_worker_and_desk_apply_them(granted, pool):
    first, second = [
        await insert(pool, status='sent', sent_at='sql:now()', recipient='anna@example.net')
        for _ in range(2)
    ]
    async with open_ingress(granted('email_ingress'), return_paths=PATHS) as desk:
        client = await desk.connect()
        assert (await client.begins(b'', PATHS.of(first).encode())).startswith('354')
        assert (await client.says(dsn() + b'\r\n.\r\n')).startswith('250')
    for role, email_id in (('email_worker', first), ('email_api', second)):
        async with asyncpg.create_pool(granted(role), min_size=1, max_size=2) as theirs:
            if role == 'email_api':
                reports = read_returned_message(dsn(own_id='<r2@x>'), (PATHS.of(second),), PATHS)
                await store_reports(theirs, reports.reports)
            await apply_reports(theirs, FeedbackRules())
            assert await count_feedback(theirs)
        status = await pool.fetchval('SELECT status FROM outbound_emails WHERE id = $1', email_id)
        assert status == 'bounced', role


async def test_ingress_takes_mail_under_its_role_with_and_without_a_token(env, granted, pool):
    async with open_desk(env) as api:
        token = await api.token('wordpress')
    async with open_ingress(granted('email_ingress'), message_id_is_key=True) as desk:

        def talk(client):
            client.login('', token)
            client.sendmail('noreply@example.com', ['anna@example.com'], MESSAGE)

        await desk.smtplib(talk)
        await desk.smtplib(
            lambda client: client.sendmail('noreply@example.com', ['anna@example.com'], MESSAGE)
        )
    assert await pool.fetchval('SELECT count(*) FROM outbound_emails') == 1
    assert await pool.fetchval('SELECT last_used_at IS NOT NULL FROM mail_api_tokens')


FORBIDDEN = {
    'email_ingress': """
        SELECT recipient FROM outbound_emails
        SELECT raw_message FROM mail_outbox
        UPDATE mail_outbox SET status = 'sent'
        DELETE FROM mail_outbox
        INSERT INTO outbound_emails (recipient, claimed_by) VALUES ('a@example.com', 'me')
        INSERT INTO mail_api_tokens (name) VALUES ('me')
        UPDATE mail_api_tokens SET scopes = '{send,operate}'
        INSERT INTO allowed_senders (pattern) VALUES ('@example.com')
        SELECT * FROM email_attempts
    """,
    'email_producer': """
        SELECT recipient FROM outbound_emails
        SELECT status FROM outbound_emails
        UPDATE outbound_emails SET status = 'sent'
        DELETE FROM outbound_emails
        INSERT INTO outbound_emails (recipient, claimed_by) VALUES ('a@example.com', 'me')
        SELECT body_text FROM mail_outbox
        DELETE FROM email_attempts
        SELECT * FROM email_templates
        INSERT INTO mail_switches (kind, name, paused_by) VALUES ('queue', 'arq:queue', 'me')
    """,
    'email_worker': """
        INSERT INTO outbound_emails (recipient) VALUES ('a@example.com')
        UPDATE outbound_emails SET recipient = 'me@example.com'
        UPDATE outbound_emails SET body_text = 'other'
        UPDATE email_attempts SET worker = 'another'
        UPDATE email_templates SET subject = 'other'
        SELECT user_id FROM sessions
        INSERT INTO sessions (user_id) VALUES (1)
        INSERT INTO mail_switches (kind, name, paused_by) VALUES ('queue', 'arq:queue', 'me')
        DELETE FROM email_suppressions
        TRUNCATE outbound_emails
        ALTER TABLE outbound_emails ADD COLUMN mine text
        DELETE FROM _pogo_migration
    """,
    'email_web': """
        UPDATE mail_api_tokens SET scopes = '{send,operate}'
        UPDATE mail_audit SET actor = 'somebody else'
        DELETE FROM mail_audit
        UPDATE outbound_emails SET recipient = 'me@example.com'
        UPDATE outbound_emails SET claim_token = NULL
        DELETE FROM outbound_emails
        SELECT * FROM sessions
        UPDATE cron_runs SET outcome = 'done'
        DROP TABLE outbound_emails
    """,
    'email_api': """
        UPDATE outbound_emails SET recipient = 'me@example.com'
        UPDATE outbound_emails SET claim_token = NULL
        DELETE FROM outbound_emails
        INSERT INTO mail_api_tokens (name) VALUES ('me')
        UPDATE mail_api_tokens SET scopes = '{send,operate}'
        UPDATE mail_audit SET actor = 'somebody else'
        DELETE FROM mail_audit
        SELECT * FROM sessions
    """,
    'email_readonly': """
        SELECT * FROM mail_api_tokens
        UPDATE outbound_emails SET status = 'sent'
        INSERT INTO outbound_emails (recipient) VALUES ('a@example.com')
        SELECT * FROM sessions
        DELETE FROM mail_switches
    """,
}


@pytest.mark.parametrize('role', ROLES)
async def test_role_is_refused_what_is_not_its_work(as_role, role):
    conn = await as_role(role)
    await conn.execute('SET default_transaction_read_only = off')  # no protection against anybody
    allowed = []
    for line in [
        *FORBIDDEN[role].strip().splitlines(),
        'CREATE TABLE public.mine ()',
        'CREATE ROLE mine',
    ]:
        try:
            await conn.execute(line)
        except asyncpg.InsufficientPrivilegeError:
            continue
        allowed.append(line)
    assert allowed == []


async def test_every_table_of_the_schema_is_given_to_somebody_or_left_out_on_purpose(granted, pool):
    tables = await pool.fetch(
        "SELECT relname, has_table_privilege('email_web', oid, 'SELECT') AS desk FROM pg_class "
        "WHERE relkind IN ('r', 'p') AND relnamespace = 'public'::regnamespace"
    )
    forgotten = {t['relname'] for t in tables if not t['desk']} - NOT_MAIL
    assert {name for name in forgotten if not name.startswith('_pogo')} == set(), (
        'see deploy/postgresql-roles.sql'
    )


async def test_worker_delivers_under_its_role_and_the_operator_looks_on(
    granted, start_worker, env, redis, inbox, pool
):
    worker = await start_worker(DATABASE_URL=granted('email_worker')).started()
    producer = await asyncpg.connect(granted('email_producer'))
    ids = [
        await queue_email(producer, recipient=address, subject='Hello', body_text='Hello.')
        for address in ('anna@example.com', 'granted+4xx-twice@example.com')
    ]
    await producer.close()
    for email_id in ids:
        await redis.enqueue_job('send_email', email_id)
    await wait_until(lambda: inbox.accepted('granted+4xx-twice@example.com'))
    await pool.execute(
        "INSERT INTO sessions (created_at, expires_at) VALUES (now() - interval '1 "
        "year', now() - interval '1 day')"
    )
    await insert(pool, status='sent', sent_at='sql:now()',
        created_at="sql:now() - interval '1 year'",
                 updated_at="sql:now() - interval '1 year'")  # fmt: skip
    for duty in (
        'cleanup_old_sessions',
        'cleanup_expired_emails',
        'check_service_health',
        'count_history',
        'fetch_reports',
        'apply_feedback',
        'process_pending_emails',
    ):
        job = await redis.enqueue_job(duty)
        assert 'error' not in await job.result(timeout=DEADLINE_S, poll_delay=0.05)
    assert await pool.fetchval('SELECT count(*) FROM sessions') == 0
    for command in (['status'], ['failed'], ['show', str(ids[0])]):
        answer = await run(env | {'DATABASE_URL': granted('email_readonly')}, *command)
        assert [t for t in answer.problems if 'permission' in t.line] == []
    answer = await run(
        env | {'DATABASE_URL': granted('email_readonly')}, 'retry', str(ids[0]), '--yes'
    )
    assert answer.exit_status == 1
    # The doctor judges what the workers may, not who asks it.
    examined = env | {'DATABASE_URL': granted('email_web')}
    findings = (await run(examined, 'doctor', 'postgresql', 'outbox')).document['findings']
    assert [found['what'] for found in findings if 'role' in found['what']] == []
    assert 'permission denied' not in worker.log
    await pool.execute(
        'REVOKE INSERT ON email_attempts FROM email_worker; '
        'REVOKE DELETE ON sessions FROM email_worker'
    )
    findings = (await run(examined, 'doctor', 'postgresql', 'outbox')).document['findings']
    assert [found['what'] for found in findings if 'role' in found['what']] == [
        'the role email_worker of the workers lacks INSERT on email_attempts',
        (
            'cleanup_old_sessions: the role email_worker lacks rights: '
            'GRANT SELECT, DELETE ON sessions'
        ),
    ]
    worker.process.send_signal(signal.SIGTERM)
    assert await worker.ended() == 0
    assert await pool.fetchval("SELECT count(*) FROM outbound_emails WHERE status = 'sent'") == 2


async def test_web_page_reads_under_the_role_that_only_reads(granted, env):
    watch = Watch(
        ServerAddresses(granted('email_readonly'), env['ARQ_REDIS_URL']),
        OVERVIEW,
        deadline_s=DEADLINE_S,
    )
    reading = await watch.look()
    await watch.close()
    assert reading.problems == {}
    assert set(OVERVIEW[Source.POSTGRESQL]) <= set(reading.found)


async def test_api_works_under_its_role_with_a_token_that_the_desk_made(granted, env, pool):
    desks = env | {'DATABASE_URL': granted('email_web')}
    created = await run(desks, 'token', 'create', 'anna', '--scope', 'read,operate')
    dead = [await insert(pool, status='failed', attempts=5) for _ in range(4)]
    uncertain = await insert(pool, status='uncertain', attempts=1)
    async with open_desk(env, postgres_dsn=granted('email_api')) as desk:
        client = await desk.client(created.document['token'])
        for method, path, body in (
            ('GET', '/api/emails', None), ('GET', f'/api/emails/{dead[0]}', None),
            ('POST', f'/admin/emails/{dead[0]}/retry', None),
            ('POST', f'/api/emails/{dead[1]}/cancel', None),
            ('POST', f'/api/emails/{uncertain}/resolve', {'decision': 'sent'}),
            ('POST', '/api/emails/retry', {'status': 'dead'}),
            ('GET', '/api/workers', None), ('GET', '/api/queues', None),
            *(('GET', f'/api/inspect/{word}', None) for word in WORDS),
        ):  # fmt: skip
            answer = await client.request(method, path, json=body)
            assert answer.status_code in {200, 202}, (path, answer.text)
            assert 'permission' not in answer.text, path
        await desk.api.access.tokens.close()
    assert await pool.fetchval('SELECT last_used_at IS NOT NULL FROM mail_api_tokens')
    listed = await run(desks, 'audit', 'ls')
    assert [entry['action'] for entry in listed.document['changes'][::-1]] == [
        'token.create', 'email.retry', 'email.cancel', 'email.resolve', 'email.retry',
    ]  # fmt: skip
    revoked = await run(desks, 'token', 'revoke', 'anna', '--yes')
    assert revoked.problems == []


async def test_without_the_apis_role_the_page_works_and_the_api_says_what_is_missing(granted, env):
    async with open_desk(env, postgres_dsn=granted('email_readonly')) as desk:
        client = await desk.client(new_token())
        answer = await client.get('/api/emails')
        assert answer.status_code == 503
        assert 'permission denied' in answer.json()['detail']
        assert 'use a role that may do this' in answer.json()['remedy']
        assert (await client.get('/health/ready')).status_code == 200


async def test_operator_under_its_role_pushes_templates_and_erases_a_person(
    granted, env, pool, queue, start_worker, inbox
):
    servers = Servers(ServerAddresses(granted('email_web'), env['ARQ_REDIS_URL']))
    producer = await asyncpg.connect(granted('email_producer'))
    try:
        done = await push_templates(servers, WELCOME)
        template_id = int(done.templates[0].id)
        await send_test(servers, 'welcome', 'qa@example.com', locale='de')
        async with producer.transaction():
            await queue_email(
                producer, recipient='anna@example.com', template_id=template_id,
                template_data=DATA, locale='de-AT', template_version=1,
            )  # fmt: skip
        await start_worker(DATABASE_URL=granted('email_worker')).started()
        await wait_until(lambda: inbox.accepted('qa@example.com'))
        await wait_until(lambda: inbox.accepted('anna@example.com'))
        both = await queue(['anna@example.com', 'bob@example.com'], template_data={'a': 'b'})
        await add(pool, ['anna@example.com'], reason='asked')
        erased = await erase_person(servers, 'anna@example.com', Actor('me', 'here'), 'asked')
        assert (erased.emails, erased.freed, erased.kept) == (1, 1, 0)
        assert erased.is_suppressed
        assert (
            await pool.fetchval('SELECT recipient FROM outbound_emails WHERE id = $1', both)
            == 'bob@example.com'
        )
        left = [entry['kind'] async for entry in export_person(servers, 'anna@example.com')]
        assert left == ['suppression']
        assert (await remove_pushed(servers, 'welcome', force=True)).row_removed
    finally:
        await producer.close()
        await servers.close()
