from db.checkup import INDEXES, RIGHTS, TABLES
from ops.__main__ import make_parser
from ops.doctor import CHECKS, run
from ops.running import answer
from settings import Settings
from tests.services.ops_desk import closed_port, insert, rendered
from tests.services.ops_desk import run as run_ops


async def found(env, *checks, **settings):
    """The findings of some checks by their first words."""
    given = await run_ops(env, 'doctor', *checks)
    return {(row['severity'], row['what']): row['check'] for row in given.document['findings']}


def whats(findings, severity='error'):
    return [what for found_severity, what in findings if found_severity == severity]


async def test_doctor_makes_every_check_and_ends_with_1_for_what_calls_for_action(env):
    given = await run_ops(env, 'doctor')
    assert list(given.document['checks']) == list(CHECKS)
    assert {'no worker replied'} <= {row['what'] for row in given.document['findings']}
    assert given.exit_status == 1
    assert all(row['remedy'] for row in given.document['findings'])
    severities = [row['severity'] for row in given.document['findings']]
    assert severities == sorted(severities, key=['error', 'warning', 'note'].index)
    assert 'no worker replied' in rendered('doctor', given)


async def test_doctor_names_indexes_templates_and_rights_that_are_missing(env, pool, mongo):
    first = await insert(pool, template_id=404)
    await insert(pool, template_id=404)
    await insert(pool, template_id=404, status='sent', sent_at='sql:now()')
    lost = await insert(pool, content_id='gone')
    await mongo['email_attachments'].insert_one({'content_id': 'other'})
    await pool.execute('DROP INDEX outbound_emails_due')
    await pool.execute(
        'UPDATE pg_index SET indisvalid = false WHERE indexrelid = '
        "'outbound_emails_leased'::regclass"
    )
    findings = await found(env, 'postgresql', 'content')
    assert 'indexes are missing: outbound_emails_due' in whats(findings)
    assert 'indexes are invalid: outbound_emails_leased' in whats(findings)
    assert f'2 waiting e-mails name a template that does not exist, the first is {first}' in whats(
        findings
    )
    assert (
        f'1 waiting e-mail names attachments that MongoDB does not have, the first is {lost}'
        in whats(findings)
    )
    assert 'attachments are found by reading all of them: the index is missing' in whats(
        findings, 'warning'
    )


async def test_doctor_finds_late_and_stuck_mail_and_queues_nobody_serves(env, pool, redis):
    await insert(pool, next_retry_at="sql:now() - interval '1 hour'")
    await insert(pool, status='sending', lease_expires_at="sql:now() - interval '5 minutes'")
    await redis.enqueue_job('x', _queue_name='reports')
    findings = await found(env, 'outbox', 'workers', 'redis')
    assert '1 e-mail is due, the first for 60 min' in whats(findings)
    assert '1 e-mail is held by workers that are gone, and nobody takes them over' in whats(
        findings
    )
    assert 'nobody serves the queue reports, which has 1 job' in whats(findings)


async def test_doctor_tries_relays_without_sending(env, stack, inbox):
    def relays(**changes):
        values = {
            name.lower(): value for name, value in stack.env.items() if name.startswith('SMTP_')
        }
        return Settings(_env_file=None, **values | changes)

    async def tried(**changes):
        options = make_parser().parse_args(['doctor', 'relays'])
        given = await answer(
            relays(**changes), type('Doctor', (), {'run': staticmethod(run)}), options
        )
        return [row['what'] for row in given.document['findings']]

    assert await tried() == []
    assert (
        'fails at AUTH: primary does not accept our user name and password: PLAIN: 535'
        in ''.join(await tried(smtp_password='wrong'))
    )
    assert 'fails at connect: ' in ''.join(await tried(smtp_port=closed_port()))
    assert 'CERTIFICATE_VERIFY_FAILED' in ''.join(await tried(smtp_ca_file=None))
    assert inbox.accepted() == []


async def test_doctor_goes_on_while_every_server_is_away(env):
    port = closed_port()
    away = {
        'DATABASE_URL': f'postgresql://mail:geheim@127.0.0.1:{port}/mail',
        'ARQ_REDIS_URL': f'redis://:geheim@127.0.0.1:{port}/1',
        'MONGODB_URL': f'mongodb://mail:geheim@127.0.0.1:{port}',
        'MONGODB_TIMEOUT_S': '0.2',
    }
    given = await run_ops(env | away, 'doctor')
    assert given.exit_status == 1
    assert list(given.document['checks']) == list(CHECKS)
    findings = [row['what'] for row in given.document['findings']]
    for service in ('PostgreSQL', 'Redis', 'MongoDB'):
        assert sum(what.startswith(f'{service} at 127.0.0.1:{port}') for what in findings) == 1
    assert given.document['not_made'] == {
        'postgresql': ['PostgreSQL'],
        'redis': ['Redis'],
        'celery': ['Redis'],
        'workers': ['Redis'],
        'jobs': ['Redis'],
        'ingress': ['Redis'],
        'outbox': ['PostgreSQL'],
        'content': ['PostgreSQL', 'MongoDB'],
        'webhooks': ['PostgreSQL'],
        'reputation': ['PostgreSQL'],
        'clocks': ['PostgreSQL', 'Redis'],
    }
    told = rendered('doctor', given)
    assert 'workers (without Redis)' in told
    assert 'geheim' not in told


async def test_doctor_looks_for_templates_while_only_mongodb_is_away(env, pool):
    first = await insert(pool, template_id=404)
    away = {'MONGODB_URL': f'mongodb://127.0.0.1:{closed_port()}', 'MONGODB_TIMEOUT_S': '0.2'}
    given = await run_ops(env | away, 'doctor', 'content')
    whats_found = [row['what'] for row in given.document['findings']]
    assert any(what.startswith('MongoDB at ') for what in whats_found)
    assert (
        f'1 waiting e-mail names a template that does not exist, the first is {first}'
        in whats_found
    )
    assert given.document['not_made'] == {'content': ['MongoDB']}


async def test_doctor_runs_what_it_is_asked_for_and_a_broken_check_hides_nothing(env, monkeypatch):
    async def broken(_):
        raise KeyError('a fault')

    monkeypatch.setitem(CHECKS, 'clocks', broken)
    given = await run_ops(env, 'doctor', 'clocks', 'disks')
    assert list(given.document['checks']) == ['clocks', 'disks']
    assert [row['what'] for row in given.document['findings']] == [
        "the check itself failed: KeyError: 'a fault'"
    ]
    unknown = await run_ops(env, 'doctor', 'weather')
    assert (unknown.exit_status, unknown.problems[0].what) == (2, "there is no check 'weather'")


async def test_the_doctors_lists_are_those_of_a_fresh_schema(pool):
    made = await pool.fetch(
        "SELECT indexname FROM pg_indexes WHERE schemaname = 'public' AND tablename = ANY($1) "
        "AND indexname NOT LIKE '%templates%' AND indexname NOT IN "
        "('outbound_emails_pkey', 'sessions_pkey', 'refresh_tokens_pkey', 'service_health_pkey')",
        list(TABLES),
    )
    assert {row['indexname'] for row in made} == set(INDEXES)
    tables = await pool.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    assert {row['tablename'] for row in tables if not row['tablename'].startswith('_')} == set(
        TABLES
    )
    assert set(RIGHTS) <= {*TABLES, 'mail_outbox'}


async def test_doctor_knows_what_a_worker_needs_and_that_some_columns_are_enough(
    env, pool, database
):
    role = f'doctor_{database.name}'
    await pool.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'geheim'")
    dsn = f'postgresql://{role}:geheim@{database.dsn.split("@")[1]}'
    try:
        await pool.execute(f'GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}')
        await pool.execute(f'GRANT UPDATE (status), DELETE ON mail_outbox TO {role}')
        warnings = whats(await found(env | {'DATABASE_URL': dsn}, 'postgresql'), 'warning')
        (lacks,) = [what for what in warnings if 'role' in what]
        assert lacks == (
            'this role lacks INSERT on email_attempts, UPDATE on email_attempts, '
            'DELETE on email_attempts, INSERT on cron_runs, '
            'UPDATE on cron_runs, INSERT on service_health, INSERT on email_suppressions, '
            'UPDATE on email_suppressions, INSERT on email_feedback, UPDATE on email_feedback, '
            'DELETE on email_feedback, INSERT on allowed_senders, '
            'DELETE on email_attachments, INSERT on mail_history, UPDATE on mail_history, '
            'DELETE on mail_history, UPDATE on mail_history_progress, UPDATE on mail_webhooks, '
            'UPDATE on mail_webhook_deliveries, DELETE on mail_webhook_deliveries, '
            'INSERT on mail_alerts, UPDATE on mail_alerts, DELETE on mail_alerts'
        )
    finally:
        await pool.execute(f'DROP OWNED BY {role}')
        await pool.execute(f'DROP ROLE {role}')
