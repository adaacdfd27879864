"""Templates kept in files: pushed, sent by a worker in the e-mail's locale, previewed, removed."""

import asyncio
import json
import re
from pathlib import Path

import pytest

from actions.safety import RequestError
from actions.template_preview import preview_template, send_test
from actions.templates import push_templates, read_template_versions, remove_pushed
from jobs.send_email import send_email
from reporting.servers import ServerAddresses, Servers
from tests.conftest import wait_until
from tests.services.adopted import adopt, create_legacy
from tests.services.ops_desk import rendered, run
from tests.services.test_send_email_content import only_message

LAYOUT = (
    '<html><head><style>p { color: red } @media print { p { color: black } }</style></head>'
    '<body>{% block body %}{% endblock %}{% include "_shared/foot.html" %}</body></html>'
)
WELCOME = {
    'templates.toml': 'default_locale = "en"\ntime_zone = "Europe/Vienna"\n',
    '_shared/layout.html': LAYOUT,
    '_shared/foot.html': '<p>{{ shop }}</p>',
    'welcome/subject.txt': 'Hello {{ name }}\n',
    'welcome/subject.de.txt': 'Hallo {{ name }}\n',
    'welcome/body.html': '{% extends "_shared/layout.html" %}{% block body %}<p>Hello {{ name }}, '
    '{{ price|currency("EUR") }} on {{ at|datetime }}</p>{% endblock %}',
    'welcome/body.de.html': '{% extends "_shared/layout.html" %}{% block body %}<p>Hallo {{ name }}'
    ', {{ price|currency("EUR") }} am {{ at|date }}, '
    '{{ n|plural(one="# Tag", other="# Tage") }}</p>'
    '{% endblock %}',
    'welcome/body.de-AT.html': '<p>Servus {{ name }} {{ price|currency("EUR") }}</p>',
    'welcome/sample.json': json.dumps({
        'name': 'Anna', 'price': 1234.5, 'at': '2026-08-01T12:00:00Z', 'n': 2, 'shop': 'Shop',
    }),
}  # fmt: skip
DATA = json.loads(WELCOME['welcome/sample.json'])


@pytest.fixture
async def servers(env):
    servers = Servers(ServerAddresses(env['DATABASE_URL'], env['ARQ_REDIS_URL']))
    yield servers
    await servers.close()


@pytest.fixture
async def template_id(servers):
    done = await push_templates(servers, WELCOME)
    return int(done.templates[0].id)


async def test_what_is_pushed_is_sent_in_the_locale_of_each_e_mail(ctx, template_id, queue, inbox):
    said = {}
    for locale in ('de-CH', 'de_AT', 'en-GB', 'fr', None):
        address = f'{locale}@example.com'
        email_id = await queue(
            address, subject=None, body_text=None, template_id=template_id, template_data=DATA,
            locale=locale,
        )  # fmt: skip
        assert (await send_email(ctx, email_id))['status'] == 'sent'
        message = only_message(inbox, address)
        html = message.get_body(('html',)).get_content().replace('\xa0', ' ').replace('&nbsp;', ' ')
        said[locale] = message['subject'], html, message.get_body(('plain',)).get_content()
    assert said['de-CH'][0] == 'Hallo Anna'
    assert 'CHF' not in said['de-CH'][1]
    swiss = "Hallo Anna, EUR 1'234.50 am 01.08.2026, 2 Tage"
    assert f'<p style="color: red;">{swiss}</p>' in said['de-CH'][1]
    assert '@media print' in said['de-CH'][1]
    assert said['de-CH'][2].startswith('Hallo Anna, ')
    assert said['de_AT'][:2] == ('Hallo Anna', '<p>Servus Anna € 1.234,50</p>\r\n')
    assert 'Hello Anna, €1,234.50 on 1 Aug 2026, 14:00:00' in said['en-GB'][1]
    assert said['fr'] == said[None]
    assert 'Aug 1, 2026' in said['fr'][1]


async def test_push_of_the_same_makes_no_version_and_a_change_of_the_layout_makes_one(
    servers, template_id, pool
):
    again = await push_templates(servers, WELCOME)
    assert [(t.version, t.is_new_version) for t in again.templates] == [(1, False)]
    would = await push_templates(
        servers, WELCOME | {'_shared/foot.html': '<b>{{ shop }}</b>'}, dry_run=True
    )
    assert [(t.version, t.is_new_version) for t in would.templates] == [(2, True)]
    assert len((await read_template_versions(servers, 'welcome'))['versions']) == 1
    unused = await push_templates(servers, WELCOME | {'_shared/other.html': 'x'})
    assert [t.is_new_version for t in unused.templates] == [False]
    done = await push_templates(servers, WELCOME | {'_shared/foot.html': '<b>{{ shop }}</b>'})
    assert [(t.id, t.version) for t in done.templates] == [(str(template_id), 2)]


async def test_queued_e_mail_gets_the_newest_version_unless_it_names_one(
    ctx, servers, template_id, queue, row, inbox
):
    parts = {'template_id': template_id, 'template_data': DATA}
    newest = await queue('newest@example.com', **parts)
    pinned = await queue('pinned@example.com', template_version=1, **parts)
    lost = await queue('lost@example.com', template_version=7, **parts)
    await push_templates(servers, WELCOME | {'welcome/subject.txt': 'Changed {{ name }}'})
    for email_id in (newest, pinned, lost):
        await send_email(ctx, email_id)
    assert only_message(inbox, 'newest@example.com')['subject'] == 'Changed Anna'
    assert only_message(inbox, 'pinned@example.com')['subject'] == 'Hello Anna'
    stored = await row(lost)
    assert (stored['dead_reason'], stored['last_error']) == (
        'render', f'template {template_id} has no version 7'
    )  # fmt: skip


@pytest.mark.parametrize(
    ('changed', 'told'),
    [
        ({'welcome/body.html': '<p>{{ nobody }}</p>'}, "welcome/body.html line 1: 'nobody' is in"),
        ({'welcome/body.de.html': '\n<p>{% if x %}'}, 'body.de.html line 2: Unexpected end'),
        ({'_shared/foot.html': '\n\n{{ shop.street }}'}, 'foot.html line 3: UndefinedError'),
        ({'welcome/body.html': '{% include "_shared/nope.html" %}'}, 'there is no file'),
        ({'welcome/body.html': '{% include "/etc/passwd" %}'}, 'there is no file'),
        ({'welcome/body.html': '{% include name %}'}, 'line 1: write the file name out'),
        ({'welcome/subject.txt': 'a\nb'}, 'subject.txt line 2: a subject is one line'),
        ({'_shared/foot.html': '{% include "_shared/layout.html" %}'}, 'RecursionError'),
        ({'welcome/body.html': '{{ name|currency("EUR") }}'}, "'Anna' is no number"),
        ({'welcome/body.html': '{{ "x"|number.__globals__ }}'}, 'No filter named'),
        ({'_shared/foot.html': '{{ shop.__class__.__mro__ }}'}, 'SecurityError'),
        ({'welcome/body.html': '{{ self.__init__.__globals__ }}'}, 'SecurityError|is undefined'),
        (
            {'welcome/body.html': '{% for a in range(50000) %}{% for b in range(50000) %}'
             '{% endfor %}{% endfor %}'},
            'processor time',
        ),
        ({'welcome/sample.json': '[1]'}, 'is no JSON object'),
        ({'welcome/sample.json': '{'}, 'sample.json: it is no JSON'),
        ({'welcome/body.x y.html': ''}, None),
        ({'welcome/body.toolonglanguage.html': 'x'}, 'is no language tag'),
        ({'welcome/body.mjml': '<mjml></mjml>'}, 'body.html beside body.mjml'),
        ({'templates.toml': 'time_zone = "Mars/Base"'}, 'templates.toml'),
        ({'templates.toml': 'inline_css = 1'}, 'inline_css must be'),
        ({'templates.toml': 'other = 1'}, 'templates.toml'),
        ({'wel come/body.html': 'x'}, 'is no name of a template'),
        ({'big/body.html': 'x' * 300_000}, 'at most 262144 are taken'),
    ],
)  # fmt: skip
async def test_push_names_the_file_and_the_line_and_stores_nothing(servers, pool, changed, told):
    if told is None:
        assert (await push_templates(servers, WELCOME | changed)).templates[0].version == 1
        return
    with pytest.raises(RequestError) as caught:
        await push_templates(servers, WELCOME | changed)
    assert re.search(told, caught.value.problem.what), caught.value.problem.what
    assert await pool.fetchval('SELECT count(*) FROM email_template_versions') == 0


async def test_row_that_was_there_is_not_changed_and_counts_again_after_rm(
    ctx, servers, pool, queue, inbox
):
    template_id = await pool.fetchval(
        "INSERT INTO email_templates (name, subject, body_text) VALUES ('welcome', 'Old', 'old') "
        'RETURNING id'
    )
    done = await push_templates(servers, WELCOME)
    assert done.templates[0].id == str(template_id)
    assert await pool.fetchval('SELECT subject FROM email_templates') == 'Old'
    email_id = await queue(template_id=template_id, template_data=DATA)
    with pytest.raises(RequestError, match='1 e-mails that wait want it'):
        await remove_pushed(servers, 'welcome')
    gone = await remove_pushed(servers, str(template_id), force=True)
    assert (gone.waiting, gone.row_removed) == (1, False)
    await send_email(ctx, email_id)
    assert only_message(inbox, 'anna@example.com')['subject'] == 'Old'


async def test_template_of_an_adopted_table_gets_its_name_for_id(conn, empty_database):
    servers = Servers(ServerAddresses(empty_database.dsn, ''))
    try:
        await create_legacy(conn, 'enum')
        await adopt(conn)
        done = await push_templates(servers, WELCOME)
        assert [t.id for t in done.templates] == ['welcome']
        assert await conn.fetchval('SELECT name FROM email_templates') == 'welcome'
        shown = await preview_template(servers, 'welcome', locale='de')
        assert shown.subject == 'Hallo Anna'
        assert (await remove_pushed(servers, 'welcome')).row_removed
    finally:
        await servers.close()


async def test_two_pushes_at_once_make_one_template(servers, pool):
    done = await asyncio.gather(*(push_templates(servers, WELCOME) for _ in range(2)))
    assert len({push.templates[0].id for push in done}) == 1
    assert await pool.fetchval('SELECT count(*) FROM email_template_versions') == 1


async def test_mjml_becomes_html(servers):
    files = {
        'news/subject.txt': 'News',
        'news/body.mjml': '<mjml><mj-body>{% for n in names %}<mj-section><mj-column>'
        '<mj-text>Hi {{ n }}</mj-text></mj-column></mj-section>{% endfor %}</mj-body></mjml>',
        'news/sample.json': '{"names": ["Anna", "<Ben>"]}',
    }
    await push_templates(servers, files)
    shown = await preview_template(servers, 'news')
    assert 'Hi Anna' in shown.html
    assert '<table' in shown.html
    assert 'Hi &lt;Ben&gt;' in shown.html
    assert 'Hi Anna' in shown.text
    with pytest.raises(RequestError, match=r'news/body\.mjml: MJML'):
        await push_templates(servers, files | {'news/body.mjml': '<mjml><mj-nope>'})


async def test_test_send_comes_through_the_relay(env, servers, template_id, start_worker, inbox):
    await start_worker().started()
    assert await send_test(servers, 'welcome', 'qa@example.com', dry_run=True) is None
    email_id = await send_test(servers, 'welcome', 'qa@example.com', locale='de')
    await wait_until(lambda: inbox.accepted('qa@example.com'))
    assert email_id
    assert only_message(inbox, 'qa@example.com')['subject'] == 'Hallo Anna'
    with pytest.raises(RequestError, match='recipient'):
        await send_test(servers, 'welcome', 'no address')


@pytest.mark.parametrize(('name', 'to'), [('body.txt', '/etc/passwd'), ('_shared', '/etc')])
async def test_links_are_refused_by_their_name(env, tmp_path: Path, name: str, to: str):
    (tmp_path / 'a').mkdir()
    (tmp_path / 'a' / 'subject.txt').write_text('Hello')
    (tmp_path / 'a' / '.#lock.txt').symlink_to('an editor wrote it')
    link = tmp_path / 'a' / name
    link.symlink_to(to)
    given = await run(env, 'template', 'push', str(tmp_path), '--dry-run')
    assert [problem.what for problem in given.problems] == [f'{link} is a symbolic link']
    assert given.exit_status == 2


async def test_commands_push_list_show_preview_and_remove(env, pool, tmp_path: Path):
    for path, text in WELCOME.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text)
    (tmp_path / '.git').mkdir()
    (tmp_path / '.git' / 'body.html').write_text('{{')
    (tmp_path / '_shared' / 'logo.png').write_bytes(b'\x89PNG\xff')

    async def typed(*arguments: str) -> str:
        given = await run(env, 'template', *arguments)
        shown = rendered('template', given) if given.document else ''
        return shown + ' '.join(p.what for p in given.problems)

    assert 'version 1 would be new' in await typed('push', str(tmp_path), '--dry-run')
    assert 'version 1 new (default, de, de-at)' in await typed('push', str(tmp_path), '--yes')
    assert 'version 1 unchanged' in await typed('push', str(tmp_path), '--yes')
    assert 'welcome' in await typed('ls')
    assert '"name": "Anna"' in await typed('show', 'welcome')
    assert 'Hallo Anna' in await typed('preview', 'welcome', '--locale', 'de')
    (tmp_path / 'data.json').write_text(json.dumps(DATA | {'name': 'Berta'}))
    out = tmp_path / 'out'
    told = await typed(
        'preview', 'welcome', '--data', str(tmp_path / 'data.json'), '--output', str(out)
    )
    assert 'body.html' in told
    assert 'Hello Berta' in (out / 'body.html').read_text()
    assert (out / 'body.txt').read_text().startswith('Hello Berta')
    assert 'is no language tag' in await typed('preview', 'welcome', '--locale', '../../etc')
    assert 'there is no template' in await typed('preview', 'nope')
    assert 'no version 9' in await typed('preview', 'welcome', '--template-version', '9')
    assert 'is queued' in await typed('test', 'welcome', 'qa@example.com', '--yes')
    assert '1 e-mails that wait' in await typed('rm', 'welcome', '--yes')
    assert 'are removed' in await typed('rm', 'welcome', '--yes', '--force')
    assert await pool.fetchval('SELECT count(*) FROM email_templates') == 0
    assert await pool.fetchval("SELECT count(*) FROM mail_audit WHERE action = 'ops template'") >= 4


@pytest.mark.parametrize(
    'locale', ['C', 'de_DE.UTF-8@euro', '', '../../etc/passwd', 'x' * 50_000, 'DE']
)
async def test_odd_locale_of_a_row_serves_as_far_as_it_is_one(
    ctx, pool, template_id, queue, inbox, locale
):
    email_id = await queue('odd@example.com', template_id=template_id, template_data=DATA)
    await pool.execute('UPDATE outbound_emails SET locale = $1', locale)
    assert (await send_email(ctx, email_id))['status'] == 'sent'
    wanted = 'Hallo Anna' if locale[:2].lower() == 'de' else 'Hello Anna'
    assert only_message(inbox, 'odd@example.com')['subject'] == wanted


async def test_version_that_somebody_has_spoilt_is_dead_and_not_tried_for_ever(
    ctx, pool, template_id, queue, row
):
    await pool.execute('UPDATE email_template_contents SET content = \'{"files": 1}\'')
    email_id = await queue(template_id=template_id, template_data=DATA)
    await send_email(ctx, email_id)
    assert (await row(email_id))['dead_reason'] == 'render'
