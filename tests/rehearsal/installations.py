"""The variants of a rehearsal, by name."""

from tests.rehearsal import stories
from tests.rehearsal.variants import Variant

PICKLE = {'task_serializer': 'pickle', 'accept_content': ['pickle', 'json']}
STEPS = {'priority_steps': [0, 3, 6, 9], 'sep': ':', 'queue_order_strategy': 'priority'}

VARIANTS = {
    variant.name: variant
    for variant in (
        Variant('celery-alone', stories.celery_alone, retry_delay_s=4.0),
        Variant('term', stories.move_over),
        Variant('kill', stories.move_over, ending='KILL', status='ENUM'),
        Variant('acks-late-kill', stories.move_over, celery={'task_acks_late': True}, ending='KILL',
            own_broker=True),
        Variant('acks-late-term', stories.move_over, celery={'task_acks_late': True},
            status='varchar'),
        Variant('pickle', stories.move_over, celery=PICKLE, status='check'),
        Variant('gzip', stories.move_over, celery={'task_compression': 'gzip'},
            timestamp='timestamptz'),
        Variant('zlib-kill', stories.move_over, celery={'task_compression': 'zlib'}, ending='KILL',
            columns='few'),
        Variant('protocol-1', stories.move_over, celery={'task_protocol': 1}, status='ENUM',
            own_broker=True),
        Variant(
            'key-prefix', stories.move_over,
            celery={'broker_transport_options': {'global_keyprefix': 'shop:'}},
            id_type='bigserial',
        ),
        Variant(
            'priority-steps', stories.move_over, celery={'broker_transport_options': STEPS},
            priorities=(0, 3, 6, 9),
            status='check',
        ),
        Variant('writes-sending', stories.move_over, writes_sending=True),
        Variant('writes-sending-kill', stories.move_over, writes_sending=True, ending='KILL',
            status='ENUM'),
        Variant('not-stopped', stories.celery_not_stopped),
        Variant('both', stories.both_for_a_while),
        Variant('both-own-broker', stories.both_for_a_while, own_broker=True, status='check',
            columns='few'),
        Variant('back', stories.back_to_celery),
        Variant('back-priority-steps', stories.back_to_celery,
            celery={'broker_transport_options': STEPS},
                priorities=(0, 3, 6, 9), own_broker=True, status='ENUM'),
        Variant('interrupted', stories.interrupted, status='varchar'),
        Variant('import-interrupted', stories.import_interrupted, celery={'task_acks_late': True},
            ending='KILL'),
        Variant('finish', stories.finish, status='ENUM'),
    )
}  # fmt: skip
SHORT = ('kill', 'both', 'back')
