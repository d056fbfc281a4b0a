// A block of CUDA threads on one CPU thread: who runs when, who waits for whom, and what a GPU would not tell.
//
// Warps are run greedily: one runs until all of it waits for the block (or has ended), then the next.  That is the
// largest lead a warp can have, so that where a barrier is missing the numbers are wrong.  Warps, and lanes in a warp,
// are taken in one of three orders: forward, reverse, shuffled.
//
// | a thread waits at     | it goes on when                                   | it is an error when                    |
// |-----------------------|---------------------------------------------------|----------------------------------------|
// | __syncthreads         | all threads that have not ended wait there        | some wait at another line              |
// | shuffle, ballot,      | all lanes of its mask wait there                  | a lane of the mask has ended, waits    |
// | __syncwarp            |                                                   | for the block, or has another mask     |
#pragma once

#include <algorithm>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <random>
#include <vector>

#include "fibers.h"

struct uint3 {
    unsigned x, y, z;
};

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

namespace shim {

constexpr unsigned WARP = 32;

enum class State : uint8_t { READY, AT_WARP, AT_BLOCK, ENDED };
enum class Op : uint8_t { NONE, SHUFFLE, BALLOT };

// A copy into shared memory that a thread has started.
struct Copy {
    void* to;
    const void* from;
    size_t bytes, zeros;  // of `bytes`, the last ones
    unsigned batch;
};

struct Thread {
    uint3 index{};
    State state = State::READY;
    Op op = Op::NONE;
    int line = 0;
    unsigned mask = 0, source = 0;
    uint64_t given = 0, got = 0;
    Fiber* fiber = nullptr;
    unsigned batch = 0;  // of the copies that are started now
    std::vector<Copy> copies;
};

static dim3 grid_dim, block_dim;
static uint3 block_index;
static std::vector<Thread> threads;
static Thread* now;
static void (*body)(void*);
static void* body_arguments;
static char message[512];
static bool failed;

static unsigned lane_of(const Thread* t) { return static_cast<unsigned>(t - threads.data()) % WARP; }

static void say(const char* format, ...) {
    if (failed) return;  // the first word is the cause
    failed = true;
    va_list words;
    va_start(words, format);
    vsnprintf(message, sizeof message, format, words);
    va_end(words);
}

static void fiber_main() {
    for (;;) {
        body(body_arguments);
        now->state = State::ENDED;
        suspend(now->fiber);
    }
}

static void wait_for_block(int line) {
    now->state = State::AT_BLOCK;
    now->line = line;
    suspend(now->fiber);
}

static uint64_t wait_for_warp(Op op, unsigned mask, uint64_t given, unsigned source, int line) {
    if (!(mask >> lane_of(now) & 1)) say("line %d: lane %u is not in its own mask %08x", line, lane_of(now), mask);
    now->state = State::AT_WARP;
    now->op = op;
    now->line = line;
    now->mask = mask;
    now->given = given;
    now->source = source;
    suspend(now->fiber);
    return now->got;
}

// Copies are made when they are waited for, no sooner: without the wait what they bring is not there.
static void start_copy(void* to, const void* from, size_t bytes, size_t zeros, int line) {
    const auto wrong = (reinterpret_cast<uintptr_t>(to) | reinterpret_cast<uintptr_t>(from)) % bytes;
    if (wrong || (bytes != 4 && bytes != 8 && bytes != 16) || zeros > bytes)
        return say("line %d: a copy of %zu bytes, %zu of them zero, from %p to %p", line, bytes, zeros, from, to);
    now->copies.push_back({to, from, bytes, zeros, now->batch});
}

static void wait_for_copies(unsigned but_the_last) {
    std::vector<Copy> left;
    for (const Copy& copy : now->copies) {
        if (copy.batch + but_the_last >= now->batch) {
            left.push_back(copy);
            continue;
        }
        if (copy.zeros < copy.bytes) memcpy(copy.to, copy.from, copy.bytes - copy.zeros);
        memset(static_cast<char*>(copy.to) + copy.bytes - copy.zeros, 0, copy.zeros);
    }
    now->copies.swap(left);
}

// Let the lanes of one mask go on if all of them are there.
static bool meet(Thread* warp, unsigned lanes, Thread* first) {
    uint64_t votes = 0;
    for (unsigned lane = 0; lane < WARP; ++lane) {
        if (!(first->mask >> lane & 1)) continue;
        if (lane >= lanes || warp[lane].state == State::ENDED) {
            say("line %d: lane %u of mask %08x has ended", first->line, lane, first->mask);
            return false;
        }
        const Thread& t = warp[lane];
        if (t.state != State::AT_WARP || t.line != first->line) return false;  // still on its way, or elsewhere
        if (t.mask != first->mask) say("line %d: masks %08x and %08x meet", t.line, t.mask, first->mask);
        votes |= static_cast<uint64_t>(t.given != 0) << lane;
    }
    for (unsigned lane = 0; lane < lanes; ++lane) {
        Thread& t = warp[lane];
        if (!(first->mask >> lane & 1)) continue;
        if (t.op == Op::SHUFFLE && !(t.mask >> t.source & 1))
            say("line %d: lane %u reads lane %u outside mask %08x", t.line, lane, t.source, t.mask);
        t.got = t.op == Op::BALLOT ? votes : warp[t.source % WARP].given;
        t.state = State::READY;
    }
    return true;
}

// Run a warp until every lane waits for the block or has ended.
static void run_warp(Thread* warp, const std::vector<unsigned>& order) {
    const unsigned lanes = static_cast<unsigned>(order.size());
    for (bool moved = true; moved && !failed;) {
        moved = false;
        for (unsigned lane : order) {
            Thread& t = warp[lane];
            if (t.state != State::READY) continue;
            if (t.fiber == nullptr && (t.fiber = fibers.take()) == nullptr) return say("no memory for a stack");
            now = &t;
            resume(t.fiber);
            if (failed) return;
            if (t.state == State::ENDED) fibers.give_back(t.fiber), t.fiber = nullptr;
            moved = true;
        }
        for (unsigned lane = 0; lane < lanes; ++lane)
            if (warp[lane].state == State::AT_WARP && meet(warp, lanes, warp + lane)) moved = true;
    }
    for (unsigned lane = 0; lane < lanes; ++lane)
        if (warp[lane].state == State::AT_WARP)
            say("line %d: lane %u waits for lanes of mask %08x that never come", warp[lane].line, lane, warp[lane].mask);
}

enum Order { FORWARD, REVERSE, SHUFFLED };

static std::vector<unsigned> ordered(unsigned count, int order, std::mt19937& random) {
    std::vector<unsigned> found(count);
    for (unsigned i = 0; i < count; ++i) found[i] = order == REVERSE ? count - 1 - i : i;
    if (order == SHUFFLED) std::shuffle(found.begin(), found.end(), random);
    return found;
}

// Run the threads of a block to their end.
static void run_block(int order, std::mt19937& random) {
    const unsigned count = block_dim.x * block_dim.y * block_dim.z, warps = (count + WARP - 1) / WARP;
    threads.assign(count, Thread());
    for (unsigned i = 0; i < count; ++i)
        threads[i].index = {i % block_dim.x, i / block_dim.x % block_dim.y, i / block_dim.x / block_dim.y};
    for (;;) {
        for (unsigned warp : ordered(warps, order, random)) {
            run_warp(&threads[warp * WARP], ordered(std::min(WARP, count - warp * WARP), order, random));
            if (failed) return;
        }
        const Thread* first = nullptr;
        for (Thread& t : threads) {
            if (t.state == State::ENDED) continue;
            if (first == nullptr) first = &t;
            if (t.line != first->line)
                return say("threads of a block wait at different barriers: lines %d and %d", first->line, t.line);
        }
        if (first == nullptr) return;
        for (Thread& t : threads)
            if (t.state == State::AT_BLOCK) t.state = State::READY;
    }
}

}  // namespace shim
