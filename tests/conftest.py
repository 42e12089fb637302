"""What holds for every test."""

from collections.abc import Iterator

import pytest
import structlog

from testbed.postgres import Cluster, obtain_postgres


@pytest.fixture(autouse=True)
def logs_as_they_were() -> Iterator[None]:
    """Commands set the logs up for their process, on the stderr of that test alone."""
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A running PostgreSQL server, one for all tests of this process."""
    running = Cluster(obtain_postgres())
    try:
        running.start()
        yield running
    finally:
        running.remove()
