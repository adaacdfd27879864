from tests.services.ops_desk import insert, rendered, run

IN_AN_HOUR = "sql:now() + interval '1 hour'"
DUE = "sql:now() - interval '1 second'"


def aged(minutes, **columns):
    return {'created_at': f"sql:now() - interval '{minutes} minutes'"} | columns


async def test_qshape_counts_waiting_mail_by_domain_and_age(env, pool):
    for columns in (
        aged(1, recipient='Anna <anna@Example.com>'),
        aged(5, recipient='ben@example.com', next_retry_at=DUE),
        aged(1279, recipient='x@example.com, y@example.com, z@example.org', status='failed',
            attempts=1,
             next_retry_at=IN_AN_HOUR),
        aged(99999, recipient='z@example.org', status='uncertain', attempts=1,
            next_retry_at=IN_AN_HOUR),
        aged(30, recipient='z@example.org', status='sending'),
        aged(30, recipient='nobody'),
        # none of these waits, or not yet
        aged(30, status='sent', sent_at='sql:now()'), aged(30, status='failed', attempts=1),
        aged(30, status='failed', attempts=5, next_retry_at=IN_AN_HOUR),
        aged(30, status='uncertain', attempts=1),
        aged(30, next_retry_at=IN_AN_HOUR), aged(30, status='cancelled'),
    ):  # fmt: skip
        await insert(pool, **columns)
    given = await run(env, 'qshape')
    assert given.exit_status == 0
    table = {
        row['domain']: [row['total'], *row['by_age']]
        for row in (given.document['total'], *given.document['rows'])
    }
    #                                    T  5 10 20 40 80 160 320 640 1280 1280+
    assert table == {'TOTAL':           [6, 1, 1, 0, 2, 0, 0, 0, 0, 1, 1],
                     'example.com':     [3, 1, 1, 0, 0, 0, 0, 0, 0, 1, 0],
                     'example.org':     [3, 0, 0, 0, 1, 0, 0, 0, 0, 1, 1],
                     '(no address)':    [1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0]}  # fmt: skip
    first, total, *_ = rendered('qshape', given).splitlines()
    assert first.split() == ['T', '5', '10', '20', '40', '80', '160', '320', '640', '1280', '1280+']
    assert total.split() == ['TOTAL', '6', '1', '1', '0', '2', '0', '0', '0', '0', '1', '1']
    limited = await run(env, 'qshape', '--status', 'failed', '--limit', '1')
    assert (limited.document['total']['total'], limited.document['domains']) == (1, 2)
    assert '1 more domain; --limit shows all.' in rendered('qshape', limited)


async def test_qshape_of_an_empty_outbox_is_a_row_of_zeros(env):
    given = await run(env, 'qshape')
    assert (
        given.document['total']['total'],
        given.document['rows'],
        given.document['domains'],
    ) == (0, [], 0)
