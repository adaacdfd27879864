"""What a command does that would have to ask, where nobody can be asked."""

import io

import pytest

from tests.services.ops_desk import insert, ops, run


@pytest.mark.parametrize(
    ('words', 'what'),
    [
        (['purge', 'queue', '--queue', 'nope'], "'nope' is no queue"),
        (['control', 'pause', '--queue', 'nope'], "no queue 'nope' is known"),
        (['relay', 'pause', 'nope'], "no relay 'nope' is known"),
        (['cron', 'run', 'nope'], "no duty 'nope' is there to run"),
        (['call', 'nope'], "'nope' is no job of our workers"),
        (['retry', '1', '--status', 'failed'], 'give either ids or --status'),
        (['purge', 'queue'], 'refused: there is no terminal to ask at'),
        (['control', 'pause', '--queue', 'arq:queue'], 'refused: there is no terminal to ask at'),
        (['call', 'send_email', '1'], 'refused: there is no terminal to ask at'),
    ],
)
async def test_without_a_terminal_wrong_names_are_told_first_and_nothing_is_changed(
    env, redis, pool, monkeypatch, words, what
):
    monkeypatch.setattr('ops.arguments.sys.stdin', io.StringIO('y\n'))
    await redis.enqueue_job('send_email', 1)
    given = await run(env, *words)
    assert (given.exit_status, given.document, [problem.what for problem in given.problems]) == (
        2,
        {},
        [what],
    )
    assert await redis.zcard('arq:queue') == 1
    assert await pool.fetchval('SELECT count(*) FROM mail_switches') == 0


async def test_change_without_a_terminal_is_refused_in_one_line_and_as_json(env, redis):
    await redis.enqueue_job('send_email', 1)
    refused = await ops(env, 'purge', 'queue', '--json')  # its stdin is no terminal
    (problem,) = refused.document['troubles']
    assert (refused.status, problem['remedy']) == (2, 'give --yes or --dry-run')
    assert (
        refused.err
        == 'ops purge: refused: there is no terminal to ask at; give --yes or --dry-run\n'
    )


@pytest.mark.parametrize(
    'words', [['audit', 'ls'], ['suppress', 'ls'], ['held', 'ls']], ids=' '.join
)
async def test_list_that_its_limit_cuts_says_how_to_see_more(env, pool, words):
    for n in range(3):
        await insert(pool, status='held')
        name = f'a{n}@example.com'
        assert (await ops(env, 'suppress', 'add', name, '--reason', 'x', '--yes')).status == 0
    cut = await ops(env, *words, '--limit', '2')
    assert 'No more than 2 are shown: --limit N shows more.' in cut.out
    assert '--limit' not in (await ops(env, *words, '--limit', '9')).out
