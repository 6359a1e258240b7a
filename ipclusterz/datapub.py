"""Values that a task tells its client of while it runs, at the place ipyparallel has it.

>>> from ipclusterz.datapub import publish_data
"""

from ipclusterz.engine.display import publish_data as publish_data

__all__ = ["publish_data"]
