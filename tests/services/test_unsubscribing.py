"""From the link in an e-mail to the list: a real worker, a relay, and the whole web application."""

import contextlib
import email
import email.policy

import httpx
import pytest

from db.suppressions import add, suppressed
from dev.inbox import Inbox
from mail.unsubscribe import UnsubscribeLinks
from mail_outbox.envelope import Email
from mail_outbox.outbox import queue_email, queue_emails
from reporting.servers import ServerAddresses
from tests.conftest import wait_until
from tests.services.api_desk import api_for
from tests.services.ops_desk import closed_port, ops
from tests.services.test_web_process import place_of, start_web
from web.application import close_desk, make_application
from web.hooks.routes import Hooks, ProviderKeys
from web.hooks.unsubscribe import LARGEST_FORM_BYTES
from web.questions import OVERVIEW, READINESS
from web.watch import Watch

__all__ = ['start_web']  # a fixture
BASE, SECRET = 'https://mail.example.com', 'a secret of sixteen'
LINKS = UnsubscribeLinks(BASE, (SECRET,), {'news': 'Our <b>news</b>'})
ANNA = 'Anna@example.net'
MULTIPART = 'multipart/form-data; boundary'
ONE_CLICK = {'List-Unsubscribe': 'One-Click'}
VARIABLES = {
    'UNSUBSCRIBE_URL': BASE, 'UNSUBSCRIBE_SECRET': SECRET, 'UNSUBSCRIBE_TYPES': 'news=Our news',
}  # fmt: skip


def link(address=ANNA, email_type='news', email_id=7):
    url = LINKS.url_of(Email(email_id, address, email_type=email_type))
    return url.removeprefix(BASE)


def part(disposition, content_type=b'text/plain', text=b'One-Click'):
    """Options of a POST whose multipart form has one part."""
    head = b'Content-Disposition: form-data; ' + disposition + b'\r\nContent-Type: ' + content_type
    body = b'--x\r\n' + head + b'\r\n\r\n' + text + b'\r\n--x--'
    return {'content': body, 'headers': {'Content-Type': f'{MULTIPART}=x'}}


@contextlib.asynccontextmanager
async def web_of(dsn, *, host=BASE, deadline_s=5.0, **options):
    """A client of the whole application. Redis is away, and nobody needs it here."""
    addresses = ServerAddresses(dsn, f'redis://127.0.0.1:{closed_port()}/1')
    watches = [Watch(addresses, asked) for asked in (OVERVIEW, READINESS)]
    api = api_for(addresses, deadline_s)
    hooks = Hooks(api.servers, ProviderKeys(), unsubscribe=LINKS)
    app = make_application(
        *watches, **{'token': None, 'loopback_only': True} | options, api=api, hooks=hooks
    )
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=host) as client:
        yield client
    for watch in watches:
        await watch.close()
    await close_desk(app)
    await api.close()


@pytest.fixture
async def web(database):
    async with web_of(database.dsn) as client:
        yield client


async def entries(pool):
    rows = await pool.fetch('SELECT address, email_type, source, created_by, reason '
                            'FROM email_type_suppressions')  # fmt: skip
    return [tuple(row) for row in rows]


ENTRY = ('anna@example.net', 'news', 'unsubscribe', 'recipient',
         'unsubscribed by the link of e-mail 7')  # fmt: skip


async def test_a_mail_programs_click_stops_the_type_and_no_other_mail(
    start_worker, web, pool, inbox: Inbox
):
    await start_worker(**VARIABLES).started()

    async def send(email_type, n):
        async with pool.acquire() as conn:
            email_id = await queue_email(
                conn, recipient=ANNA, subject=str(n), body_text='x', email_type=email_type,
                notify=True,
            )  # fmt: skip

        async def over():
            return await pool.fetchval(
                "SELECT status IN ('sent', 'failed') FROM outbound_emails WHERE id = $1", email_id
            )

        await wait_until(over)
        row = await pool.fetchrow(
            'SELECT status, dead_reason, last_error FROM outbound_emails WHERE id = $1', email_id
        )
        return email_id, tuple(row)

    first, state = await send('news', 1)
    assert state == ('sent', None, None)
    read = email.message_from_bytes(inbox.message(inbox.accepted()[0]), policy=email.policy.default)
    assert read['List-Unsubscribe-Post'] == 'List-Unsubscribe=One-Click'
    url = read['List-Unsubscribe'].strip('<>')
    assert url.startswith(f'{BASE}/unsubscribe/')
    answer = await web.post(url, data=ONE_CLICK)
    assert (answer.status_code, answer.text) == (200, 'unsubscribed\n')
    assert (await send('news', 2))[1] == (
        'failed', 'suppressed',
        f'suppressed: unsubscribed by the link of e-mail {first} (of the type news)',
    )  # fmt: skip
    for n, other in enumerate(('password-reset', None)):
        _, state = await send(other, n)
        assert state == ('sent', None, None)
    others = [inbox.message(entry) for entry in inbox.accepted()[1:]]
    assert [b'List-Unsubscribe' in message for message in others] == [False, False]


async def test_template_has_the_link_and_previews_one(start_worker, env, pool, inbox: Inbox):
    await start_worker(**VARIABLES).started()
    template_id = await pool.fetchval(
        "INSERT INTO email_templates (name, subject, body_text) VALUES ('n', 'News', $1) "
        'RETURNING id',
        'No more: {{ unsubscribe_url }}',
    )
    async with pool.acquire() as conn:
        emails = [
            {'recipient': ANNA, 'template_id': template_id, 'email_type': email_type}
            for email_type in ('news', 'receipt')
        ]
        ids = await queue_emails(conn, emails)

    async def over():
        return await pool.fetchval(
            "SELECT count(*) = 2 FROM outbound_emails WHERE status IN ('sent', 'failed')"
        )

    await wait_until(over)
    [entry] = inbox.accepted()
    read = email.message_from_bytes(inbox.message(entry), policy=email.policy.default)
    assert read.get_content().strip() == f'No more: {read["List-Unsubscribe"].strip("<>")}'
    error = await pool.fetchval('SELECT last_error FROM outbound_emails WHERE id = $1', ids[1])
    assert "'unsubscribe_url' is undefined" in error


@pytest.mark.parametrize(
    'form', [{'data': ONE_CLICK}, {'files': {'List-Unsubscribe': (None, 'One-Click')}}]
)
async def test_click_in_either_form_counts_once_however_often_it_comes(web, pool, form):
    for _ in range(3):
        answer = await web.post(link(), **form)
        assert answer.status_code == 200
        assert 'location' not in answer.headers
    assert await entries(pool) == [ENTRY]
    audit = await pool.fetch('SELECT actor, origin, action, email_ids, details FROM mail_audit')
    assert [tuple(row)[:4] for row in audit] == [('recipient', 'one-click', 'suppression.add', [7])]
    assert audit[0]['details']['name'] == 'anna@example.net'
    assert await suppressed(pool, [ANNA], 'news') != {}
    assert await suppressed(pool, [ANNA], 'receipt') == {}


async def test_looking_changes_nothing_and_the_page_has_a_form_and_no_markup_of_values(web, pool):
    for method in ('GET', 'HEAD', 'GET'):
        answer = await web.request(method, link())
        assert answer.status_code == 200
        assert answer.headers['x-robots-tag'] == 'noindex, nofollow'
        assert answer.headers['cache-control'] == 'no-store'
        assert answer.headers['referrer-policy'] == 'no-referrer'
        assert 'set-cookie' not in answer.headers
    assert await entries(pool) == []
    assert 'Our &lt;b&gt;news&lt;/b&gt;' in answer.text
    assert ANNA in answer.text
    assert 'E-mail desk' not in answer.text
    assert await pool.fetchval('SELECT count(*) FROM mail_audit') == 0
    for name, kind in (('page.css', 'text/css'), ('icon.svg', 'image/svg')):
        beside = await web.get(f'/unsubscribe/{name}')
        assert beside.status_code == 200
        assert beside.headers['content-type'].startswith(kind)


async def test_a_person_unsubscribes_and_takes_it_back(web, pool):
    page = await web.post(link(), data={'action': 'unsubscribe'})
    assert 'You get no more e-mails of this kind' in page.text
    assert 'Subscribe again' in (await web.get(link())).text
    page = await web.post(link(), data={'action': 'subscribe'})
    assert 'Subscribed again' in page.text
    await web.post(link(), data={'action': 'subscribe'})
    assert await entries(pool) == []
    actions = await pool.fetch('SELECT origin, action FROM mail_audit ORDER BY id')
    assert [tuple(row) for row in actions] == [
        ('page', 'suppression.add'), ('page', 'suppression.remove'),
    ]  # fmt: skip


async def test_what_an_operator_decided_is_neither_shown_in_detail_nor_taken_back(web, pool):
    await add(pool, ['anna@example.net'], reason='a court says so', email_type='news')
    for data in ({'action': 'subscribe'}, {'action': 'unsubscribe'}, ONE_CLICK):
        assert (await web.post(link(), data=data)).status_code == 200
    page = await web.get(link())
    assert 'You get no more e-mails' in page.text
    assert 'court' not in page.text
    assert '<form' not in page.text
    [(_, _, source, *_)] = await entries(pool)
    assert source == 'operator'


async def test_an_entry_for_a_time_becomes_one_for_good(web, pool):
    await pool.execute(
        'INSERT INTO email_type_suppressions (address, email_type, reason, expires_at) VALUES '
        "('anna@example.net', 'news', 'holiday', now() + interval '1 hour')"
    )
    await web.post(link(), data=ONE_CLICK)
    assert await entries(pool) == [ENTRY]
    assert await pool.fetchval('SELECT expires_at FROM email_type_suppressions') is None


async def test_links_that_nobody_signed_tell_nothing_and_change_nothing(web, pool):
    other = UnsubscribeLinks(BASE, ('another secret ..',), LINKS.types)
    forged = other.url_of(Email(7, ANNA, email_type='news')).removeprefix(BASE)
    texts = set()
    for path in (forged, link()[:-1], link() + 'A', '/unsubscribe/x', '/unsubscribe/' + 'A' * 5000,
                 '/unsubscribe/%00', '/unsubscribe/%E2%82%AC' + 'A' * 40):  # fmt: skip
        for answer in (await web.get(path), await web.post(path, data=ONE_CLICK)):
            assert answer.status_code == 404, path
            assert ANNA.lower() not in answer.text.lower()
            texts.add(answer.text)
    assert len(texts) == 1
    assert await entries(pool) == []


@pytest.mark.parametrize(
    ('options', 'status'),
    [
        ({'content': b''}, 400),
        ({'data': {'List-Unsubscribe': 'Two-Clicks'}}, 400),
        ({'data': {'action': 'delete'}}, 400),
        ({'content': b'\xff\xfe', 'headers': {'Content-Type': f'{MULTIPART}=x'}}, 400),
        ({'content': b'x', 'headers': {'Content-Type': f'{MULTIPART}="'}}, 400),
        (part(b'name=x', b'text/plain; charset*=x', b'\xff'), 400),
        (part(b'name*=x; name*1=y'), 400),
        ({'content': b'&'.join([b'a=b'] * 1000)}, 400),
        ({'content': b'x' * (LARGEST_FORM_BYTES + 1)}, 413),
    ],
    ids=['empty', 'other', 'action', 'bytes', 'boundary', 'charset', 'pieces', 'many', 'huge'],
)  # fmt: skip
async def test_what_is_no_click_of_ours_is_refused_and_changes_nothing(web, pool, options, status):
    answer = await web.post(link(), **options)
    assert answer.status_code == status, answer.text
    assert 'E-mail desk' not in answer.text
    assert await entries(pool) == []


async def test_body_that_grows_beyond_the_limit_without_saying_so_is_refused(web, pool):
    async def pieces():
        for _ in range(LARGEST_FORM_BYTES):
            yield b'List-Unsubscribe=One-Click&'

    assert (await web.post(link(), content=pieces())).status_code == 413
    assert await entries(pool) == []


async def test_other_methods_and_paths_are_refused_without_a_word_of_the_desk(web):
    for method, path, status in (
        ('PUT', link(), 405), ('DELETE', link(), 405), ('OPTIONS', link(), 405),
        ('GET', '/unsubscribe/', 404), ('GET', f'{link()}/x', 404),
    ):  # fmt: skip
        answer = await web.request(method, path, headers={'Accept': 'text/html'})
        assert answer.status_code == status
        assert 'desk' not in answer.text


async def test_a_stranger_reaches_the_links_of_a_loopback_server_and_nothing_else(web):
    assert (await web.get('/login')).status_code == 421
    assert (await web.get(link())).status_code == 200


async def test_who_was_erased_and_clicks_again_is_not_written_down_anew(web, pool, env):
    await web.post(link(), data=ONE_CLICK)
    await pool.execute('DELETE FROM mail_audit')
    await pool.execute(
        "UPDATE email_type_suppressions SET address = 'sha256-' || "
        "encode(sha256('anna@example.net'), 'hex') || '@erased.invalid'"
    )
    await web.post(link(), data=ONE_CLICK)
    [(address, *_)] = await entries(pool)
    assert address.endswith('@erased.invalid')
    assert await pool.fetchval('SELECT count(*) FROM mail_audit') == 0
    assert 'Subscribed again' in (await web.post(link(), data={'action': 'subscribe'})).text
    assert await entries(pool) == []


async def test_without_postgresql_it_says_later_and_to_come_back(stack):
    dsn = f'postgresql://nobody@127.0.0.1:{closed_port()}/app'
    async with web_of(dsn) as web:
        for answer in (
            await web.post(link(), data=ONE_CLICK), await web.get(link()),
        ):  # fmt: skip
            assert answer.status_code == 503
            assert answer.headers['retry-after'] == '30'
            assert 'Try again in a minute' in answer.text
        assert (await web.get('/unsubscribe/forged')).status_code == 404  # needs no server


async def test_doctor_clicks_on_a_link_and_says_what_recipients_would_meet(env, start_web, pool):
    web = start_web(WEB_PORT='0', UNSUBSCRIBE_SECRET=SECRET)
    place = place_of(await web.hears('READY=1'))
    variables = env | VARIABLES | {'UNSUBSCRIBE_URL': place}

    async def found(**more):
        given = await ops(variables | more, 'doctor', 'unsubscribe', '--json')
        return [(row['severity'], row['what']) for row in given.document['findings']]

    assert await found() == []
    [(severity, what)] = await found(UNSUBSCRIBE_SECRET='another secret ..')
    assert severity == 'error'
    assert what.startswith(f'{place}/unsubscribe/ does not know the links')
    [(severity, what)] = await found(UNSUBSCRIBE_URL=f'{place}/elsewhere')
    assert (severity, 'is not the page of this program' in what) == ('error', True)
    [(severity, what)] = await found(UNSUBSCRIBE_URL=f'http://127.0.0.1:{closed_port()}')
    assert (severity, 'cannot be reached' in what) == ('error', True)
    assert await found(UNSUBSCRIBE_TYPES='') == []
    assert await entries(pool) == []
    assert await pool.fetchval('SELECT count(*) FROM mail_audit') == 0
    reads = start_web(
        WEB_PORT='0', UNSUBSCRIBE_SECRET=SECRET,
        DATABASE_URL=env['DATABASE_URL'] + '?default_transaction_read_only=on',
    )  # fmt: skip
    place = place_of(await reads.hears('READY=1'))
    [(severity, what)] = await found(UNSUBSCRIBE_URL=place)
    assert (severity, what) == ('warning', f'{place}/unsubscribe/ answers 503 to a click')
