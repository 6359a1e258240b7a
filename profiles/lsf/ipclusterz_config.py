# ipclusterz: a controller on this host, engines in jobs of LSF.
#
#   ipclusterz start --profile=lsf -n 128 --dry-run    # what would be submitted
#   ipclusterz start --profile=lsf -n 128              # returns when it is accepted
#
# Each commented line shows a setting with its default; remove the "#" to change it.  The
# command line wins over this file.  All settings: ipclusterz start --engines=lsf -h
#
# LSF could not be tried by the tests of this project: tell us what does not work.

c = get_config()

# The launcher of engines.
c.StartApp.engines = "lsf"

# The queue or partition; empty: the system's own choice.
# c.LSFLauncher.queue = ''

# How long a job may run: '1:30:00', '2-00:00:00', '90m' or '12h'; empty: the queue's limit.
# c.LSFLauncher.walltime = ''

# The account or project to charge.
# c.LSFLauncher.account = ''

# Engines on each node; 0: all of a job's on one node.
# c.LSFLauncher.engines_per_node = 0

# 'one' job, a job 'array', or a job 'per-node'; empty: one, or an array for several nodes.
# c.LSFLauncher.shape = ''

# Further directives, without their mark, like ['-R "rusage[mem=8000]"'].
# c.LSFLauncher.directive = []

# Lines of shell before the engines, like ['module load gcc'].
# c.LSFLauncher.setup = []

# A template of the whole script; empty: one is made, see --dry-run.
# c.LSFLauncher.batch_template = ''
