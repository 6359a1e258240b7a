"""Commands in the background, as in the tests of faults."""

from tests.faults.conftest import start

__all__ = ["start"]
