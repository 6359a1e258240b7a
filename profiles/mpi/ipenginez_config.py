# ipenginez: the engines, one for each rank.
#
# Each line shows a setting with its default; remove the "#" to change it.  The command
# line wins over this file.  All settings: ipenginez --help-all

c = get_config()

# Code that each engine runs first; 'MPI' and 'comm' are there already.
# c.EngineApp.command = ''
