"""Who waits: urgent mail first, and nobody for ever."""

import pytest

from mail.priority import HIGH, LOW, MOST_PASSED, NORMAL, Line, known_priority


def test_urgent_goes_first_and_equals_in_the_order_of_coming() -> None:
    line: Line[str] = Line()
    for name, priority in (
        ('l1', LOW),
        ('n1', NORMAL),
        ('h1', HIGH),
        ('l2', LOW),
        ('h2', HIGH),
        ('n2', NORMAL),
    ):
        line.append(name, priority)
    assert [line.ahead_of(priority) for priority in (HIGH, NORMAL, LOW)] == [2, 4, 6]
    assert [line.popleft() for _ in range(len(line))] == ['h1', 'h2', 'n1', 'n2', 'l1', 'l2']
    assert not line


def test_who_is_put_back_comes_before_his_equals_but_not_before_the_more_urgent() -> None:
    line: Line[str] = Line()
    line.append('l1', LOW)
    line.append('h1', HIGH)
    line.appendleft('l0', LOW)
    assert [line.popleft() for _ in range(3)] == ['h1', 'l0', 'l1']


@pytest.mark.parametrize('waiting', [LOW, NORMAL])
def test_one_of_ten_is_not_urgent_when_urgent_mail_never_ends(waiting: int) -> None:
    line: Line[int] = Line()
    for _ in range(100):
        line.append(waiting, waiting)
        line.append(HIGH, HIGH)
    taken = []
    for _ in range(50):
        line.append(HIGH, HIGH)
        expected = line.next_priority
        taken.append(line.popleft())
        assert taken[-1] == expected
    assert taken == ([HIGH] * MOST_PASSED + [waiting]) * 5


def test_both_lower_classes_get_their_turns_beside_urgent_mail() -> None:
    line: Line[int] = Line()
    for priority in (HIGH, NORMAL, LOW):
        for _ in range(100):
            line.append(priority, priority)
    taken = [line.popleft() for _ in range(50)]
    assert taken.count(NORMAL) >= 4
    assert taken.count(LOW) >= 4


def test_taking_all_leaves_nobody() -> None:
    line: Line[str] = Line()
    line.append('l', LOW)
    line.append('h', HIGH)
    assert line.take_all() == ['h', 'l']
    assert not line


@pytest.mark.parametrize(
    ('stored', 'priority'),
    [
        (0, HIGH),
        (1, NORMAL),
        (2, LOW),
        (3, NORMAL),
        (-1, NORMAL),
        (None, NORMAL),
        ('urgent', NORMAL),
    ],
)
def test_priority_that_is_none_of_ours_is_ordinary(stored: object, priority: int) -> None:
    assert known_priority(stored) == priority
