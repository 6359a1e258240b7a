# ipclusterz: a controller on this host, engines as the ranks of an MPI job.
#
#   ipclusterz start --profile=mpi -n 4
#
# Each commented line shows a setting with its default; remove the "#" to change it.  The
# command line wins over this file.  All settings: ipclusterz start --engines=mpi -h

c = get_config()

# The launcher of engines.
c.StartApp.engines = "mpi"

# What starts MPI jobs: mpiexec, mpirun, srun, or a path.
# c.MPILauncher.mpi_cmd = 'mpiexec'

# Further arguments for it, like ['--hostfile=hosts', '--bind-to=none'].
# c.MPILauncher.mpi_args = []
