# ipclusterz: a controller on this host, engines in jobs of Slurm.
#
#   ipclusterz start --profile=slurm -n 128 --dry-run    # what would be submitted
#   ipclusterz start --profile=slurm -n 128              # returns when it is accepted
#
# Each commented line shows a setting with its default; remove the "#" to change it.  The
# command line wins over this file.  All settings: ipclusterz start --engines=slurm -h

c = get_config()

# The launcher of engines.
c.StartApp.engines = "slurm"

# The queue or partition; empty: the system's own choice.
# c.SlurmLauncher.queue = ''

# How long a job may run: '1:30:00', '2-00:00:00', '90m' or '12h'; empty: the queue's limit.
# c.SlurmLauncher.walltime = ''

# The account or project to charge.
# c.SlurmLauncher.account = ''

# Engines on each node; 0: all of a job's on one node.
# c.SlurmLauncher.engines_per_node = 0

# 'one' job, a job 'array', or a job 'per-node'; empty: one, or an array for several nodes.
# c.SlurmLauncher.shape = ''

# Further directives, without their mark, like ['--mem=8G'].
# c.SlurmLauncher.directive = []

# Lines of shell before the engines, like ['module load gcc'].
# c.SlurmLauncher.setup = []

# A template of the whole script; empty: one is made, see --dry-run.
# c.SlurmLauncher.batch_template = ''
