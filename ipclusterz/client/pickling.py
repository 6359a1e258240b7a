"""How a view's engines, and this process, pickle what pickle alone cannot."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ipclusterz.engine import custom

if TYPE_CHECKING:
    from ipclusterz.client.session import Session


class Pickling:
    """Mixin of DirectView.  The choice holds for this process and the view's engines."""

    _session: Session

    def apply(self, f: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Run a function on the engines; the view's own."""
        raise NotImplementedError

    def _use(self, name: str) -> Any:
        custom.use(name)
        self._session.functions.clear()
        return self.apply(custom.use, name)

    def use_dill(self) -> Any:
        """Pickle functions, and what else pickle cannot, by dill, here and on the engines.

        Returns as ``apply`` does.  Functions of ``__main__`` then see the engine's
        variables only; with ``dill.settings['recurse']`` true they bring those that they
        use, and see none there.  Raises ImportError where dill is not installed.
        """
        return self._use("dill")

    def use_cloudpickle(self) -> Any:
        """Pickle functions, and what else pickle cannot, by cloudpickle: the default."""
        return self._use("cloudpickle")

    def use_pickle(self) -> Any:
        """Return to the default: pickle, and cloudpickle for what that cannot do."""
        return self._use("cloudpickle")

    def register_serializer(
        self, kind: type, dumps: Callable[[Any], Any], loads: Callable[[Any], Any]
    ) -> Any:
        """Register a type here and on the engines: see ipclusterz.register_serializer.

        Returns as ``apply`` does.  Needed only where engines make such objects before they
        got one.
        """
        custom.register_serializer(kind, dumps, loads)
        return self.apply(custom.register_serializer, kind, dumps, loads)
