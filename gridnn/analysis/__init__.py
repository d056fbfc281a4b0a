"""The communication-cost analysis tool: what a network costs on a grid, how far that scales, and whether it came true.

| file                      | answers                                                                              |
|---------------------------|--------------------------------------------------------------------------------------|
| `layers`, `grids`         | what each layer, and each Pr x Pc, computes and moves                                |
| `scaling`, `sensitivity`  | over processes; over alpha, beta, batch and image size                               |
| `bounds`                  | what is moved beside the least that must be                                          |
| `paper`                   | the figures of Gholami et al. 2018 and Jia et al. 2018's traffic                     |
| `compare`, `trace`        | what became of it: predicted, counted, measured                                      |
| `report`                  | one page of all                                                                      |
| `notebook`                | all of it as functions of plain values; start there                                  |

Every function returns `Table` or `Chart` values.  Nothing here needs MPI; of runs only their records are read.
"""
