"""What is made before the process serves is looked at no more; what is made later still goes when nobody has it."""

import gc
import weakref
from collections.abc import Iterator

import pytest

from fairdial import garbage


class Ring:
    """Has itself, so that counting references never frees it."""

    def __init__(self) -> None:
        self.me = self


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    threshold = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*threshold)


def test_what_was_there_is_looked_at_no_more() -> None:
    kept = Ring()
    assert any(each is kept for each in gc.get_objects())
    garbage.settle()
    assert not any(each is kept for each in gc.get_objects())


def test_a_ring_that_is_made_later_goes() -> None:
    garbage.settle()
    gone = weakref.ref(Ring())
    assert gone() is not None
    gc.collect()
    assert gone() is None


def test_a_ring_that_nobody_has_is_not_kept_for_ever() -> None:
    gone = weakref.ref(Ring())
    garbage.settle()
    assert gone() is None
