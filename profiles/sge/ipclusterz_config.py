# ipclusterz: a controller on this host, engines in jobs of Grid Engine.
#
#   ipclusterz start --profile=sge -n 128 --dry-run    # what would be submitted
#   ipclusterz start --profile=sge -n 128              # returns when it is accepted
#
# Each commented line shows a setting with its default; remove the "#" to change it.  The
# command line wins over this file.  All settings: ipclusterz start --engines=sge -h
#
# Grid Engine could not be tried by the tests of this project: tell us what does not work.

c = get_config()

# The launcher of engines.
c.StartApp.engines = "sge"

# The queue or partition; empty: the system's own choice.
# c.SGELauncher.queue = ''

# How long a job may run: '1:30:00', '2-00:00:00', '90m' or '12h'; empty: the queue's limit.
# c.SGELauncher.walltime = ''

# The account or project to charge.
# c.SGELauncher.account = ''

# Engines on each node; 0: all of a job's on one node.
# c.SGELauncher.engines_per_node = 0

# 'one' job, a job 'array', or a job 'per-node'; empty: one, or an array for several nodes.
# c.SGELauncher.shape = ''

# Further directives, without their mark, like ['-l mem_free=8G'].
# c.SGELauncher.directive = []

# Lines of shell before the engines, like ['module load gcc'].
# c.SGELauncher.setup = []

# A template of the whole script; empty: one is made, see --dry-run.
# c.SGELauncher.batch_template = ''
