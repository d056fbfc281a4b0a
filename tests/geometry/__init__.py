"""Laws of gridnn.geometry, without MPI."""
