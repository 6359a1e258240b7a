# ipclusterz: controller and engines together, on this machine.
#
# Each line shows a setting with its default; remove the "#" to change it.  The command
# line wins over this file.  All settings: ipclusterz start --help-all

c = get_config()

# Engines to start.  0: one for each core this process may use.
# c.StartApp.n = 0
