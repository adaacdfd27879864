import dataclasses
import os

import pytest

from configuration.relays import relay_options
from fleet.registry import record_from
from ops.doctor import times_of
from reporting import judge, judge_fleet
from reporting.checks import clocks, machine, outbox, postgresql, redis_server, relays, timeouts
from reporting.checks.finding import Severity, from_judge
from reporting.overview import as_documents
from settings import Settings

ERROR, WARNING, NOTE = Severity.ERROR, Severity.WARNING, Severity.NOTE

INFO = {'redis_version': '7.0.15', 'role': 'master', 'maxmemory': 0,
    'maxmemory_policy': 'noeviction', 'used_memory': 1,
        'aof_enabled': 1, 'aof_last_write_status': 'ok', 'rdb_last_bgsave_status': 'ok',
        'run_id': 'a'}  # fmt: skip
CONFIG = {'notify-keyspace-events': 'Kz', 'save': ''}
REDIS = redis_server.RedisFacts(INFO, CONFIG, 1, INFO | {'run_id': 'b'}, 0)

SERVER = {'version': 150004, 'is_standby': False, 'fsync': True, 'full_page_writes': True,
    'synchronous_commit': 'on',
          'autovacuum': True, 'max_connections': 100, 'connections': 12, 'oldest_xid_age': 1000,
          'oldest_transaction_s': 3.0, 'idle_slot': None}  # fmt: skip
NO_PAUSES = {'due': 0, 'others_due': 0, 'oldest_due_s': None, 'oldest_other_s': None}
OUTBOX = dict.fromkeys(('due', 'stuck', 'held', 'past_expiry', 'dead'), 0) | {'oldest_due_s': None}
RELAY = relays.RelayFacts(
    'primary', 'smtp.example.com', 587, 'user', tls=True, expires_at=1e9, size_bytes=0
)
WHERE = 'the relay primary (smtp.example.com:587)'
RECORD = {
    'worker': 'w1',
    'queue': 'arq:queue',
    'started_at': '',
    'emails': [],
    'outcomes': {},
    'rss_bytes': 1,
}


def told(findings):
    return [(finding.severity, finding.what) for finding in findings]


def one(findings):
    (finding,) = findings
    assert finding.remedy
    return finding.severity, finding.what


def judged_attempts(counts):
    return map(from_judge, judge.judge_attempts(outbox.last_hour(counts)))


def judged_duties(duties):
    return map(from_judge, judge.judge_duties(duties, is_worked=True))


def judged_workers(records):
    return map(from_judge, judge_fleet.judge_workers(as_documents(records)))


def make_settings(**values):
    return Settings(_env_file=None, **values)


def test_servers_as_they_should_be_are_nothing_to_talk_about():
    assert told(redis_server.judge_redis(REDIS)) == []
    assert told(postgresql.judge_server(SERVER)) == []
    assert list(judge.judge_outbox(OUTBOX, NO_PAUSES, 0, is_worked=True)) == []
    assert told(relays.judge_relay(RELAY, 1000, now=1e9 - 90 * 86400)) == []
    assert told(timeouts.judge_times(times_of(make_settings()))) == []
    assert told(clocks.judge_clocks({'PostgreSQL': 0.9, 'Redis': -0.9})) == []
    assert (
        told(
            machine.judge_disks(
                [machine.Disk('/', 100 * 2**30, 50 * 2**30), machine.Disk('/big', 2**44, 2**40)]
            )
        )
        == []
    )


@pytest.mark.parametrize(
    ('info', 'severity', 'what'),
    [
        (
            {'maxmemory_policy': 'allkeys-lru', 'maxmemory': 9},
            ERROR,
            'maxmemory-policy is allkeys-lru: when memory',
        ),
        (
            {'maxmemory_policy': 'volatile-ttl', 'maxmemory': 9},
            ERROR,
            'maxmemory-policy is volatile-ttl: when memory',
        ),
        (
            {'maxmemory_policy': 'allkeys-lfu'},
            WARNING,
            'maxmemory-policy is allkeys-lfu: when memory is full, jobs',
        ),
        (
            {'maxmemory': 100, 'used_memory': 95},
            ERROR,
            'memory is full: 0 MiB of 0 MiB; Redis refuses new jobs',
        ),
        (
            {'aof_enabled': 0},
            WARNING,
            'nothing is written to disk: a restart of Redis loses the waiting jobs',
        ),
        ({'aof_last_write_status': 'err'}, ERROR, 'the last append-only file could not be written'),
        ({'rdb_last_bgsave_status': 'err'}, ERROR, 'the last snapshot could not be written'),
        ({'role': 'slave'}, ERROR, 'the queue is a read-only replica'),
        ({'redis_version': '5.0.14'}, ERROR, 'Redis 5.0.14 is too old'),
        ({'redis_version': 'unstable'}, None, None),
    ],
)
def test_redis_that_loses_or_refuses_jobs(info, severity, what):
    findings = list(redis_server.judge_redis(dataclasses.replace(REDIS, info=INFO | info)))
    if severity is None:
        assert [f for f in findings if f.severity is not ERROR] == []
        return
    found, text = one(findings)
    assert (found, text.startswith(what)) == (severity, True), text


@pytest.mark.parametrize(
    ('changes', 'severity', 'what'),
    [
        (
            {'info': INFO | {'aof_enabled': 0}, 'config': CONFIG | {'save': '60 1'}},
            NOTE,
            'there is no append-only file',
        ),
        (
            {'config': CONFIG | {'notify-keyspace-events': ''}},
            WARNING,
            'keyspace notifications are off',
        ),
        (
            {'config': CONFIG | {'notify-keyspace-events': 'Ex'}},
            WARNING,
            'keyspace notifications are off',
        ),
        ({'config': {}}, NOTE, 'CONFIG is not permitted'),
        ({'info': {}}, NOTE, 'INFO is not permitted'),
        (
            {'cache_info': None, 'cache_error': 'refused'},
            WARNING,
            'the cache (REDIS_URL) does not answer: refused',
        ),
        ({'cache_info': INFO, 'cache_database': 1}, ERROR, 'queue and cache share database 1'),
        (
            {'cache_info': INFO, 'info': INFO | {'maxmemory': 100}},
            WARNING,
            'queue and cache share an instance with a maxmemory',
        ),
    ],
)
def test_redis_beside_a_cache_or_without_rights(changes, severity, what):
    found, text = one(redis_server.judge_redis(dataclasses.replace(REDIS, **changes)))
    assert (found, text.startswith(what)) == (severity, True), text


def test_queue_and_cache_in_one_instance_that_evicts_are_two_errors():
    info = INFO | {'maxmemory_policy': 'allkeys-lru', 'maxmemory': 100}
    severities = [
        f.severity
        for f in redis_server.judge_redis(dataclasses.replace(REDIS, info=info, cache_info=info))
    ]
    assert severities == [ERROR, ERROR]


@pytest.mark.parametrize(
    ('changes', 'severity', 'what'),
    [
        ({'version': 140011}, ERROR, 'PostgreSQL 14 is too old'),
        ({'is_standby': True}, ERROR, 'this is a standby'),
        ({'fsync': False}, ERROR, 'fsync or full_page_writes is off'),
        ({'synchronous_commit': 'off'}, WARNING, 'synchronous_commit is off'),
        ({'autovacuum': False}, ERROR, 'autovacuum is off'),
        ({'connections': 95}, WARNING, '95 of 100 connections are in use'),
        ({'oldest_transaction_s': 7200.0}, WARNING, 'a transaction has been open for 2.0 h'),
        ({'idle_slot': 'replica'}, WARNING, 'nobody reads the replication slot replica'),
        ({'oldest_xid_age': 1_900_000_000}, ERROR, 'transaction ids run out'),
    ],
)
def test_postgresql_that_forgets_or_fills_up(changes, severity, what):
    found, text = one(postgresql.judge_server(SERVER | changes))
    assert (found, text.startswith(what)) == (severity, True), text


def test_tables_vacuum_does_not_keep_up_with():
    table = {
        'table': 'outbound_emails',
        'live': 100_000,
        'dead': 49_000,
        'never_vacuumed': False,
        'bytes': 2**30,
    }
    assert told(postgresql.judge_tables([table, table | {'live': 10, 'dead': 9000}])) == []
    assert one(postgresql.judge_tables([table | {'dead': 60_000}])) == (
        WARNING, 'outbound_emails has 60000 dead rows beside 100000 living ones (1024 MiB)'
    )  # fmt: skip
    assert one(postgresql.judge_tables([table | {'never_vacuumed': True}]))[0] is ERROR


@pytest.mark.parametrize(
    ('changes', 'severity', 'what'),
    [
        ({'failed_at': 'connect', 'failure': 'refused'}, ERROR, f'{WHERE} fails at connect'),
        ({'failed_at': 'AUTH', 'failure': '535 <anna@x.de>'}, ERROR, f'{WHERE} fails at AU'),
        ({'expires_at': 1e9 - 80 * 86400}, WARNING, f'{WHERE}: its certificate ends in 10 d'),
        ({'expires_at': 1e9 - 89 * 86400}, ERROR, f'{WHERE}: its certificate ends in 24.0 h'),
        ({'size_bytes': 999}, WARNING, f'{WHERE} takes messages of 999 bytes at most'),
        ({'tls': False}, WARNING, f'{WHERE} is used without TLS: the password and'),
        ({'tls': False, 'host': 'localhost'}, None, ''),
    ],
)  # fmt: skip
def test_relays_that_will_not_take_mail(changes, severity, what):
    findings = list(
        relays.judge_relay(dataclasses.replace(RELAY, **changes), 1000, now=1e9 - 90 * 86400)
    )
    if severity is None:
        assert findings == []
        return
    found, text = one(findings)
    assert (found, text.startswith(what)) == (severity, True), text
    assert 'anna' not in text


def test_an_expired_certificate_is_told_to_be_renewed_wherever_it_shows():
    failure = '[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: certificate has expired'
    facts = dataclasses.replace(RELAY, failed_at='connect', failure=failure, expires_at=None)
    (finding,) = relays.judge_relay(facts, 1000)
    assert finding.remedy.startswith('renew its certificate')


def test_relays_as_they_are_configured():
    assert [
        f.severity for f in relays.judge_configuration(relay_options(make_settings()), None)
    ] == [NOTE]
    twice = make_settings(smtp_host='a', smtp_backup_host='a', smtp_from_email='a@example.com')
    assert one(relays.judge_configuration(relay_options(twice), None)) == (
        WARNING,
        'the relays primary and backup are the same server',
    )
    nobody = make_settings(smtp_backup_host='b')
    assert one(relays.judge_configuration(relay_options(nobody), 'noreply@localhost'))[
        1
    ].startswith('mail is sent from noreply@localhost')


@pytest.mark.parametrize(
    ('values', 'severity', 'what'),
    [
        (
            {'db_command_timeout_s': 25, 'worker_lease_s': 25},
            ERROR,
            'DB_COMMAND_TIMEOUT_S (25) is not below WORKER_LEASE_S',
        ),
        ({'smtp_reply_timeout_s': 60}, NOTE, 'SMTP_REPLY_TIMEOUT_S is 60'),
        (
            {'email_max_attempts': 5, 'email_expiry_hours': 0.2},
            WARNING,
            '5 attempts take 15 min, but mail expires after 0.2 h',
        ),
        (
            {'email_max_attempts': 5},
            NOTE,
            'mail that a relay defers is dead after 5 attempts in 15 min',
        ),
        ({'mongodb_timeout_s': 20}, WARNING, 'MONGODB_TIMEOUT_S (20) is long'),
    ],
)
def test_settings_whose_times_do_not_fit(values, severity, what):
    found, text = one(timeouts.judge_times(times_of(make_settings(**values))))
    assert (found, text.startswith(what)) == (severity, True), text


@pytest.mark.parametrize(
    ('text', 'seconds'),
    [
        ('TimeoutStopSec=45', 45), ('TimeoutStopSec = 1min 30s', 90),
        ('TimeoutStopSec=2min\n[x]\nTimeoutStopSec=5', 5),
        ('', 90), ('# TimeoutStopSec=5', 90), ('TimeoutStopSec=infinity', float('inf')),
        ('TimeoutStopSec=0', float('inf')),
    ],
)  # fmt: skip
def test_stop_timeouts_are_read_as_systemd_reads_them(text, seconds):
    assert timeouts.stop_timeout_s(text) == seconds


def test_a_unit_that_kills_before_the_drain_is_over(tmp_path):
    (tmp_path / 'email-worker@.service.d').mkdir()
    (tmp_path / 'email-worker@.service').write_text('[Service]\nTimeoutStopSec=60\n')
    (tmp_path / 'email-worker@.service.d' / 'slow.conf').write_text(
        '[Service]\nTimeoutStopSec=20\n'
    )
    (tmp_path / 'other.service').write_text('[Service]\nTimeoutStopSec=1\n')
    units = timeouts.read_units([str(tmp_path), str(tmp_path / 'absent')])
    assert one(timeouts.judge_units(20, units))[1].startswith(
        'email-worker@.service is killed 20 s after'
    )
    assert told(timeouts.judge_units(5, units)) == []


def test_our_own_units_leave_time_to_drain():
    units = timeouts.read_units(['deploy'])
    assert units
    assert told(timeouts.judge_units(make_settings().worker_drain_s, units)) == []


@pytest.mark.parametrize(
    ('changes', 'poisoned', 'severity', 'what'),
    [
        ({'due': 7, 'oldest_due_s': 7200.0}, 0, ERROR, '7 e-mails are due, the first for 2.0 h'),
        ({'stuck': 2}, 0, ERROR, '2 e-mails are held by workers that are gone'),
        ({'held': 3}, 0, WARNING, '3 e-mails may have been delivered or not'),
        ({'past_expiry': 3}, 0, WARNING, '3 e-mails were not sent before expires_at'),
        ({'dead': 36}, 0, NOTE, '36 e-mails are dead'),
        ({}, 1, WARNING, '1 e-mail was set aside within a day'),
    ],
)
def test_mail_that_is_late_or_waits_for_somebody(changes, poisoned, severity, what):
    found, text = one(
        map(from_judge, judge.judge_outbox(OUTBOX | changes, NO_PAUSES, poisoned, is_worked=True))
    )
    assert (found, text.startswith(what)) == (severity, True), text


def test_attempts_that_mostly_fail_and_duties_that_do_not_run():
    def counts(**outcomes):
        return [
            {'worker': 'w', 'outcome': name, 'hour': hour, 'day': hour}
            for name, hour in outcomes.items()
        ]

    assert told(judged_attempts(counts(accepted=10, deferred=9, released=500))) == []
    assert told(judged_attempts(counts(deferred=19))) == []
    assert one(judged_attempts(counts(accepted=8, deferred=8, lost=3, rejected=1, released=9))) == (
        ERROR, '12 of 20 attempts failed within the hour: 8 deferred, 3 lost, 1 rejected'
    )  # fmt: skip
    assert one(judged_attempts(counts(accepted=10, rejected=12))) == (
        WARNING, '12 of 22 attempts failed within the hour: 12 rejected'
    )  # fmt: skip
    duty = {'duty': 'check_service_health', 'outcome': 'done', 'detail': None, 'started_s': 170.0}
    assert (
        told(judged_duties([duty, duty | {'duty': 'of another version', 'started_s': 86400.0}]))
        == []
    )
    assert (
        one(judged_duties([duty | {'started_s': 190.0}]))[1]
        == 'check_service_health last ran 3 min ago'
    )
    assert told(judged_duties([duty | {'started_s': 190.0, 'outcome': 'skipped'}])) == []
    assert (
        'anna' not in one(judged_duties([duty | {'outcome': 'error', 'detail': 'x anna@x.de'}]))[1]
    )


def test_workers_that_differ_hang_or_are_all_paused():
    def worker(name, **more):
        return record_from(RECORD | {'worker': name, 'settings': 'aaa', 'version': '1'} | more)

    assert told(judged_workers([worker('a'), worker('b'), record_from(RECORD)])) == []
    assert one(judged_workers([worker('a'), worker('b', settings='bbb')]))[1] == (
        'workers run with 2 different settings (aaa: a; bbb: b)'
    )
    assert one(judged_workers([worker('a'), worker('b', version='2')]))[1].startswith(
        'workers run with 2 different v'
    )
    assert one(judged_workers([worker('a', loop_lag_ms=900.0)]))[1].startswith(
        'a hangs: its event loop was late by'
    )
    hold = {'at': 1.0, 'email_ids': [42], 'where': 'mail_outbox/render.py:50 render'}
    assert one(judged_workers([worker('a', loop_holds=3, last_hold=hold)]))[1] == (
        'a stood still for more than a second, 3 times since its start; '
        "the last time in 'mail_outbox/render.py:50 render' for the e-mails [42]"
    )
    some = [worker('a', state='paused', paused=['why']), worker('b')]
    assert one(judged_workers(some)) == (NOTE, '1 worker (a) of 2 paused: why')
    paused = worker('a', state='paused', paused=['queue arq:queue is paused by anna'])
    assert (
        one(judged_workers([paused]))[1]
        == 'every worker is paused: queue arq:queue is paused by anna'
    )


def test_clocks_that_differ():
    assert (
        one(clocks.judge_clocks({'Redis': -2.0}))[1] == "Redis's clock is 2 s behind this machine's"
    )
    assert one(clocks.judge_clocks({'PostgreSQL': 60.0}))[0] is ERROR


async def test_a_clock_is_measured_within_the_time_the_answer_took(monkeypatch):
    monkeypatch.setattr(clocks.time, 'time', iter([100.0, 103.0] * 4).__next__)
    for told_time, ahead_s in ((101.5, 0.0), (100.0, 0.0), (105.0, 2.0), (98.0, -2.0)):

        async def ask(told_time=told_time):
            return told_time

        assert await clocks.measure(ask) == ahead_s


def test_disks_are_looked_at_once_each_and_judged_by_what_is_left(tmp_path):
    disks = machine.read_disks([str(tmp_path), str(tmp_path), '/absent'])
    assert [disk.place for disk in disks] == [str(tmp_path)]
    assert disks[0].total_bytes == os.statvfs(tmp_path).f_blocks * os.statvfs(tmp_path).f_frsize
    full = machine.Disk('/var', 100 * 2**30, 2**30)
    assert one(machine.judge_disks([full])) == (
        ERROR,
        'the disk of /var on this machine is nearly full: 1%, 1.0 GiB left',
    )
    assert one(machine.judge_disks([full._replace(free_bytes=int(4.5 * 2**30))]))[0] is WARNING
