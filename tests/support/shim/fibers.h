// Fibers: one stack for each CUDA thread that waits, and a switch that keeps what a call must keep.
//
//     scheduler --resume--> fiber of thread 5 ... __syncthreads() --suspend--> scheduler --resume--> fiber of thread 6
//
// A fiber whose thread has ended runs the next thread: kernels that never wait take one stack.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <vector>
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace shim {

constexpr size_t STACK_BYTES = 256 << 10;

static void fiber_main();

#if defined(__x86_64__)

extern "C" __attribute__((visibility("hidden"))) void shim_switch(void** save, void* load);
asm(R"(
.text
.type shim_switch, @function
shim_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size shim_switch, .-shim_switch
)");

struct Fiber {
    void* top;  // of the stack while it does not run

    explicit Fiber(char* stack) {
        void** at = reinterpret_cast<void**>(stack + STACK_BYTES);
        *--at = nullptr;  // a call leaves the stack 8 bytes off a multiple of 16
        *--at = reinterpret_cast<void*>(&fiber_main);
        for (int kept = 0; kept < 6; ++kept) *--at = nullptr;
        top = at;
    }
};

static void* scheduler_top;

static void resume(Fiber* fiber) { shim_switch(&scheduler_top, fiber->top); }
static void suspend(Fiber* fiber) { shim_switch(&fiber->top, scheduler_top); }

#else  // slower, on any machine

struct Fiber {
    ucontext_t here;

    explicit Fiber(char* stack) {
        getcontext(&here);
        here.uc_stack.ss_sp = stack;
        here.uc_stack.ss_size = STACK_BYTES;
        makecontext(&here, &fiber_main, 0);
    }
};

static ucontext_t scheduler_context;

static void resume(Fiber* fiber) { swapcontext(&scheduler_context, &fiber->here); }
static void suspend(Fiber* fiber) { swapcontext(&fiber->here, &scheduler_context); }

#endif

// Fibers that run nothing.  Those of a launch that failed are left where they stood: their stacks are made anew.
class Fibers {
  public:
    Fiber* take() {
        if (idle_.empty()) {
            void* stack = mmap(nullptr, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                               -1, 0);
            if (stack == MAP_FAILED) return nullptr;
            stacks_.push_back(static_cast<char*>(stack));
            idle_.push_back(new Fiber(stacks_.back()));
        }
        Fiber* fiber = idle_.back();
        idle_.pop_back();
        return fiber;
    }

    void give_back(Fiber* fiber) { idle_.push_back(fiber); }

    void abandon() {
        idle_.clear();  // the few bytes of each Fiber stay: a test run is short
        for (char* stack : stacks_) idle_.push_back(new Fiber(stack));
    }

  private:
    std::vector<Fiber*> idle_;
    std::vector<char*> stacks_;
};

static Fibers fibers;

}  // namespace shim
