# ipcontrollerz: the hub and the schedulers, on this host.
#
# Each line shows a setting with its default; remove the "#" to change it.  The command
# line wins over this file.  All settings: ipcontrollerz --help-all

c = get_config()

# The address to listen on.  The engines come back through the SSH connections that started
# them, so loopback is enough.
# c.ControllerApp.ip = '127.0.0.1'
