"""`ops config check`: every setting, where it is from, and all that is wrong, at once."""

import os

from tests.services.ops_desk import closed_port, ops


def found(checked, severity):
    return [row['what'] for row in checked.document['findings'] if row['severity'] == severity]


async def test_settings_that_are_fine_are_listed_with_their_place_and_without_secrets(env):
    secret = env['SMTP_PASSWORD']
    checked = await ops(env, 'config', 'check', '--json')
    assert (checked.status, checked.document['connected']) == (0, False)
    listed = {row['variable']: row for row in checked.document['settings']}
    assert listed['SMTP_HOST']['from'] == 'environment'
    assert 'WEB_PORT' not in listed  # a default
    assert secret not in checked.out
    everything = await ops(env, 'config', 'check', '--all', '--json')
    assert {'variable': 'WEB_PORT', 'value': 8625, 'read_as': 'WEB_PORT', 'from': 'default'} in (
        everything.document['settings']
    )


async def test_everything_wrong_is_told_at_once_and_never_a_value(env):
    wrong = env | {'SMTP_PORT': 'hunter2', 'DB_PORT': '-1', 'SMTP_CA_FILE': '/nowhere.pem'}
    checked = await ops(wrong, 'config', 'check', '--json')
    assert checked.status == 1
    assert [what.partition(':')[0] for what in sorted(found(checked, 'error'))] == [
        'DB_PORT', 'SMTP_CA_FILE', 'SMTP_PORT',
    ]  # fmt: skip
    assert 'hunter2' not in checked.out + checked.err
    other = await ops(wrong, 'status')
    assert other.status == 1
    assert '(and 2 more: see `python -m ops config check`)' in other.err


async def test_name_that_is_nearly_one_of_ours_is_named_and_others_are_let_be(env):
    checked = await ops(env | {'SMTP_HSOT': 'x', 'MY_APP_PORT': '1'}, 'config', 'check', '--json')
    assert found(checked, 'warning') == ['SMTP_HSOT (environment) is no setting']
    (row,) = (row for row in checked.document['findings'] if row['severity'] == 'warning')
    assert row['remedy'] == 'did you mean SMTP_HOST?'
    assert checked.status == 0


async def test_each_place_that_a_setting_can_be_from_is_told(env, tmp_path):
    (tmp_path / 'password').write_text('secret\n')
    (tmp_path / 'WEB_TOKEN').write_text('a token of sixteen letters\n')
    given = {name: value for name, value in env.items() if name != 'SMTP_PASSWORD'}
    given |= {
        'SMTP_PASSWORD_FILE': str(tmp_path / 'password'), 'CREDENTIALS_DIRECTORY': str(tmp_path),
        'CELERY_BROKER_URL': env['ARQ_REDIS_URL'],
    }  # fmt: skip
    del given['ARQ_REDIS_URL']
    checked = await ops(given, 'config', 'check', '--json')
    listed = {row['variable']: row for row in checked.document['settings']}
    assert listed['SMTP_PASSWORD']['from'] == str(tmp_path / 'password')
    assert listed['SMTP_PASSWORD']['read_as'] == 'SMTP_PASSWORD_FILE'
    assert listed['WEB_TOKEN']['from'] == 'credential'
    assert listed['ARQ_REDIS_URL']['read_as'] == 'CELERY_BROKER_URL'


async def test_file_that_cannot_be_read_is_named(env, tmp_path):
    checked = await ops(env | {'SMTP_PASSWORD_FILE': '/nowhere'}, 'config', 'check')
    assert checked.status == 1
    assert '/nowhere' in checked.out
    keys = '[{"domain": "example.com", "selector": "s", "key_file": "/nowhere.pem"}]'
    checked = await ops(env | {'DKIM_KEYS': keys}, 'config', 'check', '--json')
    assert any('/nowhere.pem' in what for what in found(checked, 'error')), checked.out
    os.mkfifo(tmp_path / 'key.pem', 0o600)
    keys = keys.replace('/nowhere.pem', str(tmp_path / 'key.pem'))
    checked = await ops(env | {'DKIM_KEYS': keys}, 'config', 'check', '--json')
    (refused,) = found(checked, 'error')
    assert refused == (
        f'DKIM_KEYS: example.com (s): {tmp_path / "key.pem"}: cannot be read: it is a pipe'
    )  # fmt: skip


async def test_switch_that_keeps_mail_from_leaving_is_noted(env):
    checked = await ops(env | {'DRY_RUN': 'true'}, 'config', 'check', '--json')
    assert (
        'DRY_RUN is on: messages are made and handed to no relay' in found(checked, 'note')
    )  # fmt: skip
    assert checked.status == 0


async def test_servers_are_dialled_only_with_connect(env):
    away = env | {'SMTP_PORT': str(closed_port())}
    assert (await ops(away, 'config', 'check')).status == 0
    dialled = await ops(away, 'config', 'check', '--connect', '--json')
    assert dialled.status == 1
    assert dialled.document['checks']['relays'] == 'error'
    assert {'postgresql', 'redis', 'content'} <= dialled.document['checks'].keys()
