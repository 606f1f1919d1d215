"""The worker pool: native threads that run shares of a phase, as LLVM IR, and its state machine
in words.

One caller at a time owns the pool (its mutex; who finds it taken runs alone, with the same bits).
The caller walks the schedule; for each parallel phase it *dispatches*, runs its own share and
*joins*; the join is the barrier::

    caller                                           worker
    done = 0; phase, program = ...                   seen = generation at its start
    generation += 1                                  wait until generation != seen        (A)
    if sleepers: wake all on generation              seen = generation; stop? -> exit
    run own share                                    run own share
    wait until done == workers              (B)      done += 1
                                                     if joining: wake the caller on done

Both waits spin for some tens of microseconds and then sleep in a futex; nobody spins while idle.
A wait goes to sleep only after it has announced itself (``sleepers`` at A, ``joining`` at B) and
then looked once more; the other side changes the word first and looks for sleepers afterwards;
all of these are sequentially consistent, and the futex itself compares the word again. So no
wake-up is lost: ``tests/runtime/test_pool_model.py`` tries every interleaving.

Threads start at the first parallel phase, block all signals (Ctrl-C is the main thread's), and
set the same floating point mode as the caller. A forked child has no workers: it starts its own.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

from graphc.backends.llvm.layout import Layout, Record
from graphc.errors import BackendError

__all__ = ["MAX_WORKERS", "POOL", "START", "Pool", "pool_ir", "thread_count"]

MAX_WORKERS = 255
SPIN = 1000  # pauses, some tens of microseconds


def _line(*words: str) -> tuple[str, ...]:
    """Words that fill a cache line of 64 bytes."""
    return (*words, *(f"{words[0]}_pad{i}" for i in range(8 - len(words))))


#: words that different threads write lie in different cache lines; counters use the low 32 bits
POOL = Layout(
    "pool",
    *_line("generation", "phase", "program", "stop"),
    *_line("sleepers"),
    *_line("done"),
    *_line("joining"),
    *_line("wanted", "workers", "started", "spin", "starts"),
    *_line("mutex"),
)
#: what a worker is started with
START = Layout("start", "pool", "number", "generation", "thread")

LAYOUTS = {"pool": POOL, "start": START}

_X86 = {
    "PAUSE": "call void @llvm.x86.sse2.pause()",
    "FUTEX": "202",
    "FLOAT": """
; round to nearest, no flushing of denormals, all exceptions masked; returns what was set before
define i64 @graphc_float_enter() nounwind {
  %word = alloca i32, align 4
  call void @llvm.x86.sse.stmxcsr(ptr %word)
  %old = load i32, ptr %word, align 4
  store i32 8064, ptr %word, align 4
  call void @llvm.x86.sse.ldmxcsr(ptr %word)
  %wide = zext i32 %old to i64
  ret i64 %wide
}
define void @graphc_float_leave(i64 %old) nounwind {
  %word = alloca i32, align 4
  %narrow = trunc i64 %old to i32
  store i32 %narrow, ptr %word, align 4
  call void @llvm.x86.sse.ldmxcsr(ptr %word)
  ret void
}
declare void @llvm.x86.sse.stmxcsr(ptr)
declare void @llvm.x86.sse.ldmxcsr(ptr)
declare void @llvm.x86.sse2.pause()
""",
}
_AARCH64 = {
    "PAUSE": "call void @llvm.aarch64.hint(i32 1)",  # yield
    "FUTEX": "98",
    "FLOAT": """
; round to nearest, no flushing of denormals, all exceptions masked; returns what was set before
define i64 @graphc_float_enter() nounwind {
  %old = call i64 @llvm.aarch64.get.fpcr()
  call void @llvm.aarch64.set.fpcr(i64 0)
  ret i64 %old
}
define void @graphc_float_leave(i64 %old) nounwind {
  call void @llvm.aarch64.set.fpcr(i64 %old)
  ret void
}
declare i64 @llvm.aarch64.get.fpcr()
declare void @llvm.aarch64.set.fpcr(i64)
declare void @llvm.aarch64.hint(i32)
""",
}

_IR = """
declare i32 @pthread_create(ptr, ptr, ptr, ptr)
declare i32 @pthread_join(i64, ptr)
declare i32 @pthread_mutex_trylock(ptr)
declare i32 @pthread_mutex_lock(ptr)
declare i32 @pthread_mutex_unlock(ptr)
declare i32 @pthread_sigmask(i32, ptr, ptr)
declare i32 @sigfillset(ptr)
declare i64 @syscall(i64, ...)
@FLOAT@
; wait until *word != old, return the new value; spin, then sleep in a futex, announced in *asleep
define internal i32 @graphc_wait(ptr %word, i32 %old, i64 %spin, ptr %asleep) nounwind {
entry:
  br label %look
look:
  %turn = phi i64 [ 0, %entry ], [ %later, %again ]
  %seen = load atomic i32, ptr %word acquire, align 4
  %changed = icmp ne i32 %seen, %old
  br i1 %changed, label %out, label %again
again:
  @PAUSE@
  %later = add i64 %turn, 1
  %more = icmp ult i64 %later, %spin
  br i1 %more, label %look, label %announce
announce:
  %before = atomicrmw add ptr %asleep, i32 1 seq_cst
  br label %recheck
recheck:
  %now = load atomic i32, ptr %word seq_cst, align 4
  %woken = icmp ne i32 %now, %old
  br i1 %woken, label %awake, label %sleep
sleep: ; FUTEX_WAIT_PRIVATE: returns at once if *word is no longer old
  %r = call i64 (i64, ...) @syscall(i64 @FUTEX@, ptr %word, i32 128, i32 %old,
                                    ptr null, ptr null, i32 0)
  br label %recheck
awake:
  %after = atomicrmw sub ptr %asleep, i32 1 seq_cst
  ret i32 %now
out:
  ret i32 %seen
}

; after *word was changed: wake whoever announced itself in *asleep
define internal void @graphc_wake(ptr %word, ptr %asleep) nounwind {
  %count = load atomic i32, ptr %asleep seq_cst, align 4
  %none = icmp eq i32 %count, 0
  br i1 %none, label %out, label %wake
wake: ; FUTEX_WAKE_PRIVATE, everybody
  %r = call i64 (i64, ...) @syscall(i64 @FUTEX@, ptr %word, i32 129, i32 2147483647,
                                    ptr null, ptr null, i32 0)
  br label %out
out:
  ret void
}

define internal ptr @graphc_worker(ptr %start) nounwind {
entry:
  %pool = get ptr start.pool %start
  %number = get i64 start.number %start
  %first64 = get i64 start.generation %start
  %first = trunc i64 %first64 to i32
  %generation = at pool.generation %pool
  %sleepers = at pool.sleepers %pool
  %done = at pool.done %pool
  %joining = at pool.joining %pool
  %spin = get i64 pool.spin %pool
  %mode = call i64 @graphc_float_enter()
  br label %idle
idle:
  %seen = phi i32 [ %first, %entry ], [ %new, %report ]
  %new = call i32 @graphc_wait(ptr %generation, i32 %seen, i64 %spin, ptr %sleepers)
  %stop = get i64 pool.stop %pool
  %stopping = icmp ne i64 %stop, 0
  br i1 %stopping, label %exit, label %work
work:
  %phase = get ptr pool.phase %pool
  %program = get ptr pool.program %pool
  %shares = get i64 program.shares %program
  %mine = icmp ult i64 %number, %shares
  br i1 %mine, label %run, label %report
run:
  %end = add i64 %number, 1
  call void @graphc_share(ptr %program, ptr %phase, i64 %number, i64 %end)
  br label %report
report:
  %before = atomicrmw add ptr %done, i32 1 seq_cst
  call void @graphc_wake(ptr %done, ptr %joining)
  br label %idle
exit:
  ret ptr null
}

; start the wanted workers; as many as the system gives
define internal void @graphc_pool_start(ptr %pool) nounwind {
entry:
  %all = alloca [128 x i8], align 8
  %old = alloca [128 x i8], align 8
  %r0 = call i32 @sigfillset(ptr %all)
  %r1 = call i32 @pthread_sigmask(i32 2, ptr %all, ptr %old)
  put i64 1, pool.started %pool
  put i64 0, pool.stop %pool
  %wanted = get i64 pool.wanted %pool
  %starts = get ptr pool.starts %pool
  %generation.p = at pool.generation %pool
  %generation = load i32, ptr %generation.p, align 4
  %generation64 = zext i32 %generation to i64
  br label %next
next:
  %i = phi i64 [ 0, %entry ], [ %number, %made ]
  %more = icmp ult i64 %i, %wanted
  br i1 %more, label %make, label %out
make:
  %start = next start %starts, %i
  %number = add i64 %i, 1
  put ptr %pool, start.pool %start
  put i64 %number, start.number %start
  put i64 %generation64, start.generation %start
  %thread = at start.thread %start
  %r2 = call i32 @pthread_create(ptr %thread, ptr null, ptr @graphc_worker, ptr %start)
  %failed = icmp ne i32 %r2, 0
  br i1 %failed, label %out, label %made
made:
  br label %next
out:
  put i64 %i, pool.workers %pool
  %r3 = call i32 @pthread_sigmask(i32 2, ptr %old, ptr null)
  ret void
}

; own the pool: true when it was free and has workers
define internal i1 @graphc_pool_take(ptr %pool) nounwind {
  %null = icmp eq ptr %pool, null
  br i1 %null, label %no, label %try
try:
  %mutex = at pool.mutex %pool
  %busy = call i32 @pthread_mutex_trylock(ptr %mutex)
  %free = icmp eq i32 %busy, 0
  br i1 %free, label %taken, label %no
taken:
  %started = get i64 pool.started %pool
  %running = icmp ne i64 %started, 0
  br i1 %running, label %count, label %start
start:
  call void @graphc_pool_start(ptr %pool)
  br label %count
count:
  %workers = get i64 pool.workers %pool
  %some = icmp ne i64 %workers, 0
  br i1 %some, label %yes, label %give
give:
  call void @graphc_pool_give(ptr %pool)
  br label %no
yes:
  ret i1 true
no:
  ret i1 false
}

define internal void @graphc_pool_give(ptr %pool) nounwind {
  %mutex = at pool.mutex %pool
  %r = call i32 @pthread_mutex_unlock(ptr %mutex)
  ret void
}

; run a phase on all workers and the caller; returns when every share is done
define internal void @graphc_pool_run(ptr %pool, ptr %program, ptr %phase) nounwind {
entry:
  %generation = at pool.generation %pool
  %sleepers = at pool.sleepers %pool
  %done = at pool.done %pool
  %joining = at pool.joining %pool
  %spin = get i64 pool.spin %pool
  put ptr %phase, pool.phase %pool
  put ptr %program, pool.program %pool
  store atomic i32 0, ptr %done seq_cst, align 4
  %before = atomicrmw add ptr %generation, i32 1 seq_cst
  call void @graphc_wake(ptr %generation, ptr %sleepers)
  call void @graphc_share(ptr %program, ptr %phase, i64 0, i64 1)
  %workers = get i64 pool.workers %pool
  %workers32 = trunc i64 %workers to i32
  %shares = get i64 program.shares %program
  %covered = add i64 %workers, 1
  %short = icmp ult i64 %covered, %shares
  br i1 %short, label %rest, label %join
rest: ; fewer workers than planned: their shares are the caller's
  call void @graphc_share(ptr %program, ptr %phase, i64 %covered, i64 %shares)
  br label %join
join:
  %count = load atomic i32, ptr %done acquire, align 4
  %all = icmp uge i32 %count, %workers32
  br i1 %all, label %out, label %wait
wait:
  %more = call i32 @graphc_wait(ptr %done, i32 %count, i64 %spin, ptr %joining)
  br label %join
out:
  ret void
}

; end the workers and wait for them; they start again when needed
define void @graphc_pool_stop(ptr %pool) nounwind {
entry:
  %mutex = at pool.mutex %pool
  %busy = call i32 @pthread_mutex_trylock(ptr %mutex)
  %free = icmp eq i32 %busy, 0
  br i1 %free, label %stop, label %out
stop:
  put i64 1, pool.stop %pool
  %generation = at pool.generation %pool
  %sleepers = at pool.sleepers %pool
  %before = atomicrmw add ptr %generation, i32 1 seq_cst
  call void @graphc_wake(ptr %generation, ptr %sleepers)
  %workers = get i64 pool.workers %pool
  %starts = get ptr pool.starts %pool
  br label %next
next:
  %i = phi i64 [ 0, %stop ], [ %following, %join ]
  %more = icmp ult i64 %i, %workers
  br i1 %more, label %join, label %give
join:
  %start = next start %starts, %i
  %thread = get i64 start.thread %start
  %r0 = call i32 @pthread_join(i64 %thread, ptr null)
  %following = add i64 %i, 1
  br label %next
give:
  put i64 0, pool.started %pool
  put i64 0, pool.workers %pool
  %r1 = call i32 @pthread_mutex_unlock(ptr %mutex)
  br label %out
out:
  ret void
}
"""


def pool_ir(architecture: str) -> str:
    """The pool's code for ``x86_64`` or ``aarch64``; calls ``@graphc_share`` of the walker."""
    text = _IR
    for name, value in (_AARCH64 if architecture == "aarch64" else _X86).items():
        text = text.replace(f"@{name}@", value)
    return text


class Pool:
    """The pool's memory. ``threads`` counts the caller."""

    def __init__(self, threads: int) -> None:
        self.threads = min(threads, MAX_WORKERS + 1)
        self._record = Record(POOL)
        self._starts = Record(START, MAX_WORKERS)
        self.reset()

    @property
    def address(self) -> int:
        return self._record.address

    @property
    def workers(self) -> int:
        """Threads that run now."""
        return self._record[0, "workers"]

    def reset(self) -> None:
        """As new, without threads: what a forked child needs."""
        crowded = self.threads > available_cores()
        self._record.words[:] = 0  # also unlocks the mutex: all zero is PTHREAD_MUTEX_INITIALIZER
        self._record[0, "wanted"] = self.threads - 1
        self._record[0, "spin"] = SPIN // 20 if crowded else SPIN
        self._record[0, "starts"] = self._starts.address

    def stop(self, function: int) -> None:
        """End the workers by ``graphc_pool_stop`` at the given address."""
        ctypes.CFUNCTYPE(None, ctypes.c_void_p)(function)(self.address)


def available_cores() -> int:
    """Cores of the affinity mask, at most what the container's quota pays for (rounded up)."""
    cores = len(os.sched_getaffinity(0))
    quota = _quota()
    return cores if quota is None else max(1, min(cores, quota))


def thread_count() -> int:
    """``GRAPHC_THREADS`` where it is set, else the available cores; BackendError if it is odd."""
    text = os.environ.get("GRAPHC_THREADS", "")
    if not text:
        return available_cores()
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= MAX_WORKERS + 1:
        raise BackendError(f"GRAPHC_THREADS={text!r}: a number from 1 to {MAX_WORKERS + 1}")
    return int(text)


def _quota(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Whole cores that the control group may use, or None without a limit; versions 2 and 1."""
    try:
        words = (root / "cpu.max").read_text().split()
    except OSError:
        try:
            words = [
                (root / "cpu" / f"cpu.cfs_{part}_us").read_text().strip()
                for part in ("quota", "period")
            ]
        except OSError:
            return None
    if len(words) != 2 or not words[0].isdigit() or not words[1].isdigit():
        return None  # "max" or -1
    return -(-int(words[0]) // int(words[1]))
