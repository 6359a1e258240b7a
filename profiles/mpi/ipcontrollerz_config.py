# ipcontrollerz: the hub and the schedulers, on the host where mpiexec is started.
#
# Each commented line shows a setting with its default; remove the "#" to change it.  The
# command line wins over this file.  All settings: ipcontrollerz --help-all

c = get_config()

# The address to listen on.  Loopback is enough for ranks on this host; for ranks on others
# 'auto' finds this host's address.
# c.ControllerApp.ip = '127.0.0.1'
