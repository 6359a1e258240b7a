# ipclusterz: a controller on this host, engines on others by SSH.
#
#   ipclusterz start --profile=ssh
#
# Each commented line shows a setting with its default; remove the "#" to change it.  The
# command line wins over this file.  All settings: ipclusterz start --engines=ssh -h

c = get_config()

# The launcher of engines.
c.StartApp.engines = "ssh"

# Hosts, and how many engines each, or settings of each:
# {'node1': 4, 'ada@node2:2222': {'n': 8, 'setup': 'source ~/env/bin/activate'}}
# c.SSHLauncher.engines = {}

# Lines for the shell on each host before Python starts, like ['module load python'].
# c.SSHLauncher.setup = []

# Python on the hosts; empty: the path of this one, or else python3.
# c.SSHLauncher.python = ''

# The engines' folder on the hosts; empty: home.
# c.SSHLauncher.cwd = ''

# What engines have in their environment, like {'OMP_NUM_THREADS': '4'}.
# c.SSHLauncher.env = {}

# Files to copy to each host first, like ['data.txt', 'data.txt:/scratch/data.txt'].
# c.SSHLauncher.send = []

# Bring the engines' logs here when they have ended.
# c.SSHLauncher.fetch_logs = False

# The private key to log in with; empty: as your ssh configuration says.
# c.SSHLauncher.ssh_key = ''

# Hosts to begin at once.
# c.SSHLauncher.max_parallel = 16
