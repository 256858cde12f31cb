from __future__ import annotations

import itertools

from federation.admissions import Admissions
from federation.codec import Write
from federation.identifiers import Lane, Origin
from souverix.federation.v1 import authority_pb2

ORIGIN = Origin("edge-a1-control", 1)


def write(sequence: int, stamp: int, origin: Origin = ORIGIN) -> Write:
    return Write(origin, sequence, stamp, "nodes/n1", "node_spec", (), (), "", "", False, (), b"")


def admission(first: int, last: int, stamp: int) -> authority_pb2.Admission:
    return authority_pb2.Admission(
        controller=ORIGIN.controller,
        incarnation=ORIGIN.incarnation,
        lane=int(Lane.STATE),
        first_sequence=first,
        last_sequence=last,
        received_stamp=stamp,
    )


def test_stamp_stands_where_nothing_was_admitted() -> None:
    assert Admissions().effective_stamp("edge-a1", Lane.STATE, write(1, 900)) == 900


def test_admission_caps_the_stamps_of_its_range_only() -> None:
    admissions = Admissions()
    admissions.put("edge-a1", admission(2, 3, 500))
    effective = [
        admissions.effective_stamp("edge-a1", Lane.STATE, write(n, 900)) for n in range(1, 5)
    ]
    assert effective == [900, 500, 500, 900]


def test_admission_never_raises_a_stamp() -> None:
    admissions = Admissions()
    admissions.put("edge-a1", admission(1, 1, 500))
    assert admissions.effective_stamp("edge-a1", Lane.STATE, write(1, 100)) == 100


def test_admission_speaks_of_its_domain_lane_and_incarnation_only() -> None:
    admissions = Admissions()
    admissions.put("edge-a1", admission(1, 1, 500))
    assert admissions.effective_stamp("edge-a2", Lane.STATE, write(1, 900)) == 900
    assert admissions.effective_stamp("edge-a1", Lane.CONTROL, write(1, 900)) == 900
    other = write(1, 900, Origin(ORIGIN.controller, 2))
    assert admissions.effective_stamp("edge-a1", Lane.STATE, other) == 900


def test_effective_time_is_the_minimum_in_whatever_order_admissions_come() -> None:
    records = [admission(1, 5, 700), admission(2, 2, 400), admission(1, 9, 600)]
    for order in itertools.permutations(records):
        admissions = Admissions()
        for record in (*order, order[0]):
            admissions.put("edge-a1", record)
        effective = [
            admissions.effective_stamp("edge-a1", Lane.STATE, write(n, 900)) for n in (1, 2, 6, 10)
        ]
        assert effective == [600, 400, 600, 900]
