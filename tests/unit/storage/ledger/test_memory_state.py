"""Values in memory expire, and the cost of a value does not grow with the number of values."""

from __future__ import annotations

from scoreline.storage.ledger.memory_state import Expiring


class Seconds(float):
    """A time that counts how often it is compared."""

    compared = 0

    def __add__(self, other: float) -> Seconds:
        return Seconds(float(self) + other)

    def __gt__(self, other: float) -> bool:
        Seconds.compared += 1
        return float(self) > float(other)


def test_setting_many_values_looks_at_each_a_few_times() -> None:
    values: Expiring[int] = Expiring(lambda: Seconds(1.0))
    Seconds.compared = 0
    for number in range(2_000):
        values.put(str(number), number, 60.0)
        values.keep(str(number), 60.0)
    assert len(values) == 2_000
    assert Seconds.compared < 20 * 2_000


def test_expired_values_do_not_accumulate() -> None:
    now = [0.0]
    values: Expiring[int] = Expiring(lambda: now[0])
    for number in range(2_000):
        now[0] += 1.0
        values.put(str(number), number, 10.0)
        assert values.get(str(number - 10)) is None
    assert len(values) < 40
    assert values.get("1999") == 1999
