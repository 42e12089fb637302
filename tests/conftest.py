"""What holds for every test."""

from collections.abc import Iterator

import pytest
import structlog


@pytest.fixture(autouse=True)
def logs_as_they_were() -> Iterator[None]:
    """Commands set the logs up for their process, on the stderr of that test alone."""
    yield
    structlog.reset_defaults()
