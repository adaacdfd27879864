from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from db.suppressions import add, any_suppressed, remove, suppressed, suppression_key
from mail_outbox.envelope import InvalidEmailError
from ops.__main__ import make_parser
from tests.services.ops_desk import rendered, run


@pytest.mark.parametrize(
    ('text', 'key'),
    [
        ('Anna.Smith@Example.COM', 'anna.smith@example.com'),
        ('anna@bücher.example', 'anna@xn--bcher-kva.example'),
        ('@Example.com', '@example.com'),
        ('@bücher.example', '@xn--bcher-kva.example'),
        ('root@localhost', 'root@localhost'),
    ],
)
def test_a_key_is_the_address_as_it_travels_in_lower_case(text, key):
    assert suppression_key(text) == key


@pytest.mark.parametrize(
    'text', ['', '@', 'anna', 'anna@', '@@example.com', 'anna@b@c', '@exa mple.com', 'a\n@b.com']
)
def test_what_is_no_address_is_no_key(text):
    with pytest.raises(InvalidEmailError):
        suppression_key(text)


async def test_suppressed_finds_addresses_and_domains_of_a_whole_batch_in_one_statement(pool):
    assert not await any_suppressed(pool)
    await add(pool, ['anna@example.com'], reason='bounced')
    await add(pool, ['@example.org'], reason='closed')
    await add(pool, ['boss@example.org'], reason='asked for it')
    await add(
        pool, ['old@example.com'], reason='over', expires_at=datetime.now(UTC) - timedelta(hours=1)
    )
    await add(
        pool,
        ['soon@example.com'],
        reason='not over',
        expires_at=datetime.now(UTC) + timedelta(hours=1),
    )
    assert await any_suppressed(pool)
    queries = []
    async with pool.acquire() as conn:
        conn.add_query_logger(queries.append)
        found = await suppressed(conn, [
            'Anna@Example.com', 'ben@example.com', 'x@EXAMPLE.org', 'boss@example.org',
            'x@mail.example.org',
            'old@example.com', 'soon@example.com', 'anna@example.com.evil.org', '', '@',
        ])  # fmt: skip
        conn.remove_query_logger(queries.append)
    assert found == {
        'Anna@Example.com': 'bounced', 'x@EXAMPLE.org': 'closed',
        'boss@example.org': 'asked for it',
        'soon@example.com': 'not over',
    }  # fmt: skip
    assert len(queries) == 1
    assert await suppressed(pool, []) == {}
    assert await remove(pool, ['anna@example.com', 'nobody@example.com']) == {'anna@example.com'}
    assert await suppressed(pool, ['anna@example.com']) == {}


async def test_the_table_refuses_a_key_that_no_recipient_would_ever_match(pool):
    for address in ('Anna@example.com', 'anna', 'anna@', 'anna@exam ple.com'):
        with pytest.raises(asyncpg.CheckViolationError):
            await add(pool, [address], reason='x')


async def test_suppress_add_ls_rm(env, pool):
    add_one = (
        'suppress',
        'add',
        'Anna@Example.com',
        'anna@example.com',
        '@example.org',
        '--reason',
        'hard bounce',
    )
    dry = await run(env, *add_one, '--dry-run')
    assert dry.document['would_add'] == ['anna@example.com', '@example.org']
    assert not await any_suppressed(pool)
    given = await run(env, *add_one, '--source', 'bounce', '--yes')
    assert (given.document['added'], given.document['changed']) == (
        ['anna@example.com', '@example.org'],
        [],
    )
    again = await run(
        env, 'suppress', 'add', 'anna@example.com', '--reason', 'again', '--for', '2h', '--yes'
    )
    assert (again.document['added'], again.document['changed']) == ([], ['anna@example.com'])
    listed = await run(env, 'suppress', 'ls')
    assert {(e['address'], e['reason'], e['source']) for e in listed.document['entries']} == {
        ('***@example.com', 'again', 'operator'),
        ('@example.org', 'hard bounce', 'bounce'),
    }
    assert 'for good' in rendered('suppress', listed)
    asked = await run(
        env, 'suppress', 'ls', 'ANNA@example.com', 'ben@example.org', 'carl@example.com'
    )
    assert [e['reason'] for e in asked.document['asked']] == ['again', 'hard bounce', None]
    dry = await run(env, 'suppress', 'rm', 'anna@example.com', '--dry-run')
    assert dry.document['would_remove'] == ['anna@example.com']
    given = await run(env, 'suppress', 'rm', 'anna@example.com', 'carl@example.com', '--yes')
    assert (given.exit_status, given.document['removed']) == (1, ['anna@example.com'])
    assert given.problems[0].what == 'not on the list: carl@example.com'
    assert await suppressed(pool, ['anna@example.com', 'x@example.org']) == {
        'x@example.org': 'hard bounce'
    }


async def test_suppress_add_ls_rm_of_one_type(env, pool):
    anna = ('anna@example.com', '--type', 'newsletter')
    given = await run(env, 'suppress', 'add', *anna, '--reason', 'asked for it', '--yes')
    assert given.document['added'] == ['anna@example.com']
    assert await any_suppressed(pool)
    listed = await run(env, 'suppress', 'ls', '--type', 'newsletter')
    assert [(e['email_type'], e['reason']) for e in listed.document['entries']] == [
        ('newsletter', 'asked for it')
    ]
    assert 'newsletter' in rendered('suppress', listed)
    assert (await run(env, 'suppress', 'ls', '--type', 'other')).document['total'] == 0
    asked = await run(env, 'suppress', 'ls', *anna)
    assert [e['reason'] for e in asked.document['asked']] == [
        'asked for it (of the type newsletter)'
    ]
    asked = await run(env, 'suppress', 'ls', 'anna@example.com')
    assert [e['reason'] for e in asked.document['asked']] == [None]
    given = await run(env, 'suppress', 'rm', 'anna@example.com', '--yes')
    assert given.problems[0].what == 'not on the list: anna@example.com'
    given = await run(env, 'suppress', 'rm', *anna, '--yes')
    assert given.document['removed'] == ['anna@example.com']
    assert not await any_suppressed(pool)


async def test_an_entry_of_a_type_and_one_of_all_mail_stand_beside_each_other(pool):
    await add(pool, ['anna@example.com'], reason='asked', email_type='newsletter')
    await add(pool, ['anna@example.com'], reason='bounced')
    assert await suppressed(pool, ['anna@example.com'], 'newsletter') == {
        'anna@example.com': 'bounced'
    }
    await remove(pool, ['anna@example.com'])
    assert await suppressed(pool, ['anna@example.com'], 'newsletter') == {
        'anna@example.com': 'asked (of the type newsletter)'
    }
    assert await suppressed(pool, ['anna@example.com'], 'Newsletter') == {}


@pytest.mark.parametrize(
    'arguments', [['add', 'anna', '--reason', 'x'], ['add', 'a@example.com', '--reason', 'a\nb']]
)
def test_suppress_refuses_what_is_no_address_and_reasons_of_two_lines(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        make_parser().parse_args(['suppress', *arguments, '--yes'])
    assert (ended.value.code, capsys.readouterr().out) == (2, '')
