"""docs/deployment.md, typed to the letter on a new Debian machine, from installation to its end.

The tests stand in the order of a machine's life: each goes on where the one before it ended.
"""

import json
import re

import pytest

from tests.systemd.document import COMMANDS, DEPLOYMENT
from tests.systemd.machine import Machine
from tests.systemd.mailroom import PYTHON
from tests.systemd.walker import CHECKOUT, UPSTREAM, Walker

pytestmark = pytest.mark.timeout(900)  # a chapter installs a release, twice, on whatever machine
UNITS = ('email-worker', 'email-web', 'email-ingress')
OWN_ADDRESS = '10.0.0.10'  # as the document's examples have it


def shown(machine: Machine, unit: str, what: str) -> str:
    return machine.run(f'systemctl show --value --property={what} {unit}').out.strip()


def test_new_machine_is_green_at_the_first_look_and_delivers_its_first_mail(
    machine, walker, mailroom
):
    for said in walker.steps('One server', umask='077'):
        if said.command.endswith('directories, units'):
            mailroom.open()
        if 'ops status' in said.command:
            assert (said.err, 'worker@mail' in said.out) == ('', True)
    assert re.search(r'^status +sent', said.out, re.MULTILINE), said
    assert mailroom.received('you@example.com') == {'you@example.com': 1}
    assert machine.run(f'{CHECKOUT}/deploy/install.sh --check').out.endswith('nothing to do\n')


def test_status_stays_green_when_the_services_were_asked(machine, walker):
    machine.run('email-worker ops call check_service_health --yes')
    walker.until("email-worker ops status | grep -q '^smtp_primary'")
    assert machine.run('email-worker ops status').err == ''


def test_journal_has_a_json_object_a_line_without_recipients(machine):
    lines = machine.run('journalctl --unit=email-worker --output=cat --no-pager _COMM=python').out
    events = {json.loads(line)['event'] for line in lines.splitlines()}
    assert {'worker.started', 'email.sent'} <= events
    assert 'you@example.com' not in lines


def test_web_server_serves_this_machine_and_with_a_token_others(machine, walker):
    machine.run(f'ip address add {OWN_ADDRESS}/32 dev lo')
    for said in walker.steps('Monitoring, and the HTTP API'):
        if 'health/ready' in said.command:
            assert 'email_worker_up' in machine.run('curl -fsS http://127.0.0.1:8625/metrics').out
    ask = f"curl -sS -o /dev/null -w '%{{http_code}}' http://{OWN_ADDRESS}:8625/metrics"
    assert walker.until(ask) == '401'
    token = '$(cat /etc/credstore/email-web.WEB_TOKEN)'
    assert machine.run(f'{ask} -H "Authorization: Bearer {token}"').out == '200'


def make_certificate(machine: Machine, name: str) -> None:
    machine.run(
        'openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 90 '
        f'-subj /CN={name} -keyout privkey.pem -out fullchain.pem',
        directory=CHECKOUT,
    )


def submit(machine: Machine, token: str, recipient: str) -> str:
    """Submit a message by SMTP. Returns the subject of the server's certificate."""
    said = machine.run(
        f'{PYTHON} /srv/tests/submit.py {OWN_ADDRESS} {token} {recipient} '
        '| openssl x509 -noout -subject'
    )
    return said.out.strip()


def test_ingress_takes_mail_by_tls_with_a_secret_key_that_is_renewed(machine, walker, mailroom):
    make_certificate(machine, 'first')
    steps = walker.steps('SMTP ingress')
    said = next(said for said in steps if 'ops token create' in said.command)
    token = re.search(r'\bmw_\w+|\b[\w-]{30,}', said.out)[0]
    assert submit(machine, token, 'first@example.com').endswith('first')
    make_certificate(machine, 'renewed')
    assert len(list(steps)) == 2
    assert submit(machine, token, 'renewed@example.com').endswith('renewed')
    mailroom.wait_for('first@example.com')
    mailroom.wait_for('renewed@example.com')
    assert '0 errors, 0 warnings' in machine.run('email-worker ops doctor ingress').out


@pytest.mark.parametrize('unit', UNITS)
def test_unit_can_do_nothing_that_it_has_no_use_for(machine, unit):
    probed = {
        'ExecStart=.*': f'ExecStart={PYTHON} /srv/tests/probe.py',
        'Type=.*': 'Type=oneshot',
        'Restart=.*': 'Restart=no',
        'WatchdogSec=.*': '',
    }
    changes = ' '.join(f"-e 's|^{old}$|{new}|'" for old, new in probed.items())
    machine.run(
        f'sed {changes} /usr/local/lib/systemd/system/{unit}.service '
        f'> /run/systemd/system/probe-{unit}.service\n'
        f'systemctl daemon-reload && systemctl start probe-{unit}'
    )
    said = machine.run(f'journalctl --unit=probe-{unit} --output=cat _COMM=python').out
    assert json.loads(said) == ['write its home', 'write /tmp', 'connect by TCP']


def test_units_are_no_more_exposed_than_the_document_says(machine):
    (most,) = re.findall(r'security email-worker` says (\S+) of 10', DEPLOYMENT.read_text())
    for unit in UNITS:
        told = machine.run(f'systemd-analyze security --no-pager {unit}').out.splitlines()[-1]
        assert float(re.search(r'(\d+\.\d) OK', told)[1]) <= float(most), told


def until_back(walker: Walker, before: str) -> None:
    """Wait until the worker is ready again, in another process."""
    pid = '$(systemctl show --value --property=MainPID email-worker)'
    walker.until(f'systemctl is-active email-worker && test {pid} != {before}')


def test_killed_worker_is_back_by_itself_and_its_mail_goes_out_once(machine, walker, mailroom):
    before = shown(machine, 'email-worker', 'MainPID')
    machine.run('systemctl kill --signal=KILL email-worker')
    mailroom.queue('killed#@example.com', 20)
    until_back(walker, before)
    mailroom.wait_for('killed[0-9]*@example.com', 20)


def test_worker_that_hangs_is_ended_by_the_watchdog_and_says_where(machine, walker):
    machine.run(
        'cd /run/systemd/system && mkdir email-worker.service.d\n'
        "printf '[Service]\\nWatchdogSec=2\\n' > email-worker.service.d/soon.conf\n"
        'systemctl daemon-reload && systemctl restart email-worker'
    )
    before = shown(machine, 'email-worker', 'MainPID')
    machine.run(f'kill -STOP {before}')
    until_back(walker, before)
    said = machine.run('journalctl --unit=email-worker --output=cat --no-pager').out
    assert 'Watchdog timeout (limit 2s)!' in said
    assert re.search(r'Fatal Python error: Aborted\n(.*\n)+ +File ', said)
    machine.run('rm -r /run/systemd/system/email-worker.service.d && systemctl daemon-reload')


def test_several_workers_serve_the_queues(machine, walker, mailroom):
    walker.follow('Several workers')
    # A worker that was killed is remembered for a while, with the settings that it had.
    walker.until('test -z "$(email-worker ops status 2>&1 >/dev/null)"')
    mailroom.queue('routed#@example.com', 20)
    mailroom.wait_for('routed[0-9]*@example.com', 20)


def test_update_under_load_loses_nothing_and_every_service_runs_the_new_release(
    machine, walker, mailroom
):
    machine.run(
        """sed -i 's/^version = .*/version = "9.9.9"/' pyproject.toml && git commit -qam next""",
        directory=UPSTREAM,
    )
    for said in walker.steps('Update', umask='000'):
        if 'postgresql-roles' in said.command:
            mailroom.start_load()
    queued = mailroom.stop_load()
    assert machine.run('email-worker --version').out == 'email-worker 9.9.9\n'
    assert machine.run(f'{CHECKOUT}/deploy/install.sh --check').out.endswith('nothing to do\n')
    for unit in (*UNITS, 'email-worker@1', 'email-worker@high1'):
        directory = machine.run(f'readlink /proc/{shown(machine, unit, "MainPID")}/cwd').out
        assert '/releases/9.9.9-' in directory
    assert queued > 10
    mailroom.wait_for('load.*@example.com', queued)


def test_backup_is_restored_and_nothing_of_it_goes_out_by_itself(machine, walker, mailroom):
    walker.sql(
        'INSERT INTO outbound_emails (recipient, subject, body_text, next_retry_at) '
        "VALUES ('later@example.com', 'Later', 'x', now() + interval '1 day')"
    )
    steps = walker.steps('Backup')
    next(steps)
    count = 'SELECT count(*) FROM outbound_emails'
    before = walker.sql(count)
    walker.sql("DELETE FROM outbound_emails WHERE recipient LIKE 'load%'")
    said = next(said for said in steps if 'ops failed' in said.command)
    assert walker.sql(count) == before
    assert 'restored from a backup' in said.out
    for said in steps:
        if 'queue-' in said.out:
            queued = redis(machine, 'ZCARD arq:queue')
    assert redis(machine, 'ZCARD arq:queue') == queued
    assert redis(machine, 'INFO persistence').count('aof_enabled:1') == 1
    mailroom.queue('restored@example.com')
    mailroom.wait_for('restored@example.com')
    assert not mailroom.received('later@example.com')


def redis(machine: Machine, command: str) -> str:
    url = '$(cat /etc/email-worker/operator.env | sed -n s/ARQ_REDIS_URL=//p)'
    return machine.run(f'redis-cli --no-auth-warning -u "{url}" {command}').out.strip()


def test_backup_is_restored_into_an_empty_database(machine, walker):
    machine.run(
        'runuser -u postgres -- createdb --owner=app second\n'
        "sed 's|/app$|/second|' /etc/email-worker/owner.env > /run/second.env"
    )
    walker.type(
        'DATABASE_URL=postgresql://app:PASSWORD@localhost/second '
        'deploy/restore.sh /var/backups/mail-20261122T030000Z.dump'
    )
    walker.type('email-worker --env /run/second.env migrate')
    sent = (
        "SELECT count(*) FROM outbound_emails WHERE status = 'sent' "
        "AND recipient <> 'restored@example.com'"  # later than the backup
    )
    assert walker.sql(sent, database='second') == walker.sql(sent) != '0'


def test_nothing_is_left_after_the_end(machine, walker):
    steps = walker.steps('Uninstall')
    next(steps)
    left = set(machine.run('ls /etc/email-worker').out.split())
    assert {'env', 'owner.env', 'operator.env', 'web.env', 'ingress.env'} < left
    assert len(list(steps)) == 5
    assert walker.sql("SELECT count(*) FROM pg_roles WHERE rolname LIKE 'email_%'") == '0'
    found = machine.run(
        "find / -xdev -name '*email-*' ! -path '/usr/src/*' ! -path '/srv/*' ! -path '/proc/*'; "
        "getent passwd email-worker; systemctl list-units --all --no-legend 'email-*'",
        status=None,
    )
    assert found.out == ''


def test_every_command_of_the_document_was_typed(walker):
    assert [command for command in COMMANDS if command not in walker.typed] == []
