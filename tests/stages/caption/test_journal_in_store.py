"""A model's answers are kept in an object store, where nothing can be appended to a file."""

from pathlib import Path

from handloom.listings import forget_listings
from handloom.stages.caption import journal as journals
from handloom.stages.caption.journal import OPEN_BUCKETS, Journal
from handloom.stages.caption.requests import Answer
from tests.helpers.s3_server import S3Server


def answer(number: int) -> Answer:
    return Answer(f"take cup {number}", True, 1, 1, 1.0)


def test_answers_outlive_the_process_once_a_batch_is_done(folder: Path, s3: S3Server) -> None:
    first = Journal(folder)
    s3.requests.clear()
    for number in range(50):
        first.put("0a", f"{number}", answer(number))
    first.flush()
    puts = sum(n for request, n in s3.requests.items() if request.startswith("PUT"))
    assert puts <= 2  # not one for each answer
    forget_listings()
    second = Journal(folder)
    assert [second.get("0a", f"{n}") for n in range(50)] == list(map(answer, range(50)))
    first.put("0a", "more", answer(99))
    first.flush()
    second.refresh("0a")
    assert second.get("0a", "more") == answer(99)


def test_a_bucket_that_is_opened_again_keeps_what_it_had(folder: Path) -> None:
    journal = Journal(folder)
    journal.put("00", "a", answer(1))
    for number in range(1, OPEN_BUCKETS + 2):  # the first one is closed
        journal.put(f"{number:02x}", "x", answer(2))
    journal.put("00", "b", answer(3))
    journal.flush()
    forget_listings()
    again = Journal(folder)
    assert (again.get("00", "a"), again.get("00", "b")) == (answer(1), answer(3))


def test_a_kill_costs_seconds_of_answers(folder: Path, s3: S3Server, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(journals, "STORE_EVERY_S", 0.0)
    Journal(folder).put("0a", "1", answer(1))  # never flushed
    forget_listings()
    assert Journal(folder).get("0a", "1") == answer(1)
