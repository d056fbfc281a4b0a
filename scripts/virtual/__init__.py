"""Several hosts on one Linux machine: namespaces with shaped links between them, and MPI across them.

| file                     | about                                                                     |
|--------------------------|---------------------------------------------------------------------------|
| `command`                | the words of `scripts/virtual_cluster`                                    |
| `cluster`, `keeper`      | a cluster as a folder: start, find, clean away; who watches over it       |
| `needs`                  | what a machine must have for it                                           |
| `processes`              | which programs belong to it                                               |
| `inside`, `enter`        | running in hosts: one program, or MPI with `enter` as its ssh             |
| `talk`                   | what a command says                                                       |
| `counters`               | what went over the links                                                  |
| `wire`                   | plain sockets, to measure the links by                                    |
| `switch.c`, `hosts.c`    | the links; the namespaces                                                 |

Nothing but Python's own library, a C compiler and util-linux is used, so that it runs before anything is installed.
"""
