"""Traces and faults, as a collector and Sentry get them: from real processes, over HTTP."""

import asyncio
import gzip
import http.server
import json
import subprocess
import sys
import threading

import pytest
from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from actions.tokens import ApiScope
from configuration import observing
from delivery.attempt_spans import AttemptSpans
from jobs.send_email import send_email
from mail_outbox.traces import current_traceparent, known_traceparent
from tests.conftest import ROOT
from tests.services.api_desk import open_desk

PARENT = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01'


@pytest.fixture
def spans(runtime):
    """What was traced; `runtime` traces."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    runtime.recorder.spans = AttemptSpans(provider.get_tracer('test'))
    return exporter.get_finished_spans


@pytest.fixture
def collector():
    """An HTTP server that takes everything: [(path, body)]."""
    taken = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers['Content-Length']))
            if self.headers.get('Content-Encoding') == 'gzip':
                body = gzip.decompress(body)
            taken.append((self.path, body))
            self.send_response(200)
            self.send_header('Content-Length', '0')
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1], taken
    server.shutdown()


async def test_attempt_is_a_span_below_the_one_that_queued_the_email(ctx, queue, row, spans):
    with TracerProvider().get_tracer('shop').start_as_current_span('POST /orders') as request:
        email_id = await queue('traced@example.com', email_type='order')
    asked = request.get_span_context()
    stored = await row(email_id)
    assert stored['traceparent'].startswith(f'00-{asked.trace_id:032x}-{asked.span_id:016x}-')
    await send_email(ctx, email_id)
    (span,) = spans()
    assert (span.name, span.context.trace_id, span.parent.span_id) == (
        'send_email', asked.trace_id, asked.span_id,
    )  # fmt: skip
    assert span.attributes['email.id'] == email_id
    assert span.attributes['email.outcome'] == 'accepted'
    assert (span.attributes['email.relay'], span.attributes['smtp.code']) == ('primary', 250)
    assert span.status.is_ok or span.status.status_code is trace.StatusCode.UNSET
    assert 0 < span.end_time - span.start_time < 60e9


async def test_refusal_is_an_error_and_names_no_address(ctx, queue, spans):
    await send_email(ctx, await queue('anna+5xx-rcpt@example.com'))
    (span,) = spans()
    assert span.status.status_code is trace.StatusCode.ERROR
    assert span.attributes['email.status'] == 'failed'
    assert 'anna' not in f'{span.attributes} {span.status.description}'


@pytest.mark.parametrize(
    'value',
    [
        '',
        'x',
        '00-' + '0' * 32 + '-b7ad6b7169203331-01',
        PARENT + '-more',
        PARENT.upper(),
        'é' * 99,
    ],
)
async def test_traceparent_that_is_none_makes_a_trace_of_its_own(ctx, pool, queue, spans, value):
    email_id = await queue()
    await pool.execute('UPDATE outbound_emails SET traceparent = $2 WHERE id = $1', email_id, value)
    assert (await send_email(ctx, email_id))['status'] == 'sent'
    assert [span.parent for span in spans()] == [None]


async def test_untraced_application_stores_no_trace(queue, row):
    assert current_traceparent() is None
    assert (await row(await queue()))['traceparent'] is None
    assert known_traceparent(PARENT) == PARENT


WORKER = """
import asyncio, sys
from process.observing import open_tracer
tracer = open_tracer(sys.argv[1], 'email-worker', 'worker@here:1')
tracer.start_span('send_email').end()
"""


def test_spans_arrive_at_a_collector_when_the_process_ends(collector):
    port, taken = collector
    subprocess.run([sys.executable, '-c', WORKER, f'http://127.0.0.1:{port}'], cwd=ROOT, check=True)
    ((path, body),) = taken
    assert path == '/v1/traces'
    (resource,) = ExportTraceServiceRequest.FromString(body).resource_spans
    about = {item.key: item.value.string_value for item in resource.resource.attributes}
    assert (about['service.name'], about['service.instance.id']) == (
        'email-worker', 'worker@here:1',
    )  # fmt: skip
    assert [span.name for scope in resource.scope_spans for span in scope.spans] == ['send_email']


FAULTY = """
import logging, sys, structlog
from logs import configure_logs, hide_addresses
from process.observing import start_sentry
configure_logs('INFO', 'json')
start_sentry(sys.argv[1], 'email-worker@0', 'here', hide_addresses)
structlog.contextvars.bind_contextvars(email_id=7)
secret = 'the body'
try:
    raise ValueError('no place for anna@example.com')
except ValueError:
    log = structlog.get_logger()
    log.exception('attempt.crashed', phase='render', recipient='anna@example.com')
structlog.get_logger().error('relay.unreachable', error='not a fault of the program')
logging.getLogger('arq').error('lost %s', 'anna@example.com')
print('anna@example.com', 1 / 0)
"""


def test_faults_arrive_at_sentry_without_addresses_and_values(collector):
    port, taken = collector
    done = subprocess.run(
        [sys.executable, '-c', FAULTY, f'http://key@127.0.0.1:{port}/42'],
        cwd=ROOT, check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1
    assert '"event":"attempt.crashed"' in done.stderr  # the log has it all the same
    sent = b''.join(body for _, body in taken)
    assert {path for path, _ in taken} == {'/api/42/envelope/'}
    crashed, lost, uncaught = [json.loads(line) for line in sent.splitlines() if b'"level"' in line]
    assert crashed['exception']['values'][0]['value'] == 'no place for ***@example.com'
    assert crashed['tags'] == {'event': 'attempt.crashed', 'email_id': '7', 'phase': 'render'}
    assert 'lost ***@example.com' in json.dumps(lost)
    assert uncaught['exception']['values'][0]['type'] == 'ZeroDivisionError'
    assert b'anna' not in sent
    assert b'the body' not in sent


async def test_collector_that_hangs_holds_up_no_email(ctx, queue, runtime):
    hung = await asyncio.start_server(lambda _reader, _writer: asyncio.sleep(60), '127.0.0.1', 0)
    port = hung.sockets[0].getsockname()[1]
    program = f'{WORKER}\nprint("sent", flush=True)'
    async with hung:
        process = await asyncio.create_subprocess_exec(
            sys.executable, '-c', program, f'http://127.0.0.1:{port}',
            cwd=ROOT, stdout=subprocess.PIPE, env={'OTEL_EXPORTER_OTLP_TIMEOUT': '1'},
        )  # fmt: skip
        assert (await process.stdout.readline()) == b'sent\n'
        assert await process.wait() == 0


@pytest.fixture
async def client(env):
    async with open_desk(env) as desk:
        yield await desk.client(await desk.token('shop', [ApiScope.SEND]))


@pytest.mark.parametrize(('given', 'stored'), [(PARENT, PARENT), ('nonsense', None)])
async def test_email_over_http_belongs_to_the_trace_of_its_request(client, row, given, stored):
    email = {'to': 'anna@example.com', 'subject': 'Hello', 'text': 'Hello.'}
    answer = await client.post('/emails', json=email, headers={'traceparent': given})
    assert (await row(int(answer.json()['id'])))['traceparent'] == stored
    answer = await client.post('/emails/batch', json=[email], headers={'traceparent': given})
    (made,) = answer.json()['data']
    assert (await row(int(made['id'])))['traceparent'] == stored


def test_setting_without_its_package_is_refused_with_the_command(monkeypatch):
    monkeypatch.setattr(observing, 'find_spec', lambda _: None)
    with pytest.raises(ValueError, match='pip install sentry-sdk'):
        observing.ObservingVariables(sentry_dsn='https://key@sentry.example.com/42')
    with pytest.raises(ValueError, match='pip install opentelemetry-exporter-otlp-proto-http'):
        observing.ObservingVariables(otel_exporter_otlp_endpoint='http://127.0.0.1:4318')


@pytest.mark.parametrize(
    'dsn',
    [
        'key', 'ftp://key@host/1', 'https://host/1', 'https://key@host', 'https://key@host/shop',
        'https://key@host:99999/1', 'https://key@[host/1',
    ],
)  # fmt: skip
def test_dsn_that_is_none_is_refused(dsn):
    with pytest.raises(ValueError, match='must be http') as refused:
        observing.ObservingVariables(sentry_dsn=dsn)
    assert refused.value.errors(include_input=False)[0]['msg'].endswith('https://KEY@host/42')


@pytest.mark.parametrize('url', ['host:4318', 'http://', 'http://host:99999', 'http://[host'])
def test_endpoint_that_is_none_is_refused(url):
    with pytest.raises(ValueError, match='must be http'):
        observing.ObservingVariables(otel_exporter_otlp_endpoint=url)
