"""The worker pool: native threads that claim chunks of a phase, as LLVM IR, and its state machine
in words.

One caller at a time owns the pool (its mutex; who finds it taken runs alone, with the same bits).
The caller walks the schedule; for each parallel phase it *opens* the gate, claims chunks until
none is left, *closes* the gate and *joins* those who entered; the join is the barrier::

    caller                                           worker
    phase, program = ...; claims = 0                 seen = generation at its start
    gate = open, 0 inside                            wait until generation != seen        (A)
    generation += 1                                  seen = generation; stop? -> exit
    if sleepers: wake some on generation, or not     gate: closed? -> wait; else one more inside,
    run chunks while claims gives one                    in one compare-and-swap
    gate = closed, n inside                          run chunks while claims gives one
    wait until nobody is inside               (B)    one less inside; was it the last one, of a
                                                     closed gate, and joining: wake the caller

So the caller waits for nobody who has not entered, and no call needs any worker: who comes late
finds the gate closed, or enters a younger phase, or finds nothing left to claim. A worker reads
``phase``, ``program`` and what they point at only while it is inside, and none of that changes
before the caller has seen nobody inside. Nothing that a worker read before it entered is used
after: the swap asks only whether the gate is open *now*, so a gate that was closed and opened
again in between is as good as the one it saw.

``claims`` counts what the caller took from the front and what the workers took from the back, in
one word: a chunk is left while they have not met. Neighbouring phases thus meet the same part of
the data in the same core's cache, as far as the speeds allow.

Both waits spin for some tens of microseconds and then sleep in a futex; nobody spins while idle.
A wait goes to sleep only after it has announced itself (``sleepers`` at A, ``joining`` at B) and
then looked once more; the other side changes the word first and looks for sleepers afterwards;
all of these are sequentially consistent, and the futex itself compares the word again. So no
wake-up is lost: ``tests/runtime/test_pool_model.py`` tries every interleaving.

Waking costs the caller a system call, so a small program (``program.wake`` is 0) does it only
when the last call of any program ended just before, and not again soon. Called back to back such
programs find the workers spinning; called now and then they run alone, and do not even start
threads. Where other processes want the cores, a worker may be stopped in the middle of a chunk and
the caller wait for milliseconds: a small call that took much longer than it should sends the small
calls after it alone for ``PENALTY`` times as long, so that on a busy machine little is lost.

Threads start at the first parallel phase, block all signals (Ctrl-C is the main thread's), and
set the same floating point mode as the caller. A forked child has no workers: it starts its own.
"""

from __future__ import annotations

from graphc.backends.llvm.layout import Layout

__all__ = ["LAYOUTS", "POOL", "START", "pool_ir"]

WAKING = 1_000_000  # nanoseconds between two attempts of small programs to wake sleepers
PENALTY = 16  # times what a small call lasted that was held up, small calls run alone


def _line(*words: str) -> tuple[str, ...]:
    """Words that fill a cache line of 64 bytes."""
    return (*words, *(f"{words[0]}_pad{i}" for i in range(8 - len(words))))


#: words that different threads write lie in different cache lines; counters use the low 32 bits
POOL = Layout(
    "pool",
    *_line("generation", "gate", "phase", "program", "stop"),
    *_line("sleepers"),
    *_line("claims"),
    *_line("joining"),
    *_line("wanted", "workers", "started", "spin", "window", "starts"),
    *_line("mutex"),
    *_line("ended", "alone", "woken"),
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
; wait until *word != old, return the new value; spin for some nanoseconds, then sleep in a futex,
; announced in *asleep
define internal i32 @graphc_wait(ptr %word, i32 %old, i64 %spin, ptr %asleep) nounwind {
entry:
  br label %look
look:
  %turn = phi i64 [ 0, %entry ], [ %later, %pause ], [ %later, %clock ]
  %until = phi i64 [ 0, %entry ], [ %until, %pause ], [ %end, %clock ]
  %seen = load atomic i32, ptr %word acquire, align 4
  %changed = icmp ne i32 %seen, %old
  br i1 %changed, label %out, label %pause
pause: ; the clock is read in every 32nd turn
  @PAUSE@
  %later = add i64 %turn, 1
  %low = and i64 %later, 31
  %read = icmp eq i64 %low, 0
  br i1 %read, label %clock, label %look
clock:
  %time = call i64 @graphc_now(i32 1)
  %first = icmp eq i64 %until, 0
  %limit = add i64 %time, %spin
  %end = select i1 %first, i64 %limit, i64 %until
  %more = icmp slt i64 %time, %end
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

; after *word was changed: wake at most so many of those who announced themselves in *asleep
define internal void @graphc_wake(ptr %word, ptr %asleep, i32 %most) nounwind {
  %count = load atomic i32, ptr %asleep seq_cst, align 4
  %none = icmp eq i32 %count, 0
  br i1 %none, label %out, label %wake
wake: ; FUTEX_WAKE_PRIVATE
  %r = call i64 (i64, ...) @syscall(i64 @FUTEX@, ptr %word, i32 129, i32 %most,
                                    ptr null, ptr null, i32 0)
  br label %out
out:
  ret void
}

; chunks of a phase while there are some, as worker %number: the caller, number 0, takes them from
; the front, workers from the back
define internal void @graphc_claim(ptr %pool, ptr %program, ptr %phase, i64 %number) nounwind {
entry:
  %claims = at pool.claims %pool
  %workers = get ptr program.workers %program
  %worker = next worker %workers, %number
  %count = get i64 phase.count %phase
  %caller = icmp eq i64 %number, 0
  %step = select i1 %caller, i64 1, i64 4294967296
  br label %look
look:
  %last = phi i64 [ -1, %entry ], [ %id, %run ]
  %taken = atomicrmw add ptr %claims, i64 %step monotonic
  %front = and i64 %taken, 4294967295
  %back = lshr i64 %taken, 32
  %past = sub i64 %count, %back
  %left = icmp slt i64 %front, %past
  br i1 %left, label %run, label %out
run:
  %high = sub i64 %past, 1
  %chunk = select i1 %caller, i64 %front, i64 %high
  %behind = add i64 %chunk, 1
  %id = call i64 @graphc_chunks(ptr %phase, i64 %chunk, i64 %behind, ptr %worker, i64 %last)
  br label %look
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
  %gate = at pool.gate %pool
  %joining = at pool.joining %pool
  %spin = get i64 pool.spin %pool
  %mode = call i64 @graphc_float_enter()
  br label %idle
idle:
  %seen = phi i32 [ %first, %entry ], [ %new, %look ], [ %new, %leave ], [ %new, %wake ]
  %new = call i32 @graphc_wait(ptr %generation, i32 %seen, i64 %spin, ptr %sleepers)
  %stop = get i64 pool.stop %pool
  %stopping = icmp ne i64 %stop, 0
  br i1 %stopping, label %exit, label %arrive
arrive:
  %at_first = load atomic i32, ptr %gate acquire, align 4
  br label %look
look: ; the top bit is set while the gate is open
  %state = phi i32 [ %at_first, %arrive ], [ %found, %enter ]
  %open = icmp slt i32 %state, 0
  br i1 %open, label %enter, label %idle
enter:
  %more = add i32 %state, 1
  %swap = cmpxchg ptr %gate, i32 %state, i32 %more seq_cst seq_cst
  %found = extractvalue { i32, i1 } %swap, 0
  %inside = extractvalue { i32, i1 } %swap, 1
  br i1 %inside, label %read, label %look
read:
  %phase = get ptr pool.phase %pool
  %program = get ptr pool.program %pool
  %shares = get i64 program.shares %program
  %mine = icmp ult i64 %number, %shares
  br i1 %mine, label %run, label %leave
run:
  call void @graphc_claim(ptr %pool, ptr %program, ptr %phase, i64 %number)
  br label %leave
leave:
  %before = atomicrmw sub ptr %gate, i32 1 seq_cst
  %last = icmp eq i32 %before, 1
  br i1 %last, label %wake, label %idle
wake:
  call void @graphc_wake(ptr %gate, ptr %joining, i32 1)
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

; own the pool: true when it was free and has workers; a program that is too small to wake workers
; starts them only when it is called back to back, and leaves the pool alone for a while after a
; small call was held up
define internal i1 @graphc_pool_take(ptr %pool, ptr %program) nounwind {
  %null = icmp eq ptr %pool, null
  br i1 %null, label %no, label %size
size:
  %wake = get i64 program.wake %program
  %large = icmp ne i64 %wake, 0
  br i1 %large, label %try, label %small
small:
  %time = call i64 @graphc_now(i32 1)
  put i64 %time, program.began %program
  %alone.p = at pool.alone %pool
  %alone = load atomic i64, ptr %alone.p monotonic, align 8
  %over = icmp sge i64 %time, %alone
  br i1 %over, label %try, label %no
try:
  %now = phi i64 [ 0, %size ], [ %time, %small ]
  %mutex = at pool.mutex %pool
  %busy = call i32 @pthread_mutex_trylock(ptr %mutex)
  %free = icmp eq i32 %busy, 0
  br i1 %free, label %taken, label %no
taken:
  %started = get i64 pool.started %pool
  %running = icmp ne i64 %started, 0
  br i1 %running, label %count, label %wanted
wanted:
  br i1 %large, label %start, label %ask
ask:
  %often = call i1 @graphc_back_to_back(ptr %pool, i64 %now)
  br i1 %often, label %start, label %give
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

; whether the last call ended just before
define internal i1 @graphc_back_to_back(ptr %pool, i64 %now) nounwind {
  %word = at pool.ended %pool
  %ended = load atomic i64, ptr %word monotonic, align 8
  %gap = sub i64 %now, %ended
  %window = get i64 pool.window %pool
  %often = icmp slt i64 %gap, %window
  ret i1 %often
}

; a call that could have used workers ends; callers who do not own the pool note that too
define internal void @graphc_pool_ended(ptr %pool, ptr %program, i1 %owned) nounwind {
  %null = icmp eq ptr %pool, null
  br i1 %null, label %out, label %note
note:
  %now = call i64 @graphc_now(i32 1)
  %word = at pool.ended %pool
  store atomic i64 %now, ptr %word monotonic, align 8
  %wake = get i64 program.wake %program
  %small = icmp eq i64 %wake, 0
  %judge = and i1 %small, %owned
  br i1 %judge, label %look, label %out
look:
  %began = get i64 program.began %program
  %lasted = sub i64 %now, %began
  %patience = get i64 program.patience %program
  %held = icmp sgt i64 %lasted, %patience
  br i1 %held, label %rest, label %out
rest:
  %pause = mul i64 %lasted, @PENALTY@
  %until = add i64 %now, %pause
  %alone.p = at pool.alone %pool
  store atomic i64 %until, ptr %alone.p monotonic, align 8
  br label %out
out:
  ret void
}

; wake as many sleepers as there are chunks for, if that is worth its cost
define internal void @graphc_pool_call(ptr %pool, ptr %program, ptr %phase) nounwind {
entry:
  %sleepers = at pool.sleepers %pool
  %asleep = load atomic i32, ptr %sleepers seq_cst, align 4
  %none = icmp eq i32 %asleep, 0
  br i1 %none, label %out, label %ask
ask:
  %large = get i64 program.wake %program
  %always = icmp ne i64 %large, 0
  br i1 %always, label %wake, label %small
small:
  %now = call i64 @graphc_now(i32 1)
  %often = call i1 @graphc_back_to_back(ptr %pool, i64 %now)
  br i1 %often, label %again, label %out
again:
  %woken = get i64 pool.woken %pool
  %since = sub i64 %now, %woken
  %due = icmp sgt i64 %since, @WAKING@
  br i1 %due, label %note, label %out
note:
  put i64 %now, pool.woken %pool
  br label %wake
wake:
  %generation = at pool.generation %pool
  %count = get i64 phase.count %phase
  %others = sub i64 %count, 1
  %most = trunc i64 %others to i32
  call void @graphc_wake(ptr %generation, ptr %sleepers, i32 %most)
  br label %out
out:
  ret void
}

define internal void @graphc_pool_give(ptr %pool) nounwind {
  %mutex = at pool.mutex %pool
  %r = call i32 @pthread_mutex_unlock(ptr %mutex)
  ret void
}

; run a phase on the caller and whoever comes; returns when every chunk is done
define internal void @graphc_pool_run(ptr %pool, ptr %program, ptr %phase) nounwind {
entry:
  %generation = at pool.generation %pool
  %gate = at pool.gate %pool
  %claims = at pool.claims %pool
  %joining = at pool.joining %pool
  put ptr %phase, pool.phase %pool
  put ptr %program, pool.program %pool
  store atomic i64 0, ptr %claims monotonic, align 8
  store atomic i32 -2147483648, ptr %gate seq_cst, align 4
  %before = atomicrmw add ptr %generation, i32 1 seq_cst
  call void @graphc_pool_call(ptr %pool, ptr %program, ptr %phase)
  call void @graphc_claim(ptr %pool, ptr %program, ptr %phase, i64 0)
  %state = atomicrmw and ptr %gate, i32 2147483647 seq_cst
  %entered = and i32 %state, 2147483647
  %spin = get i64 pool.spin %pool
  br label %join
join:
  %inside = phi i32 [ %entered, %entry ], [ %left, %wait ]
  %all = icmp eq i32 %inside, 0
  br i1 %all, label %out, label %wait
wait:
  %left = call i32 @graphc_wait(ptr %gate, i32 %inside, i64 %spin, ptr %joining)
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
  call void @graphc_wake(ptr %generation, ptr %sleepers, i32 2147483647)
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
    """The pool's code for ``x86_64`` or ``aarch64``; calls ``@graphc_chunks`` and ``@graphc_now``
    of the walker.
    """
    text = _IR.replace("@WAKING@", str(WAKING)).replace("@PENALTY@", str(PENALTY))
    for name, value in (_AARCH64 if architecture == "aarch64" else _X86).items():
        text = text.replace(f"@{name}@", value)
    return text
