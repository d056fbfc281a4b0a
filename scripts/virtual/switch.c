/* A user-space switch: hosts in namespaces, and links between them with a rate and a delay.
 *
 *     switch FOLDER HOSTS MBIT DELAY_US MTU LIMIT_S
 *
 *     host a --> [queue for b] \                         / b's link: frames of all
 *                [queue for c] -> a's link --- delay --->     senders, in order of  --> host b
 *                [queue for d] /  a frame at              \   arrival
 *                                 a time, by turns
 *
 * A frame holds a link for its bytes / rate, at the sender and, behind others, at the receiver; alone it passes both
 * at once (the first bit goes on before the last has come), so that n bytes between idle hosts take delay + n / rate.
 * Nothing is dropped: queues are as long as what TCP has on its way, and a host that still sends more is not read.
 *
 * Times are planned, not slept: a frame's end follows from the end of the one before, so that waking late takes no
 * bandwidth; and we ask to wake as much earlier as we are late as a rule, which is measured at the start.
 *
 * FOLDER/counters holds, as 64-bit numbers: hosts, frames lost, then frames and then bytes from every host (row) to
 * every host.  On stdout go the holders of the hosts, then "ready".  Ends at SIGTERM or after LIMIT_S seconds, and all
 * hosts with it.
 */
#define _GNU_SOURCE
#include "switch.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct frame {
    struct frame *next;
    int64_t at; /* ns: read, then at the end of the sender's link, then at the end of the receiver's */
    int from, to, bytes;
    unsigned char data[];
};

struct queue { struct frame *first, *last; };

static struct links links;
static int room;                                   /* bytes of a frame, at most */
static int taps[MAX_HOSTS];
static struct queue waiting[MAX_HOSTS][MAX_HOSTS]; /* from, to: not yet sent */
static struct queue leaving[MAX_HOSTS];            /* to: on the receiver's link */
static int64_t sender_free[MAX_HOSTS], receiver_free[MAX_HOSTS];
static int64_t held[MAX_HOSTS];                    /* bytes of a sender in here */
static int turn[MAX_HOSTS];
static struct frame **arriving, *spare;            /* a heap by `at`: between the links */
static int arrivals, arrivals_room;
static int64_t late_ns;                            /* how late we wake, as a rule */
static int64_t batch_ns;                           /* what is due so soon is done while we are awake */
static volatile uint64_t *counters;
static volatile sig_atomic_t over;

static const int64_t HELD_MOST = 64 << 20;

static int64_t clock_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static int64_t later(int64_t a, int64_t b) { return a > b ? a : b; }
static int64_t earlier(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t on_link_ns(const struct frame *f) { return (int64_t)(f->bytes * 8e3 / links.mbit); }

static void put(struct queue *q, struct frame *f) {
    f->next = NULL;
    if (q->first) q->last->next = f;
    else q->first = f;
    q->last = f;
}

static struct frame *take(struct queue *q) {
    struct frame *f = q->first;
    if (f) q->first = f->next;
    return f;
}

static void put_arriving(struct frame *f) {
    if (arrivals == arrivals_room) {
        arrivals_room = arrivals_room ? 2 * arrivals_room : 1024;
        arriving = realloc(arriving, (size_t)arrivals_room * sizeof *arriving);
        if (!arriving) abort();
    }
    int at = arrivals++;
    for (; at && arriving[(at - 1) / 2]->at > f->at; at = (at - 1) / 2) arriving[at] = arriving[(at - 1) / 2];
    arriving[at] = f;
}

static struct frame *take_arriving(void) {
    struct frame *first = arriving[0], *f = arriving[--arrivals];
    int at = 0;
    for (int child; (child = 2 * at + 1) < arrivals; at = child) {
        if (child + 1 < arrivals && arriving[child + 1]->at < arriving[child]->at) child++;
        if (arriving[child]->at >= f->at) break;
        arriving[at] = arriving[child];
    }
    arriving[at] = f;
    return first;
}

static struct frame *fresh(void) {
    struct frame *f = spare;
    if (f) spare = f->next;
    else if (!(f = malloc(sizeof *f + (size_t)room))) abort();
    return f;
}

static void done(struct frame *f) {
    f->next = spare;
    spare = f;
}

/* Take all that a host wants to send; what is not for a host of ours (nothing should be) is let go. */
static void read_host(int host, int64_t now) {
    while (held[host] < HELD_MOST) {
        struct frame *f = fresh();
        f->bytes = (int)read(taps[host], f->data, (size_t)room);
        if (f->bytes < 14) {
            done(f);
            return;
        }
        f->at = now;
        f->from = host;
        f->to = f->data[5];
        if (f->data[0] != 0x02 || f->to >= links.hosts || f->to == host) {
            done(f);
            continue;
        }
        held[host] += f->bytes;
        put(&waiting[host][f->to], f);
    }
}

static struct frame *next_in_turn(int host) {
    for (int step = 1; step <= links.hosts; step++) {
        int to = (turn[host] + step) % links.hosts;
        if (waiting[host][to].first) {
            turn[host] = to;
            return take(&waiting[host][to]);
        }
    }
    return NULL;
}

static void send_host(int host, int64_t soon) {
    struct frame *f;
    while (sender_free[host] <= soon && (f = next_in_turn(host))) {
        sender_free[host] = later(sender_free[host], f->at) + on_link_ns(f);
        f->at = sender_free[host] + links.delay_ns;
        put_arriving(f);
    }
}

static void arrive(int64_t soon) {
    while (arrivals && arriving[0]->at <= soon) {
        struct frame *f = take_arriving();
        receiver_free[f->to] = f->at = later(f->at, receiver_free[f->to] + on_link_ns(f));
        put(&leaving[f->to], f);
    }
}

static void deliver(int host, int64_t soon) {
    while (leaving[host].first && leaving[host].first->at <= soon) {
        struct frame *f = take(&leaving[host]);
        uint64_t pair = (uint64_t)(f->from * links.hosts + f->to), pairs = (uint64_t)(links.hosts * links.hosts);
        if (write(taps[host], f->data, (size_t)f->bytes) == f->bytes) {
            counters[2 + pair] += 1;
            counters[2 + pairs + pair] += (uint64_t)f->bytes;
        } else {
            counters[1] += 1; /* its interface is down */
        }
        held[f->from] -= f->bytes;
        done(f);
    }
}

static void carry(int64_t end_ns, const sigset_t *unblocked) {
    struct pollfd polled[MAX_HOSTS] = {0};
    while (!over) {
        int64_t now = clock_ns(), soon = now + late_ns + batch_ns, wake = end_ns;
        if (now >= end_ns) return;
        for (int h = 0; h < links.hosts; h++) {
            if (polled[h].revents) read_host(h, now); /* most wake-ups are the clock's */
            send_host(h, now + batch_ns);
        }
        arrive(soon);
        for (int h = 0; h < links.hosts; h++) {
            deliver(h, soon);
            if (leaving[h].first) wake = earlier(wake, leaving[h].first->at);
            for (int to = 0; to < links.hosts; to++)
                if (waiting[h][to].first) wake = earlier(wake, sender_free[h]);
            polled[h] = (struct pollfd){taps[h], held[h] < HELD_MOST ? POLLIN : 0, 0};
        }
        if (arrivals) wake = earlier(wake, arriving[0]->at);
        int64_t left = later(0, wake - late_ns - clock_ns());
        struct timespec pause = {left / 1000000000, left % 1000000000};
        if (ppoll(polled, (nfds_t)links.hosts, &pause, unblocked) < 0)
            for (int h = 0; h < links.hosts; h++) polled[h].revents = 0;
    }
}

/* Return how much later than asked this machine wakes us: the lower quartile of some sleeps, for a busy moment is no
 * rule; 100 us at most. */
static int64_t usual_lateness_ns(void) {
    enum { TIMES = 41 };
    int64_t found[TIMES];
    for (int i = 0; i < TIMES; i++) {
        int64_t asked = clock_ns() + 200000;
        struct timespec pause = {0, 200000};
        ppoll(NULL, 0, &pause, NULL);
        int64_t late = clock_ns() - asked;
        int at = i;
        for (; at && found[at - 1] > late; at--) found[at] = found[at - 1];
        found[at] = late;
    }
    return earlier(100000, later(0, found[TIMES / 4]));
}

static void on_signal(int number) { over = number; }

static volatile uint64_t *map_counters(void) {
    char path[4096];
    size_t size = (size_t)(2 + 2 * links.hosts * links.hosts) * sizeof(uint64_t);
    snprintf(path, sizeof path, "%s/counters", links.folder);
    int file = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (file < 0 || ftruncate(file, (off_t)size) < 0) return NULL;
    void *found = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    return found == MAP_FAILED ? NULL : found;
}

int main(int count, char **words) {
    if (count != 7) {
        fprintf(stderr, "usage: switch FOLDER HOSTS MBIT DELAY_US MTU LIMIT_S\n");
        return 2;
    }
    links = (struct links){words[1], atoi(words[2]), atof(words[3]), (int64_t)(1e3 * atof(words[4])), atoi(words[5])};
    double limit_s = atof(words[6]);
    room = links.mtu + 64;
    if (links.hosts < 1 || links.hosts > MAX_HOSTS || !(links.mbit > 0) || links.delay_ns < 0 || links.mtu < 576)
        return 2;
    if (!(counters = map_counters())) {
        fprintf(stderr, "cannot make %s/counters: %s\n", links.folder, strerror(errno));
        return 1;
    }
    counters[0] = (uint64_t)links.hosts;
    pid_t holders[MAX_HOSTS];
    for (int h = 0; h < links.hosts; h++) {
        taps[h] = open_host(&links, h, &holders[h]);
        if (taps[h] < 0) return 1; /* the holders die with us */
        printf("holder %d\n", (int)holders[h]);
    }

    /* Only now, for the holders would inherit it: ahead of what computes, or frames wait for its time slices. */
    struct sched_param first = {.sched_priority = 10};
    int real_time = sched_setscheduler(0, SCHED_FIFO, &first) == 0;
    prctl(PR_SET_TIMERSLACK, 1);
    sigset_t blocked, unblocked;
    struct sigaction act = {.sa_handler = on_signal};
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGTERM);
    sigprocmask(SIG_BLOCK, &blocked, &unblocked);
    sigdelset(&unblocked, SIGTERM);
    sigaction(SIGTERM, &act, NULL);
    late_ns = usual_lateness_ns();
    batch_ns = earlier(40000, links.delay_ns / 5); /* waking takes longer than carrying a frame */
    printf("ready %s\n", real_time ? "real-time" : "shared");
    fclose(stdout);
    carry(clock_ns() + (int64_t)(1e9 * limit_s), &unblocked);
    for (int h = 0; h < links.hosts; h++) {
        kill(holders[h], SIGKILL);
        waitpid(holders[h], NULL, 0);
    }
    return 0;
}
