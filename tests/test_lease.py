"""Who leads a cluster of hubs, on simulated clocks and a simulated server, which may lose answers and delay writes."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from quantus_miner.hub.lease import LEASE_S, LOOK_S, RENEW_S, VALID_S, Lease


class Server:
    """The lease as JetStream keeps it: a write must name the revision that it replaces."""

    def __init__(self) -> None:
        self.revision, self.holder = 0, ""
        self.sequence = 0

    def write(self, holder: str, expected: int) -> int | None:
        if expected != self.revision:
            return None
        self.sequence += 1
        self.revision, self.holder = self.sequence, holder
        return self.revision


def turn(lease: Lease, server: Server, now: float) -> None:
    if not lease.leads(now):
        lease.saw(server.revision, server.holder, now)
    if lease.may_write(now):
        revision = server.write(lease.holder, lease.revision)
        if revision is None:
            lease.end()
            lease.saw(server.revision, server.holder, now)
        else:
            lease.wrote(revision, now)


def look(lease: Lease, server: Server, now: float, end: float) -> None:
    """Have a turn every LOOK_S and at the end."""
    while now < end:
        turn(lease, server, now)
        now += LOOK_S
    turn(lease, server, end)


def test_the_first_one_leads_and_another_takes_over_once_it_is_silent() -> None:
    server, first, second = Server(), Lease("a"), Lease("b")
    look(first, server, 0.0, LEASE_S - 0.001)
    assert not first.leads(LEASE_S - 0.001)  # the servers may have lost the lease of another one
    turn(first, server, LEASE_S)
    turn(second, server, LEASE_S)
    assert (first.leads(LEASE_S), second.leads(LEASE_S)) == (True, False)
    assert second.held_by_another
    last = LEASE_S + 10 * RENEW_S
    for number in range(1, 11):
        turn(first, server, LEASE_S + number * RENEW_S)
        turn(second, server, LEASE_S + number * RENEW_S)
    assert first.leads(last + VALID_S - 0.001)
    assert not first.leads(last + VALID_S)
    look(second, server, last, last + LEASE_S - 0.001)
    assert not second.leads(last + LEASE_S)
    turn(second, server, last + LEASE_S)
    assert second.leads(last + LEASE_S)
    # The former leader comes back, and finds that it has been replaced.
    turn(first, server, last + LEASE_S)
    assert not first.leads(last + LEASE_S)


def test_a_lease_that_is_given_up_is_taken_at_once_and_an_own_one_after_a_pause() -> None:
    server, first, second = Server(), Lease("a"), Lease("b")
    look(first, server, 0.0, LEASE_S)
    now = LEASE_S + VALID_S + 60
    turn(first, server, now)
    assert first.leads(now)  # nobody else wanted it meanwhile
    turn(second, server, now)
    server.write("", server.revision)
    first.end()
    turn(second, server, now + LOOK_S)
    assert (first.leads(now + LOOK_S), second.leads(now + LOOK_S)) == (False, True)


Step = st.tuples(
    st.integers(0, 2),  # whose turn
    st.floats(0.0, 1.0),  # seconds until then
    st.sampled_from(("all is well", "no answer", "the write is late", "the servers begin anew", "orderly stop")),
)


@settings(max_examples=150)
@given(st.lists(Step, max_size=60), st.lists(st.floats(0.95, 1.05), min_size=3, max_size=3))
def test_there_are_never_two_leaders_whatever_is_lost_or_late(
    steps: list[tuple[int, float, str]], rates: list[float]
) -> None:
    server, leases = Server(), [Lease(name) for name in "abc"]
    now = 0.0
    late: list[tuple[str, int]] = []
    for number, seconds, event in steps:
        now += seconds
        lease, local = leases[number], now * rates[number]
        if event == "the servers begin anew":  # which takes longer than a lease
            now += VALID_S / min(rates)
            server, local = Server(), now * rates[number]
        for write in late:
            server.write(*write)
        late.clear()
        if event == "orderly stop" and lease.leads(local):
            lease.end()
            server.write("", lease.revision)
        elif event == "the write is late" and lease.may_write(local):
            late.append((lease.holder, lease.revision))
        elif event == "no answer":
            if lease.may_write(local):
                server.write(lease.holder, lease.revision)
        else:
            turn(lease, server, local)
        assert sum(each.leads(now * rate) for each, rate in zip(leases, rates, strict=True)) <= 1
