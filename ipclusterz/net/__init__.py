"""The shells: sockets, clocks and files round the cores; the only place that knows ZeroMQ."""
