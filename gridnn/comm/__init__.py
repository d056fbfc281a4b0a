"""Arrays between processes: the one room that names MPI."""
