"""What the inbox keeps on disk."""

from pathlib import Path

import pytest

from dev.inbox_store import INDEX_NAME, Delivery, MessageStore, read_header, read_index

CONTENT = b'Message-ID: <1@example.com>\r\nSubject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\n\r\nHello\r\n'


def delivery(content: bytes = CONTENT) -> Delivery:
    return Delivery(
        'primary',
        'from@example.com',
        ['to@example.com'],
        content,
        tls=True,
        auth='u',
        answered=True,
    )


@pytest.mark.parametrize('durable', [False, True])
def test_message_and_its_line_are_there_after_add(tmp_path: Path, durable: bool) -> None:
    stored = MessageStore(tmp_path, durable=durable).add(delivery())
    assert read_index(tmp_path) == [stored]
    assert (tmp_path / stored.file).read_bytes() == CONTENT
    assert (stored.n, stored.message_id, stored.subject) == (1, '<1@example.com>', 'Grüße')
    assert stored.size_bytes == len(CONTENT)


def test_numbers_go_on_after_a_restart(tmp_path: Path) -> None:
    MessageStore(tmp_path).add(delivery())
    MessageStore(tmp_path).add(delivery())
    assert [stored.n for stored in read_index(tmp_path)] == [1, 2]


def test_number_of_a_message_without_line_is_not_used_again(tmp_path: Path) -> None:
    (tmp_path / '000007.eml').write_bytes(b'killed before the line was written')
    assert MessageStore(tmp_path).add(delivery()).n == 8


def test_torn_last_line_is_cut_at_the_next_start(tmp_path: Path) -> None:
    MessageStore(tmp_path).add(delivery())
    with (tmp_path / INDEX_NAME).open('a') as index:
        index.write('{"n": 2, "rel')
    assert len(read_index(tmp_path)) == 1
    MessageStore(tmp_path).add(delivery())
    assert [stored.n for stored in read_index(tmp_path)] == [1, 2]


def test_index_of_an_empty_directory_is_empty(tmp_path: Path) -> None:
    assert read_index(tmp_path) == []


@pytest.mark.parametrize(
    ('content', 'expected'),
    [
        (b'', (None, None)),
        (b'Subject: plain\r\n\r\nSubject: body\r\n', (None, 'plain')),
        (
            b'Subject: \xff\xfe\r\nMessage-ID:\r\n <folded@example.com>\r\n\r\n',
            ('<folded@example.com>', '\ufffd\ufffd'),
        ),
        ('Subject: Grüße\r\n'.encode(), (None, 'Grüße')),
        (b'Subject: =?utf-8?q?two_?=\r\n =?utf-8?b?d29yZHM=?=\r\n', (None, 'two words')),
        (b'Subject: =?nonsense?q?x?=\r\n', (None, '=?nonsense?q?x?=')),
        (b'Subject: =?utf-8?b?x?=\r\n', (None, '=?utf-8?b?x?=')),
        (b'\r\nno header at all', (None, None)),
    ],
)
def test_header_is_read_as_far_as_it_can_be(
    content: bytes, expected: tuple[str | None, str | None]
) -> None:
    assert read_header(content) == expected
