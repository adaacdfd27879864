"""Mail at the desk: found, looked at, decided about, once."""

import re

import pytest

from db.audit import begin_audit
from mail_outbox.envelope import Attachment
from mail_outbox.outbox import queue_email
from tests.conftest import wait_until
from tests.services.api_desk import TESTER, fields_of, form_key, open_desk
from tests.services.ops_desk import insert, statuses
from tests.services.test_ops_status import IN_AN_HOUR


@pytest.fixture
async def desk(env):
    async with open_desk(env) as desk:
        yield desk


@pytest.fixture
async def lena(desk):
    return await desk.person()


def shown(page):
    """Return the ids that a list shows, in its order."""
    return [int(i) for i in re.findall('<td class="to"><a href="/mail/([0-9]+)">', page.text)]


async def decide(client, address, **more):
    """Ask for a decision and confirm it. Returns the page it leads to."""
    page = await client.get(address)
    assert page.status_code == 200, page.text
    data = {}
    for name, value in fields_of(page.text, '/decide'):
        data.setdefault(name, []).append(value)
    answer = await client.post('/decide', data=data | more)
    assert answer.status_code == 303, answer.text
    return await client.get(answer.headers['location'])


FOUND = [
    ('q=anna@example.com', {'anna', 'both'}),
    ('q=ANNA@example.com', {'anna', 'both'}),
    ('q=@example.org', {'bert', 'both'}),
    ('q=example.org', {'bert', 'both'}),
    ('q=<one@example.com>', {'anna'}),
    ('q=your receipt', {'anna'}),
    ('subject=RECEIPT', {'anna'}),
    ('status=dead', {'bert'}),
    ('status=failed', {'bert', 'both'}),
    ('status=retrying', {'both'}),
    ('status=dead&status=pending', {'anna', 'bert'}),
    ('type=receipt', {'anna'}),
    ('error=mailbox', {'bert'}),
    ('relay=backup', {'bert'}),
    ('organization=7', {'both'}),
    ('tag=campaign=may', {'both'}),
    ('within=1h', {'anna', 'bert', 'both'}),
    ('until=2020-01-01T00:00', set()),
    ('since=2020-01-01T00:00&q=anna@example.com', {'anna', 'both'}),
    ('since=nonsense', {'anna', 'bert', 'both'}),
    ('q=nobody', set()),
    ('q=100%', set()),
]


@pytest.fixture
async def three(pool):
    return {
        'anna': await insert(
            pool, subject='Your receipt', email_type='receipt', message_id='<one@example.com>'
        ),
        'bert': await insert(
            pool, recipient='bert@example.org', status='failed', attempts=5, relay='backup',
            last_error='452 mailbox full', dead_reason='exhausted',
        ),
        'both': await insert(
            pool, recipient='anna@example.com, Bert <bert@example.org>', status='failed',
            attempts=1, next_retry_at=IN_AN_HOUR, organization_id=7, tags={'campaign': 'may'},
        ),
    }  # fmt: skip


@pytest.mark.parametrize(('asked', 'names'), FOUND)
async def test_mail_is_found_by_what_a_person_has(lena, three, asked, names):
    page = await lena.get(f'/mail?{asked}'.replace('100%', '100%25'))
    assert set(shown(page)) == {three[name] for name in names}
    assert page.status_code == 200


async def test_list_is_newest_first_page_by_page_and_an_id_leads_to_its_mail(lena, pool):
    ids = [await insert(pool) for _ in range(60)]
    first = await lena.get('/mail?status=pending')
    assert shown(first) == ids[:-51:-1]
    older = re.search('<a href="([^"]+)" rel="next">', first.text)[1].replace('&amp;', '&')
    second = await lena.get(older)
    assert shown(second) == ids[9::-1]
    assert 'rel="next"' not in second.text
    for q in (f'{ids[3]}', f'#{ids[3]}'):
        assert (await lena.get('/mail', params={'q': q})).headers['location'] == f'/mail/{ids[3]}'


@pytest.mark.parametrize('q', ['\x00', 'x' * 5000, '\ud800'.encode('utf-8', 'surrogatepass'), '%'])
async def test_search_stands_whatever_is_typed(lena, three, q):
    assert (await lena.get('/mail', params={'q': q, 'error': q})).status_code == 200


async def test_nothing_found_says_so_and_how_to_go_on(lena):
    page = (await lena.get('/mail?q=nobody@example.com&status=dead')).text
    assert 'No e-mail matches' in page
    assert 'href="/mail?q=nobody%40example.com"' in page
    assert 'Nothing has been queued yet' in (await lena.get('/mail')).text


async def test_selected_mail_is_sent_again_with_a_reason_that_the_audit_keeps(lena, pool):
    ids = [await insert(pool, status='failed', attempts=5, dead_reason='exhausted')
           for _ in range(3)]  # fmt: skip
    done = await insert(pool, status='sent', sent_at='sql:now()')
    asked = '&'.join(f'id={i}' for i in (ids[0], ids[1], done))
    plan = (await lena.get(f'/decide?do=retry&{asked}')).text
    assert 'Send again: 2 e-mails' in plan
    assert 'left as it is' in plan
    page = await decide(lena, f'/decide?do=retry&{asked}', reason='the relay is back')
    assert '2 e-mails changed, <strong>1 e-mail was left</strong>' in page.text
    assert 'it was sent at' in page.text
    found = await statuses(pool)
    assert [found[i] for i in (*ids, done)] == ['pending', 'pending', 'failed', 'sent']
    entry = await pool.fetchrow("SELECT * FROM mail_audit WHERE action = 'email.retry'")
    assert (entry['actor'], entry['email_ids']) == ('lena', ids[:2])
    assert entry['details']['reason'] == 'the relay is back'


async def test_all_that_match_are_decided_about_and_what_came_since_is_not(lena, pool, desk):
    for n in range(1200):
        kind = 'receipt' if n % 2 else 'news'
        await insert(pool, status='failed', attempts=5, dead_reason='exhausted', email_type=kind)
    address = '/decide?do=retry&of=all&status=dead&type=receipt'
    page = await lena.get(address)
    assert 'Send again: 600 e-mails' in page.text
    await insert(pool, status='failed', attempts=5, email_type='receipt')
    data = {}
    for name, value in fields_of(page.text, '/decide'):
        data.setdefault(name, []).append(value)
    refused = await lena.post('/decide', data=data)
    assert '601 e-mails fit now, not 600: nothing was changed' in refused.text
    assert await pool.fetchval("SELECT count(*) FROM outbound_emails WHERE status = 'pending'") == 0
    result = await decide(lena, address)
    await wait_until(lambda: _has(lena, str(result.url), '601 e-mails changed'))
    assert await pool.fetchval("SELECT count(*) FROM outbound_emails WHERE status = 'pending'") == (
        601
    )


async def _has(client, address, words):
    return words in (await client.get(address)).text


async def test_double_click_changes_nothing_twice(lena, pool):
    email_id = await insert(pool, status='failed', attempts=1)
    page = await lena.get(f'/decide?do=retry&id={email_id}')
    data = dict(fields_of(page.text, '/decide'))
    first = await lena.post('/decide', data=data)
    await pool.execute("UPDATE outbound_emails SET status = 'failed', next_retry_at = NULL")
    second = await lena.post('/decide', data=data)
    assert first.headers['location'] == second.headers['location']
    assert (await statuses(pool))[email_id] == 'failed'
    assert await pool.fetchval("SELECT count(*) FROM mail_audit WHERE action = 'email.retry'") == 1


DECIDED = [
    ('cancel', {'status': 'pending'}, 'cancelled', 'retry'),
    ('hold', {'status': 'pending'}, 'held', 'release'),
    ('hold', {'status': 'failed', 'attempts': 1, 'next_retry_at': IN_AN_HOUR}, 'held', 'release'),
    ('release', {'status': 'held'}, 'pending', 'hold'),
    ('sent', {'status': 'uncertain', 'attempts': 1}, 'sent', None),
    ('give-up', {'status': 'uncertain', 'attempts': 1}, 'failed', 'retry'),
]


@pytest.mark.parametrize(('word', 'columns', 'after', 'undo'), DECIDED)
async def test_each_decision_changes_what_it_is_for_and_is_taken_back(
    lena, pool, word, columns, after, undo
):
    email_id = await insert(pool, **columns)
    left = await insert(pool, status='sent', sent_at='sql:now()')
    page = await decide(lena, f'/decide?do={word}&id={email_id}&id={left}')
    assert await statuses(pool) == {email_id: after, left: 'sent'}
    link = re.search('href="(/decide\\?do=[^"]+change=[0-9]+)"', page.text)
    if undo is None:
        assert link is None
        return
    back = link[1].replace('&amp;', '&')
    assert f'do={undo}&' in back
    await decide(lena, back)
    assert (await statuses(pool))[email_id] in {'pending', 'held'}


@pytest.mark.parametrize(
    'asked',
    [
        'do=retry',
        'do=nonsense&id=1',
        'id=1',
        'do=retry&id=x',
        'do=retry&change=999',
        'do=retry&id=',
    ],
)
async def test_decision_about_nothing_is_refused_with_what_to_do(lena, asked):
    answer = await lena.get(f'/decide?{asked}')
    assert answer.status_code == 422
    assert 'class="remedy"' in answer.text


async def test_decision_about_mail_in_no_such_state_has_no_button(lena, pool):
    email_id = await insert(pool, status='sent', sent_at='sql:now()')
    page = (await lena.get(f'/decide?do=retry&id={email_id}')).text
    assert 'None of the 1 can be changed so' in page
    assert '<form method="post" action="/decide"' not in page


async def test_one_mail_tells_its_way_and_why(lena, pool, desk):
    email_id = await insert(
        pool, subject='Your receipt', status='failed', attempts=2, relay='primary',
        dead_reason='rejected', last_error='550 5.1.1 no such user', smtp_code=550,
        enhanced_code='5.1.1',
    )  # fmt: skip
    await pool.executemany(
        'INSERT INTO email_attempts (email_id, started_at, attempt, worker, outcome, phase, relay, '
        "smtp_code, reply, duration_ms) VALUES ($1, now() - $2 * interval '1 minute', $3, "
        "'worker@host:1', $4, 'rcpt', 'primary', $5, $6, 1300)",
        [(email_id, 9, 1, 'deferred', 451, '451 try later'),
         (email_id, 3, 2, 'rejected', 550, '550 5.1.1 no such user')],
    )  # fmt: skip
    await pool.execute("UPDATE outbound_emails SET created_at = now() - interval '1 hour'")
    async with pool.acquire() as conn:
        entry = await begin_audit(conn, TESTER, 'email.retry', {'reason': 'once more'})
        await conn.execute('UPDATE mail_audit SET email_ids = $1 WHERE id = $2', [email_id], entry)
    page = (await lena.get(f'/mail/{email_id}')).text
    told = re.findall('<strong>(.*?)</strong>', page[page.index('class="timeline"') :])
    assert told == [
        'Queued', 'Attempt 1: deferred by primary at RCPT TO in 1.3 s',
        'Attempt 2: rejected by primary at RCPT TO in 1.3 s', 'anna: sent again',
    ]  # fmt: skip
    assert f'/changes/{entry}' in page
    for words in ('451 try later', 'The relay refused it for good', 'Your receipt', 'worker@host:1',
                  'once more', 'Send again', 'Correct the recipient'):  # fmt: skip
        assert words in page
    assert (await lena.get('/mail/999999')).status_code == 404
    assert (await lena.get(f'/mail/{2**63}')).status_code == 404


async def test_content_is_read_by_operators_in_a_frame_without_network_and_written_down(
    lena, pool, desk
):
    async with pool.acquire() as conn, conn.transaction():
        email_id = await queue_email(
            conn, recipient='anna@example.com', subject='Hello', body_text='the secret link',
            body_html='<script>alert(1)</script><p>the secret link</p>',
            attachments=[Attachment('terms.pdf', 'application/pdf', b'x' * 2000)],
        )  # fmt: skip
    assert 'secret link' not in (await lena.get(f'/mail/{email_id}')).text
    assert 'terms.pdf' in (await lena.get(f'/mail/{email_id}')).text
    page = (await lena.get(f'/mail/{email_id}/content')).text
    assert '<pre class="body">the secret link</pre>' in page
    assert '<iframe class="body" sandbox=""' in page
    assert '<script>alert' not in page
    frame = await lena.get(f'/mail/{email_id}/html')
    assert frame.text.startswith('<script>alert(1)</script>')
    await pool.execute("UPDATE outbound_emails SET body_html = '<p><IFRAME src=x></iframe>'")
    nested = await lena.get(f'/mail/{email_id}/html')
    assert nested.text == '<p><no-IFRAME src=x></no-iframe>'
    policy = frame.headers['content-security-policy']
    assert policy.startswith("sandbox; default-src 'none';")
    assert frame.headers['x-frame-options'] == 'SAMEORIGIN'
    entry = await pool.fetchrow("SELECT * FROM mail_audit WHERE action = 'email.read'")
    assert (entry['actor'], entry['email_ids']) == ('lena', [email_id])


async def correct(client, email_id, recipient):
    """Fill in the recipient's form. Returns the page that asks again, or says what is wrong."""
    path = f'/mail/{email_id}/recipient'
    page = await client.get(path)
    data = dict(fields_of(page.text, path)) | {'recipient': recipient, 'reason': 'a typo'}
    return await client.post(path, data=data)


async def test_recipient_is_corrected_and_the_mail_sent_again(lena, pool, redis):
    email_id = await insert(
        pool, recipient='anna@exmaple.com, bert@example.org', status='failed', attempts=5,
        dead_reason='rejected',
        recipient_outcomes={
            'anna@exmaple.com': ['rejected', '550'], 'bert@example.org': ['accepted', '250'],
        },
    )  # fmt: skip
    path = f'/mail/{email_id}/recipient'
    asked = await correct(lena, email_id, ' anna@example.com,  bert@example.org ')
    assert 'anna@example.com, bert@example.org</strong> instead of anna@exmaple.com' in asked.text
    assert (await statuses(pool))[email_id] == 'failed'
    data = dict(fields_of(asked.text, path))
    answers = [await lena.post(path, data=data) for _ in range(2)]
    assert answers[0].headers['location'] == f'/mail/{email_id}'
    assert answers[1].status_code == 303
    row = await pool.fetchrow('SELECT * FROM outbound_emails')
    assert row['recipient'] == 'anna@example.com, bert@example.org'
    assert (row['status'], row['dead_reason'], row['max_attempts']) == ('pending', None, 6)
    assert row['recipient_outcomes'] == '{"bert@example.org": ["accepted", "250"]}' or (
        row['recipient_outcomes'] == {'bert@example.org': ['accepted', '250']}
    )
    entries = await pool.fetch("SELECT details FROM mail_audit WHERE action = 'email.readdress'")
    assert len(entries) == 1
    page = (await lena.get(f'/mail/{email_id}')).text
    assert 'lena: readdressed' in page
    assert 'a typo' in page


@pytest.mark.parametrize(
    ('recipient', 'words'),
    [('no address', 'recipient'), ('anna@example.com', 'that is its recipient already'),
     ('', 'recipient'), ('gone@example.com', 'is on the list of those who get no mail'),
     ('a@b.example\r\nBcc: c@d.example', 'recipient')],
)  # fmt: skip
async def test_recipient_that_cannot_be_used_is_refused_with_why(lena, pool, recipient, words):
    email_id = await insert(pool, status='failed', attempts=5)
    await pool.execute(
        'INSERT INTO email_suppressions (address, reason, source) VALUES '
        "('gone@example.com', 'bounced', 'operator')"
    )
    answer = await correct(lena, email_id, recipient)
    assert answer.status_code == 200
    assert words in re.search('class="troubles">(.*?)</ul>', answer.text, re.DOTALL)[1]
    assert (await statuses(pool))[email_id] == 'failed'


async def test_recipient_of_what_was_sent_or_changed_meanwhile_stays(lena, pool):
    sent = await insert(pool, status='sent', sent_at='sql:now()')
    assert 'it was sent at' in (await correct(lena, sent, 'bert@example.com')).text
    failed = await insert(pool, status='failed', attempts=5)
    page = await lena.get(f'/mail/{failed}/recipient')
    await pool.execute("UPDATE outbound_emails SET recipient = 'carla@example.com'")
    path = f'/mail/{failed}/recipient'
    data = dict(fields_of(page.text, path)) | {'recipient': 'bert@example.com'}
    answer = await lena.post(path, data=data)
    assert 'somebody has given it another recipient meanwhile' in answer.text


async def test_logged_in_person_is_told_what_is_away(lena, desk, env):
    key = form_key((await lena.get('/mail')).text)
    assert key
    nobody = 'postgresql://nobody:geheim@127.0.0.1:1/x'
    async with open_desk(env, postgres_dsn=nobody) as blind:
        client = await blind.browser()
        client.cookies.set('desk', 'x' * 43)
        answer = await client.get('/mail')
        assert answer.status_code == 503
        assert 'does not answer' in answer.text
        assert 'geheim' not in answer.text
        assert (await client.get('/')).status_code == 200
