/* Event loop of the execution simulator.
 *
 * rule       a task is ready when all it waits for have ended; a device serves by (ready, key), one task at a time
 * order      a successor has the larger key, so tasks leave the heap with (ready, key) ascending
 * delta      "the past cannot change": while the old order pops only tasks that nothing touched, and no touched task
 *            is due before them, the new order is the same and is copied; from there on the loop runs
 *
 *            old order   a b c d | e f g ...        e is touched, or a touched task is due before e
 *            new order   a b c d | x e g ...        kept = 4
 *
 * exact      integers only; the result does not depend on how the graph came about
 * reference  gridnn/plan/simulate/loop.py
 *
 * Tasks live in slots.  A segment (an operation, or an edge between two) owns a run of slots and a table of
 * dependencies: row -> targets.  Rows of an edge are the tasks of its source, of its target, then its own; a target
 * is packed as (which << 28 | number in that segment), which = 0 source, 1 target, 2 own.
 */
#include <stdint.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

enum { SHIFT = 28, OWN = 2, TOUCHED = 1, GONE = 2 };

typedef struct {
    int64_t ns, key;
    int32_t device, segment; /* device -1: none, unlimited */
} task;

typedef struct {
    int64_t ready, start, end;
} times;

typedef struct {
    int64_t operations, segments, devices, slots;
    const task *tasks;                         /* by slot */
    const int32_t *source, *target;            /* by segment: operations of an edge, itself for an operation */
    const int32_t *incident_from, *incident;   /* operation -> 2 * edge segment + (it is the edge's target) */
} graph;

/* Where the segments are in one state of the graph: four rows of `segments` numbers. */
typedef struct {
    const int64_t *base, *size, *rows, *targets; /* first slot, slots, address of int32 rows, of int32 targets */
} places;

typedef struct {
    times *at;      /* by slot */
    int32_t *order; /* slots as they were popped */
    int64_t count, kept, makespan, over;
} schedule;

typedef struct {
    int64_t ready, key;
    int64_t slot;
} entry;

typedef struct {
    int32_t *pending; /* by slot: predecessors that have not ended */
    uint8_t *mark;    /* by slot */
    int64_t *free_at, *left; /* by device: when it is free, nanoseconds of tasks it has not begun */
    entry *heap;
} scratch;

static inline const int32_t *ints(int64_t address) { return (const int32_t *)(intptr_t)address; }

static places places_of(const int64_t *table, int64_t segments) {
    return (places){table, table + segments, table + 2 * segments, table + 3 * segments};
}

static inline int before(int64_t ready, int64_t key, int64_t other_ready, int64_t other_key) {
    return ready < other_ready || (ready == other_ready && key < other_key);
}

static void push(entry *heap, int64_t *n, entry e) {
    int64_t i = (*n)++;
    while (i > 0) {
        const int64_t up = (i - 1) / 2;
        if (!before(e.ready, e.key, heap[up].ready, heap[up].key)) break;
        heap[i] = heap[up];
        i = up;
    }
    heap[i] = e;
}

static entry pop(entry *heap, int64_t *n) {
    const entry top = heap[0], last = heap[--*n];
    int64_t i = 0;
    for (int64_t child; (child = 2 * i + 1) < *n; i = child) {
        if (child + 1 < *n && before(heap[child + 1].ready, heap[child + 1].key, heap[child].ready, heap[child].key))
            child++;
        if (!before(heap[child].ready, heap[child].key, last.ready, last.key)) break;
        heap[i] = heap[child];
    }
    heap[i] = last;
    return top;
}

/* The three first slots that a segment's packed targets count from. */
static inline void bases(const graph *g, places p, int64_t s, int64_t base[3]) {
    base[0] = p.base[g->source[s]];
    base[1] = p.base[g->target[s]];
    base[OWN] = p.base[s];
}

typedef struct {
    const graph *g;
    places p;
    schedule *out;
    scratch *s;
    entry first; /* the earliest touched task that is due */
    int64_t heap;
} loop;

/* Tell the targets of one row that a predecessor ended; those that wait for no more go into the heap,
 * or, while the past is copied, only the earliest touched one is noted. */
static inline void row_ended(loop *l, int64_t segment, int64_t row, int64_t end, int copying) {
    int64_t base[3];
    bases(l->g, l->p, segment, base);
    const int32_t *rows = ints(l->p.rows[segment]), *targets = ints(l->p.targets[segment]);
    for (int32_t i = rows[row]; i < rows[row + 1]; i++) {
        const int64_t t = base[targets[i] >> SHIFT] + (targets[i] & ((1 << SHIFT) - 1));
        int64_t *ready = &l->out->at[t].ready;
        if (end > *ready) *ready = end;
        if (--l->s->pending[t]) continue;
        const int64_t key = l->g->tasks[t].key;
        if (!copying)
            push(l->s->heap, &l->heap, (entry){*ready, key, t});
        else if (l->s->mark[t] && before(*ready, key, l->first.ready, l->first.key))
            l->first = (entry){*ready, key, t};
    }
}

static inline void ended(loop *l, int64_t slot, int64_t end, int copying) {
    const graph *g = l->g;
    const int64_t s = g->tasks[slot].segment, own = slot - l->p.base[s];
    if (s >= g->operations) {
        row_ended(l, s, l->p.size[g->source[s]] + l->p.size[g->target[s]] + own, end, copying);
        return;
    }
    row_ended(l, s, own, end, copying);
    for (int32_t i = g->incident_from[s]; i < g->incident_from[s + 1]; i++) {
        const int64_t edge = g->incident[i] >> 1;
        row_ended(l, edge, (g->incident[i] & 1 ? l->p.size[g->source[edge]] : 0) + own, end, copying);
    }
}

/* Rows of a segment's table in one state. */
static int64_t rows_of(const graph *g, places p, int64_t s) {
    return s < g->operations ? p.size[s] : p.size[g->source[s]] + p.size[g->target[s]] + p.size[s];
}

static void touch(loop *l, int64_t t) {
    if (l->s->mark[t]) return;
    l->s->mark[t] = TOUCHED;
    if (l->s->pending[t] == 0 && before(0, l->g->tasks[t].key, l->first.ready, l->first.key))
        l->first = (entry){0, l->g->tasks[t].key, t};
}

static void touch_targets(loop *l, places p, int64_t s) {
    int64_t base[3];
    bases(l->g, p, s, base);
    const int32_t *rows = ints(p.rows[s]), *targets = ints(p.targets[s]);
    for (int32_t i = 0; i < rows[rows_of(l->g, p, s)]; i++)
        touch(l, base[targets[i] >> SHIFT] + (targets[i] & ((1 << SHIFT) - 1)));
}

static inline void push_if_due(loop *l, int64_t t) {
    if (l->s->pending[t] == 0) push(l->s->heap, &l->heap, (entry){l->out->at[t].ready, l->g->tasks[t].key, t});
}

/* Mark what changed, copy the part of the old order that cannot differ, fill the heap with what is due then. */
static void keep_the_past(loop *l, places was, const schedule *old, const int32_t *changed, int64_t changes) {
    const graph *g = l->g;
    scratch *s = l->s;
    schedule *out = l->out;
    memset(s->mark, 0, (size_t)g->slots);
    for (int64_t i = 0; i < changes; i++) {
        const int64_t c = changed[i];
        memset(s->mark + was.base[c], GONE, (size_t)was.size[c]);
    }
    for (int64_t i = 0; i < changes; i++) {
        const int64_t c = changed[i];
        for (int64_t t = l->p.base[c]; t < l->p.base[c] + l->p.size[c]; t++) touch(l, t);
        touch_targets(l, was, c);
        touch_targets(l, l->p, c);
    }
    int64_t k = 0;
    for (; k < old->count; k++) {
        const int64_t t = old->order[k];
        const task *x = g->tasks + t;
        const times when = old->at[t];
        if (s->mark[t] || before(l->first.ready, l->first.key, when.ready, x->key)) break;
        out->at[t] = when;
        out->order[k] = (int32_t)t;
        if (when.end > out->makespan) out->makespan = when.end;
        if (x->device >= 0) {
            s->free_at[x->device] = when.end;
            s->left[x->device] -= x->ns;
        }
        ended(l, t, when.end, 1);
    }
    out->kept = out->count = k;
    for (; k < old->count; k++)
        if (s->mark[old->order[k]] != GONE) push_if_due(l, old->order[k]);
    for (int64_t i = 0; i < changes; i++)
        for (int64_t t = l->p.base[changed[i]], to = t + l->p.size[changed[i]]; t < to; t++) push_if_due(l, t);
}

/* Simulate the graph in the state `table`.
 *
 * With `old` (a complete schedule of the state `old_table`, from which the segments `changed` differ) only what can
 * differ is simulated.  Stops with `over` as soon as the makespan is certain to exceed `bound`: a device cannot end
 * before all it has left is done. */
EXPORT void gridnn_plan_simulate(const graph *g, const int64_t *table, schedule *out, scratch *s, int64_t bound,
                                 const int64_t *old_table, const schedule *old, const int32_t *changed,
                                 int64_t changes) {
    loop l = {g, places_of(table, g->segments), out, s, {INT64_MAX, INT64_MAX, -1}, 0};
    out->count = out->kept = out->makespan = out->over = 0;
    memset(s->free_at, 0, (size_t)g->devices * sizeof *s->free_at);
    memset(s->left, 0, (size_t)g->devices * sizeof *s->left);
    for (int64_t i = 0; i < g->segments; i++)
        for (int64_t t = l.p.base[i]; t < l.p.base[i] + l.p.size[i]; t++) {
            const task *x = g->tasks + t;
            out->at[t].ready = s->pending[t] = 0;
            if (x->device >= 0) s->left[x->device] += x->ns;
        }
    for (int64_t i = 0; i < g->segments; i++) {
        int64_t base[3];
        bases(g, l.p, i, base);
        const int32_t *rows = ints(l.p.rows[i]), *targets = ints(l.p.targets[i]);
        for (int32_t j = 0; j < rows[rows_of(g, l.p, i)]; j++)
            s->pending[base[targets[j] >> SHIFT] + (targets[j] & ((1 << SHIFT) - 1))]++;
    }
    for (int64_t d = 0; d < g->devices; d++) out->over |= s->left[d] > bound;
    if (out->over) return;

    if (old)
        keep_the_past(&l, places_of(old_table, g->segments), old, changed, changes);
    else
        for (int64_t i = 0; i < g->segments; i++)
            for (int64_t t = l.p.base[i]; t < l.p.base[i] + l.p.size[i]; t++) push_if_due(&l, t);

    while (l.heap) {
        const entry e = pop(s->heap, &l.heap);
        const task *x = g->tasks + e.slot;
        int64_t start = e.ready, least = 0;
        if (x->device >= 0) {
            int64_t *free_at = s->free_at + x->device, *left = s->left + x->device;
            if (*free_at > start) start = *free_at;
            *free_at = start + x->ns;
            least = start + *left;
            *left -= x->ns;
        }
        const int64_t end = start + x->ns;
        out->at[e.slot] = (times){e.ready, start, end};
        out->order[out->count++] = (int32_t)e.slot;
        if (end > out->makespan) out->makespan = end;
        if (out->makespan > bound || least > bound) {
            out->over = 1;
            return;
        }
        ended(&l, e.slot, end, 0);
    }
}
