# ipcontrollerz: the hub and the schedulers, on the host where jobs are submitted.
#
# Each commented line shows a setting with its default; remove the "#" to change it.  The
# command line wins over this file.  All settings: ipcontrollerz --help-all

c = get_config()

# The address to listen on.  Engines on other nodes must reach it, so it is not loopback:
# 'auto' finds this host's address; name one if there are several and it is the wrong one.
c.ControllerApp.ip = "auto"
