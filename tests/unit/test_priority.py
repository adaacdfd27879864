"""Who waits: urgent mail first, and nobody for ever."""

import pytest

from mail.priority import HIGH, LOW, MOST_PASSED, NORMAL, FairQueue, known_priority


def test_urgent_goes_first_and_equals_in_the_order_of_coming() -> None:
    queue: FairQueue[str] = FairQueue()
    for name, priority in (
        ('l1', LOW),
        ('n1', NORMAL),
        ('h1', HIGH),
        ('l2', LOW),
        ('h2', HIGH),
        ('n2', NORMAL),
    ):
        queue.append(name, priority)
    assert [queue.ahead_of(priority) for priority in (HIGH, NORMAL, LOW)] == [2, 4, 6]
    assert [queue.popleft() for _ in range(len(queue))] == ['h1', 'h2', 'n1', 'n2', 'l1', 'l2']
    assert not queue


def test_who_is_put_back_comes_before_his_equals_but_not_before_the_more_urgent() -> None:
    queue: FairQueue[str] = FairQueue()
    queue.append('l1', LOW)
    queue.append('h1', HIGH)
    queue.appendleft('l0', LOW)
    assert [queue.popleft() for _ in range(3)] == ['h1', 'l0', 'l1']


@pytest.mark.parametrize('waiting', [LOW, NORMAL])
def test_one_of_ten_is_not_urgent_when_urgent_mail_never_ends(waiting: int) -> None:
    queue: FairQueue[int] = FairQueue()
    for _ in range(100):
        queue.append(waiting, waiting)
        queue.append(HIGH, HIGH)
    taken = []
    for _ in range(50):
        queue.append(HIGH, HIGH)
        expected = queue.next_priority
        taken.append(queue.popleft())
        assert taken[-1] == expected
    assert taken == ([HIGH] * MOST_PASSED + [waiting]) * 5


def test_both_lower_classes_get_their_turns_beside_urgent_mail() -> None:
    queue: FairQueue[int] = FairQueue()
    for priority in (HIGH, NORMAL, LOW):
        for _ in range(100):
            queue.append(priority, priority)
    taken = [queue.popleft() for _ in range(50)]
    assert taken.count(NORMAL) >= 4
    assert taken.count(LOW) >= 4


def test_taking_all_leaves_nobody() -> None:
    queue: FairQueue[str] = FairQueue()
    queue.append('l', LOW)
    queue.append('h', HIGH)
    assert queue.take_all() == ['h', 'l']
    assert not queue


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
