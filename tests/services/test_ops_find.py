"""`ops find`: any e-mail by whatever one has of it."""

import pytest

from tests.services.ops_desk import insert, ops, rendered, run

REJECTED = {
    'status': 'failed', 'attempts': 1, 'smtp_code': 550, 'dead_reason': 'rejected',
    'last_error': '550 5.1.1 <anna@example.com>: no such user', 'relay': 'backup',
}  # fmt: skip


async def found(env, *words):
    given = await run(env, 'find', *words)
    assert given.exit_status == 0
    return [email['id'] for email in given.document['emails']]


@pytest.mark.parametrize(
    'words',
    [
        ['{id}'], ['#{id}'], ['anna@shop.example'], ['Anna@SHOP.example'], ['@shop.example'],
        ['shop.example'], ['<m7@example.com>'], ['your RECEIPT'],
        ['--recipient', 'anna@shop.example'], ['--message-id', '<m7@example.com>'],
        ['--subject', 'receipt 7'], ['--status', 'dead'], ['--status', 'held', '--status', 'dead'],
        ['--type', 'receipt'], ['--error-like', 'no such'], ['--relay', 'backup'],
        ['--organization', '7'], ['--domain', 'shop.example', '--status', 'failed'],
        ['shop.example', '--type', 'receipt', '--since', '2h'],
    ],
    ids=' '.join,
)  # fmt: skip
async def test_e_mail_is_found_by_anything_one_has_of_it(env, pool, words):
    wanted = await insert(
        pool, recipient='Anna <anna@shop.example>', subject='Your receipt 7', email_type='receipt',
        message_id='<m7@example.com>', organization_id=7, last_attempt_at='sql:now()', **REJECTED,
    )  # fmt: skip
    await insert(pool, recipient='ben@example.com', subject='Reset', email_type='reset')
    await insert(
        pool, recipient='hanna@shop.example.org', subject='Hello', message_id='<m77@example.com>'
    )
    assert await found(env, *(word.format(id=wanted) for word in words)) == [wanted]


async def test_newest_come_first_and_each_page_says_where_the_next_one_begins(env, pool):
    ids = [await insert(pool) for _ in range(5)]
    first = await run(env, 'find', '--limit', '2')
    assert [email['id'] for email in first.document['emails']] == [ids[4], ids[3]]
    assert first.document['next_before'] == ids[3]
    assert f'There are more: --before {ids[3]} goes on' in rendered('find', first)
    second = await run(env, 'find', '--limit', '3', '--before', str(ids[3]))
    assert [email['id'] for email in second.document['emails']] == [ids[2], ids[1], ids[0]]
    assert second.document['next_before'] is None
    assert 'more' not in rendered('find', second)


async def test_addresses_are_hidden_unless_they_are_asked_for(env, pool):
    await insert(pool, cc='ben@example.com', **REJECTED)
    hidden = rendered('find', await run(env, 'find'))
    assert ('anna@' in hidden, '***@example.com' in hidden, 'dead' in hidden) == (False, True, True)
    (email,) = (await run(env, 'find', '--show-recipients')).document['emails']
    assert (email['recipient'], email['cc']) == ('anna@example.com', 'ben@example.com')
    assert 'anna@example.com' in email['error']


async def test_nothing_found_is_an_answer_and_ids_that_no_row_can_have_are_none(env, pool):
    await insert(pool)
    for words in (['999'], ['9223372036854775808'], ['nobody@example.com'], ['50\\']):
        assert await found(env, *words) == []
    assert 'E-mails that fit: none' in rendered('find', await run(env, 'find', '999'))


async def test_search_that_takes_too_long_says_how_to_narrow_it_down(env, pool):
    async with pool.acquire() as conn, conn.transaction():
        await conn.execute('LOCK TABLE outbound_emails')  # as slow as any
        slow = await ops(env | {'DB_COMMAND_TIMEOUT_S': '1'}, 'find', '--error-like', 'x', '--json')
    (trouble,) = slow.document['troubles']
    assert slow.status == 1
    assert 'too many had to be looked at' in trouble['what']
    assert 'narrow it down' in trouble['remedy']


async def test_unknown_state_is_a_usage_error_that_names_what_was_meant(env):
    refused = await ops(env, 'find', '--status', 'deda')
    assert refused.status == 2
    assert "invalid choice 'deda'; did you mean dead?" in refused.err
