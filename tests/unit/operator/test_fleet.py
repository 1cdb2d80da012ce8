"""The fleet: the newest version counts, and a watch that has gone silent shows."""

from __future__ import annotations

from typing import Any

from conclave_operator.fleet import Fleet
from conclave_operator.kinds import Key

KIND = "Model"
KEY = Key(KIND, "ns", "m")


def item(version: int, uid: str = "u", **content: Any) -> dict[str, Any]:
    metadata = {"namespace": "ns", "name": "m", "uid": uid, "resourceVersion": str(version)}
    return {"kind": KIND, "metadata": metadata, **content}


def test_the_newest_version_counts_whatever_the_order() -> None:
    fleet = Fleet()
    fleet.watched(item(5, spec="new"))
    fleet.watched(item(4, spec="old"))
    fleet.listed(KIND, [item(3, spec="older")])
    assert (fleet.get(KEY) or {})["spec"] == "new"


def test_an_object_made_anew_under_its_name_replaces_the_old_one() -> None:
    fleet = Fleet()
    fleet.watched(item(5))
    fleet.deleted(item(6))
    assert fleet.get(KEY) is None
    fleet.watched(item(7, uid="u2"))
    assert fleet.get(KEY) is not None


def test_a_list_that_began_before_the_deletion_brings_nothing_back() -> None:
    fleet = Fleet()
    fleet.watched(item(5))
    fleet.deleted(item(6))
    fleet.listed(KIND, [item(5)])
    assert fleet.get(KEY) is None
    assert fleet.lag_s() == 0


def test_what_we_wrote_counts_until_the_watch_tells_of_something_newer() -> None:
    fleet = Fleet()
    fleet.watched(item(5, status="old"))
    fleet.status_written(KEY, {"ours": 1})
    assert (fleet.get(KEY) or {})["status"] == {"ours": 1}
    fleet.watched(item(6, status="forged"))
    assert (fleet.get(KEY) or {})["status"] == "forged"


def test_a_watch_that_tells_of_everything_does_not_lag() -> None:
    fleet = Fleet()
    fleet.watched(item(5))
    fleet.listed(KIND, [item(5)], now=100)
    assert fleet.lag_s(now=500) == 0


def test_a_silent_watch_lags_more_and_more_and_its_work_goes_on() -> None:
    fleet = Fleet()
    fleet.watched(item(5))
    fleet.listed(KIND, [item(6, spec="edited")], now=100)
    assert (fleet.get(KEY) or {})["spec"] == "edited"
    assert fleet.lag_s(now=130) == 30
    fleet.listed(KIND, [item(8)], now=160)
    assert fleet.lag_s(now=170) == 70
    fleet.watched(item(8))
    assert fleet.lag_s(now=180) == 0


def test_a_deletion_that_the_watch_did_not_tell_of_lags_too() -> None:
    fleet = Fleet()
    fleet.watched(item(5))
    fleet.listed(KIND, [], now=100)
    assert fleet.get(KEY) is None
    assert fleet.lag_s(now=150) == 50
    fleet.deleted(item(9))
    assert fleet.lag_s(now=160) == 0


def test_a_list_that_was_ahead_of_the_watch_for_a_moment_leaves_no_lag() -> None:
    fleet = Fleet()
    fleet.listed(KIND, [item(5)], now=100)
    fleet.watched(item(5))
    fleet.listed(KIND, [item(5)], now=160)
    assert fleet.lag_s(now=161) == 0


def test_our_own_status_that_comes_back_is_no_news_and_anybody_else_s_is() -> None:
    fleet = Fleet()
    assert fleet.watched(item(5, spec="s"))
    fleet.status_written(KEY, {"ours": 1})
    assert not fleet.watched(item(6, spec="s", status={"ours": 1}))
    assert not fleet.watched(item(6, spec="s", status={"ours": 1}))
    assert not fleet.watched(item(5, spec="s"))
    assert fleet.watched(item(7, spec="s", status={"forged": 1}))
    assert fleet.watched(item(8, spec="edited", status={"forged": 1}))
    assert fleet.watched(item(9, uid="another", spec="edited", status={"forged": 1}))


def test_a_list_of_one_kind_says_nothing_of_another() -> None:
    fleet = Fleet()
    other = {**item(5), "kind": "Other"}
    fleet.watched(item(5))
    fleet.watched(other)
    fleet.deleted(other)
    fleet.listed(KIND, [item(5)], now=100)
    assert fleet.known("Other") == ()
    fleet.listed("Other", [other], now=100)  # it began before the deletion
    assert fleet.known("Other") == ()
    assert fleet.known(KIND) == (KEY,)
    assert fleet.lag_s(now=200) == 0
