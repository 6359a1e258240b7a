"""A client over engines in memory."""

from __future__ import annotations

import pytest

from ipclusterz.client.client import Client
from tests.client.fake import FakeConnection


@pytest.fixture
def link() -> FakeConnection:
    return FakeConnection(3)


@pytest.fixture
def rc(link: FakeConnection) -> Client:
    return Client.over(link)
