"""The coroutines of Cluster: each blocking method under the name without ``_sync``.

They run it in a thread, since starting and stopping wait for processes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from ipclusterz.client.client import Client
    from ipclusterz.cluster.api import Cluster

T = TypeVar("T")


async def in_thread(function: Callable[[], T]) -> T:
    """Run a blocking function beside the event loop."""
    import asyncio  # 40 ms, and whoever awaits has it

    return await asyncio.to_thread(function)


class Coroutines:
    """Mixin of :class:`ipclusterz.Cluster`."""

    async def start_controller(self: Any) -> None:
        """As :meth:`start_controller_sync`."""
        await in_thread(self.start_controller_sync)

    async def start_engines(
        self: Any, n: int | None = None, engine_set_id: str | None = None
    ) -> str:
        """As :meth:`start_engines_sync`."""
        return await in_thread(lambda: self.start_engines_sync(n, engine_set_id))

    async def start_cluster(self: Any, n: int | None = None) -> Cluster:
        """As :meth:`start_cluster_sync`."""
        return await in_thread(lambda: self.start_cluster_sync(n))

    async def start_and_connect(
        self: Any, n: int | None = None, activate: bool = False, **client: Any
    ) -> Client:
        """As :meth:`start_and_connect_sync`."""
        return await in_thread(lambda: self.start_and_connect_sync(n, activate, **client))

    async def connect_client(self: Any, **arguments: Any) -> Client:
        """As :meth:`connect_client_sync`."""
        return await in_thread(lambda: self.connect_client_sync(**arguments))

    async def stop_engines(self: Any, engine_set_id: str | None = None) -> None:
        """As :meth:`stop_engines_sync`."""
        await in_thread(lambda: self.stop_engines_sync(engine_set_id))

    async def stop_controller(self: Any) -> None:
        """As :meth:`stop_controller_sync`."""
        await in_thread(self.stop_controller_sync)

    async def stop_cluster(self: Any) -> None:
        """As :meth:`stop_cluster_sync`."""
        await in_thread(self.stop_cluster_sync)

    async def restart_engines(self: Any, engine_set_id: str | None = None) -> None:
        """As :meth:`restart_engines_sync`."""
        await in_thread(lambda: self.restart_engines_sync(engine_set_id))

    async def signal_engines(self: Any, signum: int, engine_set_id: str | None = None) -> None:
        """As :meth:`signal_engines_sync`."""
        await in_thread(lambda: self.signal_engines_sync(signum, engine_set_id))

    async def stop_engine(self: Any, engine_id: int) -> None:
        """As :meth:`stop_engine_sync`."""
        await in_thread(lambda: self.stop_engine_sync(engine_id))

    async def restart_engine(self: Any, engine_id: int) -> int:
        """As :meth:`restart_engine_sync`."""
        return await in_thread(lambda: self.restart_engine_sync(engine_id))

    async def signal_engine(self: Any, signum: int, engine_id: int) -> None:
        """As :meth:`signal_engine_sync`."""
        await in_thread(lambda: self.signal_engine_sync(signum, engine_id))
