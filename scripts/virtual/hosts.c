/* A host: network, UTS (its name) and mount namespaces, held open by a process that sleeps in them.
 *
 *     what it has of its own                          why
 *     eth0, 10.77.0.(number + 1)/24, a TAP device     its only way out; the frames come to switch.c
 *     the name host<number>, in /etc/hosts            programs tell nodes apart by name
 *     /sys                                            some MPI libraries look for interfaces there
 *     /dev/shm                                        nothing is shared through memory; nothing stays behind
 *
 * All of it lives as long as the holder and the programs in it.  The holder dies with its parent, however that ends,
 * so that there is nothing to clean but programs.
 */
#define _GNU_SOURCE
#include "switch.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/ethtool.h>
#include <linux/if_tun.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

static void fail(const char *what) {
    fprintf(stderr, "%s: %s\n", what, strerror(errno));
    _exit(1);
}

static void must(int result, const char *what) {
    if (result < 0) fail(what);
}

static void address_of(int number, struct sockaddr *into) {
    struct sockaddr_in *in = (struct sockaddr_in *)into;
    memset(into, 0, sizeof *into);
    in->sin_family = AF_INET;
    in->sin_addr.s_addr = htonl(0x0a4d0000u + (uint32_t)number + 1); /* 10.77.0.1 is host 0 */
}

static void hardware_of(int number, struct sockaddr *into) {
    static const unsigned char first[] = {0x02, 0, 0x0a, 0x4d, 0};
    memset(into, 0, sizeof *into);
    into->sa_family = ARPHRD_ETHER;
    memcpy(into->sa_data, first, sizeof first);
    into->sa_data[5] = (char)number; /* what switch.c forwards by */
}

/* Set a kernel variable of the new network namespace.  Kernels differ in what they have, and none is needed. */
static void tune(const char *name, const char *value) {
    char path[128];
    snprintf(path, sizeof path, "/proc/sys/net/%s", name);
    int file = open(path, O_WRONLY | O_CLOEXEC);
    if (file < 0) return;
    if (write(file, value, strlen(value)) < 0) errno = 0;
    close(file);
}

static void tune_tcp(const struct links *links) {
    /* What is on its way on a connection waits in the switch, which holds all of it: 20 ms of the link. */
    double window = links->mbit * 1e6 / 8 * (20e-3 + 4e-9 * (double)links->delay_ns);
    char sizes[64];
    if (window < 65536) window = 65536;
    snprintf(sizes, sizeof sizes, "4096 131072 %.0f", 4 * window < 262144 ? 262144 : 4 * window);
    tune("ipv4/tcp_rmem", sizes);
    tune("ipv4/tcp_wmem", sizes);
    tune("ipv4/tcp_congestion_control", "reno"); /* nothing is lost: the window opens and stays; no probing */
    tune("ipv4/tcp_slow_start_after_idle", "0");
    tune("ipv4/tcp_rto_min_us", "2000000"); /* a queue is no loss */
    tune("ipv4/tcp_no_metrics_save", "1");
}

/* Give the host files of its own: the new /sys shows its interface, not the machine's. */
static void mount_own(const struct links *links) {
    char kept[4096], names[4096];
    snprintf(kept, sizeof kept, "%s/cgroup", links->folder);
    snprintf(names, sizeof names, "%s/hosts", links->folder);
    must(mount("none", "/", NULL, MS_REC | MS_SLAVE, NULL), "cannot make mounts private");
    int cgroups = mount("/sys/fs/cgroup", kept, NULL, MS_BIND | MS_REC, NULL) == 0; /* a new /sys would hide them */
    must(mount("sysfs", "/sys", "sysfs", 0, NULL), "cannot mount /sys");
    if (cgroups) must(mount(kept, "/sys/fs/cgroup", NULL, MS_MOVE, NULL), "cannot mount /sys/fs/cgroup");
    must(mount("tmpfs", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777"), "cannot mount /dev/shm");
    if (access("/etc/hosts", F_OK) == 0)
        must(mount(names, "/etc/hosts", NULL, MS_BIND, NULL), "cannot mount /etc/hosts");
}

static int open_interface(const struct links *links, int number) {
    struct ifreq ask = {0};
    int tap = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    must(tap, "cannot open /dev/net/tun");
    strcpy(ask.ifr_name, "eth0");
    ask.ifr_flags = IFF_TAP | IFF_NO_PI;
    must(ioctl(tap, TUNSETIFF, &ask), "cannot make a TAP device");

    int any = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    must(any, "socket");
    hardware_of(number, &ask.ifr_hwaddr);
    must(ioctl(any, SIOCSIFHWADDR, &ask), "hardware address");
    ask.ifr_mtu = links->mtu;
    must(ioctl(any, SIOCSIFMTU, &ask), "MTU");
    ask.ifr_qlen = 10000; /* frames; a full queue would drop */
    must(ioctl(any, SIOCSIFTXQLEN, &ask), "queue length");
    struct ethtool_cmd speed = {.cmd = ETHTOOL_SSET, .duplex = DUPLEX_FULL};
    ethtool_cmd_speed_set(&speed, links->mbit < 1 ? 1 : (uint32_t)links->mbit);
    ask.ifr_data = (void *)&speed;
    if (ioctl(any, SIOCETHTOOL, &ask) < 0) errno = 0; /* MPI may look at it; TAP says 10 Mbit/s where it cannot be set */
    address_of(number, &ask.ifr_addr);
    must(ioctl(any, SIOCSIFADDR, &ask), "address");
    ((struct sockaddr_in *)&ask.ifr_netmask)->sin_addr.s_addr = htonl(0xffffff00u);
    must(ioctl(any, SIOCSIFNETMASK, &ask), "netmask");
    ask.ifr_flags = IFF_UP | IFF_RUNNING;
    must(ioctl(any, SIOCSIFFLAGS, &ask), "eth0 up");

    /* Every neighbour is known from the start: no ARP between the messages that are timed. */
    for (int other = 0; other < links->hosts; other++) {
        struct arpreq known = {.arp_flags = ATF_PERM | ATF_COM};
        if (other == number) continue;
        address_of(other, &known.arp_pa);
        hardware_of(other, &known.arp_ha);
        strcpy(known.arp_dev, "eth0");
        must(ioctl(any, SIOCSARP, &known), "neighbour");
    }

    struct ifreq loop = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};
    must(ioctl(any, SIOCSIFFLAGS, &loop), "lo up");
    close(any);
    return tap;
}

/* Hand an open file to another process, or take it: a message of one byte that carries the file. */
static int pass(int channel, int file) {
    union { char bytes[CMSG_SPACE(sizeof(int))]; struct cmsghdr align; } room;
    char byte = 0;
    struct iovec one = {&byte, 1};
    struct msghdr message = {.msg_iov = &one, .msg_iovlen = 1, .msg_control = &room, .msg_controllen = sizeof room};
    if (file < 0) {
        if (recvmsg(channel, &message, MSG_CMSG_CLOEXEC) != 1 || !CMSG_FIRSTHDR(&message)) return -1;
        memcpy(&file, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof file);
        return file;
    }
    memset(&room, 0, sizeof room);
    struct cmsghdr *head = CMSG_FIRSTHDR(&message);
    *head = (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof file), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
    memcpy(CMSG_DATA(head), &file, sizeof file);
    return sendmsg(channel, &message, 0) == 1 ? 0 : -1;
}

static void hold(const struct links *links, int number, int channel, pid_t parent) {
    char name[32];
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(1);
    must(unshare(CLONE_NEWNET | CLONE_NEWUTS | CLONE_NEWNS), "cannot make namespaces");
    snprintf(name, sizeof name, "host%d", number);
    must(sethostname(name, strlen(name)), "cannot name the host");
    mount_own(links);
    tune("ipv6/conf/all/disable_ipv6", "1"); /* it would talk by itself */
    tune("ipv6/conf/default/disable_ipv6", "1");
    tune_tcp(links);
    must(pass(channel, open_interface(links, number)), "cannot hand over the interface");
    must(chdir("/"), "/");
    for (int file = 0; file < 1024; file++) close(file); /* the interface is the switch's, and goes with it */
    for (;;) pause();
}

int open_host(const struct links *links, int number, pid_t *holder) {
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0) return -1;
    pid_t parent = getpid();
    *holder = fork();
    if (*holder == 0) hold(links, number, ends[1], parent);
    close(ends[1]);
    int tap = *holder < 0 ? -1 : pass(ends[0], -1);
    close(ends[0]);
    return tap;
}
