# ipenginez: engines, here or on any machine that has the engine connector file.
#
# Each line shows a setting with its default; remove the "#" to change it.  The command
# line wins over this file.  All settings: ipenginez --help-all

c = get_config()

# Engines to start.
# c.EngineApp.n = 1
