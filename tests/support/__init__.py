"""What the tests stand on: the rank pool, launching under mpiexec, the laws."""
