# ipclusterz: a controller on this host, engines in jobs of HTCondor.
#
#   ipclusterz start --profile=htcondor -n 128 --dry-run    # what would be submitted
#   ipclusterz start --profile=htcondor -n 128              # returns when it is accepted
#
# Each commented line shows a setting with its default; remove the "#" to change it.  The
# command line wins over this file.  All settings: ipclusterz start --engines=htcondor -h
#
# HTCondor could not be tried by the tests of this project: tell us what does not work.

c = get_config()

# The launcher of engines.
c.StartApp.engines = "htcondor"

# The queue or partition; empty: the system's own choice.
# HTCondor has no queues; what your site calls one is a directive.
# c.HTCondorLauncher.queue = ''

# How long a job may run: '1:30:00', '2-00:00:00', '90m' or '12h'; empty: the queue's limit.
# c.HTCondorLauncher.walltime = ''

# The account or project to charge.
# c.HTCondorLauncher.account = ''

# Engines on each node; 0: all of a job's on one node.
# c.HTCondorLauncher.engines_per_node = 0

# 'one' job, a job 'array', or a job 'per-node'; empty: one, or an array for several nodes.
# c.HTCondorLauncher.shape = ''

# Further directives, without their mark, like ['request_memory = 8GB'].
# c.HTCondorLauncher.directive = []

# Lines of shell before the engines, like ['module load gcc'].
# c.HTCondorLauncher.setup = []

# A template of the whole script; empty: one is made, see --dry-run.
# c.HTCondorLauncher.batch_template = ''
