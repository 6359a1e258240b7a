# ipenginez: the engines.
#
# Each line shows a setting with its default; remove the "#" to change it.  The command
# line wins over this file.  All settings: ipenginez --help-all

c = get_config()

# Seconds that engines outlive a lost controller; 0: as the controller says.
# c.EngineApp.lease = 0.0
