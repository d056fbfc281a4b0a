/* What the two halves of the user-space switch share: hosts.c makes the hosts, switch.c carries their frames. */
#ifndef GRIDNN_SWITCH_H
#define GRIDNN_SWITCH_H

#include <stdint.h>
#include <sys/types.h>

enum { MAX_HOSTS = 64 };

/* The links of a cluster: every host has one, full duplex, to a switch that never drops. */
struct links {
    const char *folder; /* of the cluster's files */
    int hosts;
    double mbit;        /* rate of a link, each way */
    int64_t delay_ns;   /* one way, host to host */
    int mtu;            /* bytes of an IP packet */
};

/* Make host `number`: a process in namespaces of its own that holds them open, and its interface.
 * Returns the file of the interface (a read is a frame that the host sends, a write one that it gets);
 * -1 after a message on stderr. */
int open_host(const struct links *links, int number, pid_t *holder);

#endif
