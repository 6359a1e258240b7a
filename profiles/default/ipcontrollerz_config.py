# ipcontrollerz: the hub and the schedulers.
#
# Each line shows a setting with its default; remove the "#" to change it.  The command
# line wins over this file.  All settings: ipcontrollerz --help-all

c = get_config()

# The address to listen on.  Loopback lets only this machine in; other machines come
# through SSH.  Any other address is logged at each start.
# c.ControllerApp.ip = '127.0.0.1'
