"""E-mails page by page: none is left out or shown twice, however few fit."""

import pytest

from db import email_list
from db.email_list import LAST_ID, list_emails
from db.selection import Selection
from tests.services.api_desk import open_desk
from tests.services.ops_desk import insert


@pytest.fixture
def short_stretches(monkeypatch):
    """Stretches of two rows, and one of them for each page."""
    monkeypatch.setattr(email_list, 'FIRST_STRETCH', 2)
    monkeypatch.setattr(email_list, 'LONGEST_STRETCH', 2)
    monkeypatch.setattr(email_list, 'STRETCHES_S', 0.0)


async def every(pool, limit=3, **conditions):
    """Go through all pages. Returns the ids, and how many pages were not whole."""
    selection = Selection(**{'statuses': None} | conditions)
    ids, cut, before = [], 0, LAST_ID
    for _ in range(100):
        page = await list_emails(pool, selection, before_id=before, limit=limit)
        assert len(page.rows) <= limit
        ids += [row['id'] for row in page.rows]
        cut += not page.is_whole
        if page.goes_on_before is None:
            return ids, cut
        assert page.goes_on_before < before
        before = page.goes_on_before
    raise AssertionError('it goes on without end')


STATES = (
    ('failed', {'attempts': 5}), ('pending', {}), ('held', {}), ('uncertain', {}),
    ('failed', {'attempts': 1, 'next_retry_at': 'sql:now()'}), ('cancelled', {}),
)  # fmt: skip


async def fill(pool):
    """Insert four e-mails of each state, in turn. Returns the ids, the newest first, by state."""
    found = {}
    for n in range(24):
        status, more = STATES[n % 6]
        given = {'recipient': f'r{n}@example.com', 'subject': f's{n}', 'status': status}
        email_id = await insert(pool, **given | more)
        word = ('retrying' if 'next_retry_at' in more else 'dead') if status == 'failed' else status
        found.setdefault(word, []).insert(0, email_id)
    return found


@pytest.mark.parametrize('limit', [1, 2, 3, 50])
@pytest.mark.parametrize(
    'words', [('dead',), ('retrying',), ('held', 'dead'), ('pending',), ('pending', 'dead'),
              ('dead', 'retrying', 'uncertain', 'held')]
)  # fmt: skip
async def test_pages_of_states_hold_each_email_once_the_newest_first(
    pool, short_stretches, words, limit
):
    found = await fill(pool)
    wanted = sorted((i for word in words for i in found[word]), reverse=True)
    assert (await every(pool, limit, statuses=words))[0] == wanted


async def test_what_fits_next_to_nothing_is_found_page_by_page(pool, short_stretches):
    found = await fill(pool)
    first = min(i for ids in found.values() for i in ids)
    ids, cut = await every(pool, subject_like='s0')
    assert ids == [first]
    assert cut > 5


@pytest.mark.parametrize(
    'recipient', ['Anna Smith <Anna@Example.com>', 'anna@example.com',
                  'bert@example.com, ANNA@example.com']
)  # fmt: skip
async def test_recipient_is_found_however_far_back(pool, short_stretches, recipient):
    email_id = await insert(pool, recipient=recipient)
    await insert(pool, recipient='xanna@example.com')
    copied = await insert(pool, recipient='bert@example.com', cc='Anna <anna@example.com>')
    await fill(pool)
    assert await every(pool, recipient='anna@example.com') == ([copied, email_id], 0)


async def test_recipient_goes_by_its_index(pool):
    await pool.execute(
        "INSERT INTO outbound_emails (recipient) SELECT 'r' || n || '@example.com' "
        'FROM generate_series(1, 20000) AS n'
    )
    await pool.execute('ANALYZE outbound_emails')
    async with pool.acquire() as conn, conn.transaction():
        await conn.execute(email_list.BY_INDEX_SQL)
        await conn.execute(email_list.SORTED_SQL)
        asked = (*Selection(statuses=None, recipient='r7@example.com').parameters, LAST_ID, 50)
        statement = await conn.prepare(f'EXPLAIN {email_list.LIST_EVERYWHERE_SQL}')
        plan = '\n'.join(row[0] for row in await statement.fetch(*asked))
    assert 'outbound_emails_recipient' in plan
    assert 'Seq Scan on outbound_emails' not in plan


async def test_desk_says_how_far_it_looked_and_goes_on(env, pool, short_stretches):
    found = await fill(pool)
    async with open_desk(env) as desk:
        lena = await desk.person()
        page = await lena.get('/mail?subject=s0')
        for _ in range(20):
            if 'class="to"' in page.text:
                break
            assert 'None of the newest fits' in page.text
            before = page.text.partition('before=')[2].partition('"')[0]
            page = await lena.get(f'/mail?subject=s0&before={before}')
        assert f'/mail/{min(i for ids in found.values() for i in ids)}"' in page.text
