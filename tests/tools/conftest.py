"""What tests of several tools share."""

import io
import logging

import pytest


@pytest.fixture
def logged():
    """What mmengine's logger says."""
    from mmengine.logging import MMLogger

    handler = logging.StreamHandler(io.StringIO())
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    yield handler.stream
    logger.removeHandler(handler)
