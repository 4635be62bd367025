# SPDX-License-Identifier: Apache-2.0
"""What fits into a slot."""

from pathlib import Path

from glideflow_pilot.capacity import Capacity
from glideflow_pilot.orders import Order
from hypothesis import given, settings
from hypothesis import strategies as st

SIZES = st.tuples(st.integers(1, 10), st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 2000))


def order_of(cores: int, memory_mb: int, disk_mb: int, wall_seconds: int, attempt_id: int = 1) -> Order:
    return Order(
        attempt_id=attempt_id,
        job_id=1,
        name="x",
        command="true",
        environment={},
        sandbox=(),
        inputs=(),
        outputs=(),
        document={},
        cores=cores,
        memory_mb=memory_mb,
        disk_mb=disk_mb,
        wall_seconds=wall_seconds,
    )


def capacity_of(now: list[float]) -> Capacity:
    return Capacity(8, 4000, 4000, ends_at=1000, folder=Path("/"), margin_seconds=100, clock=lambda: now[0])


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), SIZES), max_size=60))
def test_sum_of_the_running_jobs_never_exceeds_the_slot(stream: list[tuple[bool, tuple[int, int, int, int]]]) -> None:
    now = [0.0]
    capacity = capacity_of(now)
    running: list[Order] = []
    for is_end, sizes in stream:
        now[0] += 10
        order = order_of(*sizes)
        if is_end and running:
            capacity.give_back(running.pop(0))
        elif capacity.objection(order) is None:
            capacity.take(order)
            running.append(order)
            assert now[0] + order.wall_seconds <= 900
        assert sum(one.cores for one in running) == 8 - capacity.cores <= 8
        assert sum(one.memory_mb for one in running) <= 4000
        assert sum(one.disk_mb for one in running) <= 4000
    for order in running:
        capacity.give_back(order)
    assert (capacity.cores, capacity.memory_mb, capacity.disk_mb) == (8, 4000, 4000)


def test_objection_names_what_is_short() -> None:
    capacity = capacity_of([0.0])
    assert capacity.objection(order_of(9, 1, 1, 1)) == "the job asks for 9 cores and this pilot has 8 left"
    assert "5000 MB of disk" in str(capacity.objection(order_of(1, 1, 5000, 1)))
    assert "901 seconds and this pilot has 900" in str(capacity.objection(order_of(1, 1, 1, 901)))
    assert capacity.objection(order_of(8, 4000, 4000, 900)) is None


def test_time_left_is_never_negative() -> None:
    now = [0.0]
    capacity = capacity_of(now)
    assert capacity.seconds_left() == 900
    now[0] = 2000
    assert capacity.seconds_left() == 0
    assert capacity.free()["seconds"] == 0


def test_disk_that_others_filled_is_not_offered(tmp_path: Path) -> None:
    capacity = Capacity(1, 1, 10**12, ends_at=1e12, folder=tmp_path)
    assert capacity.free()["disk_mb"] < 10**12
    capacity.folder = tmp_path / "gone"
    assert capacity.free()["disk_mb"] == 0
