"""The communication-cost analysis tool: what a network costs on a grid, how far that scales, and whether it came true.

Every function takes plain values and returns `Table` or `Chart` values, for notebooks as for `gridnn analyze`.
Nothing here needs MPI; of the doing wing only the records of runs are read.
"""
