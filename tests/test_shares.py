"""The share book of a stratum connection."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantus_miner.model import LiveJob
from quantus_miner.wire import shares
from quantus_miner.wire.shares import ShareBook

from .stratum_ends import job

if TYPE_CHECKING:
    import pytest


def test_shares_count_for_earlier_jobs_until_a_clean_one() -> None:
    book, request = ShareBook(), iter(range(100))
    first, second, third = job(1), job(2), job(3)
    assert book.take_job(first, clean=True) is first
    assert book.take_job(second, clean=False) is second
    assert book.enter(next(request), first, 1, 0.0)
    assert book.enter(next(request), second, 1, 0.0)
    assert book.take_job(third, clean=True) is third
    assert not book.enter(next(request), first, 2, 0.0)
    assert not book.enter(next(request), second, 2, 0.0)
    assert book.enter(next(request), third, 2, 0.0)


def test_a_job_is_known_by_identity() -> None:
    book = ShareBook()
    book.take_job(job(1), clean=True)
    assert not book.enter(1, job(1), 1, 0.0)


def test_a_job_that_comes_again_changes_nothing_and_forgets_no_nonce() -> None:
    book, first = ShareBook(), job(1)
    book.take_job(first, clean=True)
    assert book.enter(1, first, 7, 0.0)
    assert book.take_job(job(1), clean=True) is None
    assert not book.enter(2, first, 7, 0.0)
    # With another difficulty it is another job, but the pool would call the nonce a duplicate.
    harder = job(1, difficulty=2000)
    assert book.take_job(harder, clean=False) is harder
    assert not book.enter(3, harder, 7, 0.0)
    assert not book.enter(4, first, 8, 0.0)
    assert book.enter(5, harder, 8, 0.0)


def test_one_job_id_for_all_headers_never_uses_up_its_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shares, "MAX_SHARES", 3)
    book, request = ShareBook(), iter(range(1000))

    def send(of: LiveJob, nonce: int) -> bool:
        number = next(request)
        sent = book.enter(number, of, nonce, 0.0)
        book.settle(number)
        return sent

    for number in range(50):
        one = LiveJob("always", bytes([number]) * 32, 1000)
        assert book.take_job(one, clean=number % 2 == 0) is one
        assert [send(one, nonce) for nonce in range(4)] == [True, True, True, False]
    # The cap is that of the header: neither another id nor another difficulty lifts it, nor sends a nonce again.
    for again in (LiveJob("other", one.header, 1000), LiveJob("other", one.header, 2000)):
        assert book.take_job(again, clean=True) is again
        assert not send(again, 77)
    assert [book.take_job(job(1), clean=True), book.take_job(one, clean=True)] == [job(1), one]
    assert send(one, 0), "what no longer counts is forgotten"


def test_an_earlier_job_can_become_the_current_one_again() -> None:
    book, first, second = ShareBook(), job(1), job(2)
    book.take_job(first, clean=True)
    book.take_job(second, clean=False)
    assert book.take_job(job(1), clean=True) is first
    assert book.enter(1, first, 1, 0.0)
    assert not book.enter(2, second, 1, 0.0)


def test_the_share_book_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    book = ShareBook()
    jobs = [job(number) for number in range(20)]
    for each in jobs:
        book.take_job(each, clean=False)
    counting = [each for number, each in enumerate(jobs) if book.enter(number, each, 1, 0.0)]
    assert counting == jobs[-1 - shares.MAX_EARLIER :]
    sent = sum(book.enter(number, jobs[-1], number, 0.0) for number in range(100, 100 + 2 * shares.MAX_PENDING))
    assert sent == shares.MAX_PENDING - len(counting)
    assert len(book.expire(0.0)) == shares.MAX_PENDING
    monkeypatch.setattr(shares, "MAX_SHARES", 300)
    sent = 0
    for number in range(1000, 2000):
        sent += book.enter(number, jobs[-1], number, 1.0)
        book.settle(number)
    assert sent == 300 - (shares.MAX_PENDING - len(counting) + 1)
