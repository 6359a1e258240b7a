"""The client: Client, views and results, over one connection to a controller.

Knows tasks, targets and results; knows neither sockets nor how anything travels.
Import from :mod:`ipclusterz` itself; these modules are where its names live.
"""
