"""The one native routine that runs every schedule: it walks a table of 8-byte words.

::

    PHASE  count, serial, end, then its chunks      independent launches; returns when all are done
    LOOP   counter, length, exit                    *counter = 0; leave when length <= 0
    NEXT   counter, length, back                    *counter += 1; again while *counter < length
    UNLESS cell, mask, target                       jump when (*cell & mask) == 0
    RENEW  kept, count, target                      jump when no version changed; else hold its lock
    KEPT   kept, count                              note the versions, give the lock back
    JUMP   target
    POLL                                            look for an interrupt, at most every 50 ms
    COMMIT                                          leave when a check failed or an interrupt came
    END

    chunks := address of part first[0] .. first[count], then the parts
    part   := function, arguments, id, begin, end   blocks begin <= b < end of a launch

Chunk c is the parts from first[c] to first[c+1]. Only the caller walks; workers see phases and
claim chunks of them. Thread count, sizes and memory plan change this table, never code; and since
blocks do not depend on each other, who runs which of them does not change results.
``graphc.backends.llvm.table`` writes tables.
"""

from __future__ import annotations

from graphc.backends.llvm.layout import Layout

__all__ = [
    "COMMIT",
    "COPY_BLOCK",
    "END",
    "EVENT",
    "INSTRUCTION",
    "JUMP",
    "KEPT",
    "LOOP",
    "NEXT",
    "PART",
    "PHASE",
    "POLL",
    "PROGRAM",
    "RENEW",
    "SOURCE",
    "UNLESS",
    "WALKER_IR",
    "WORKER",
]

END, PHASE, LOOP, NEXT, UNLESS, JUMP, POLL, COMMIT, RENEW, KEPT = range(10)
COPY_BLOCK = 1 << 16  # bytes of one block of a copy
POLL_NANOSECONDS = 50_000_000

INSTRUCTION = Layout("instruction", "op", "a", "b", "c")
PHASE_HEAD = Layout("phase", "op", "count", "serial", "end")
PART = Layout("part", "function", "arguments", "id", "begin", "end")
#: what a kernel gets as its worker: private scratch memory, number, and where measured times go
WORKER = Layout("worker", "scratch", "number", "events", "events_end", stride=8)
#: of what is kept, behind a mutex of 64 bytes: a state's version, and that of what was made from it
SOURCE = Layout("source", "version", "made")
EVENT = Layout("event", "launch", "begin", "end", "worker")  # nanoseconds of CLOCK_MONOTONIC
#: a program bound to sizes; words after `runtime` are the call's own
PROGRAM = Layout(
    "program",
    *("table", "shares", "wake", "patience", "workers", "pool", "errors", "cells", "cells_bytes"),
    *("arguments", "arguments_count", "outputs", "outputs_count", "single"),
    *("locks", "locks_count", "mutex", "fail", "runtime"),
    *("users", "thread_state", "polled", "parallel", "began"),
)

LAYOUTS = {
    "instruction": INSTRUCTION,
    "phase": PHASE_HEAD,
    "part": PART,
    "worker": WORKER,
    "event": EVENT,
    "source": SOURCE,
    "program": PROGRAM,
}

WALKER_IR = f"""
declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)
declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)
declare i64 @llvm.umin.i64(i64, i64)
declare i32 @clock_gettime(i32, ptr)
declare i32 @PyErr_CheckSignals()
declare ptr @PyEval_SaveThread()
declare void @PyEval_RestoreThread(ptr)

; nanoseconds of a clock: 1 is monotonic, 6 monotonic and coarse (cheaper)
define internal i64 @graphc_now(i32 %clock) nounwind {{
  %time = alloca [2 x i64], align 8
  %r = call i32 @clock_gettime(i32 %clock, ptr %time)
  %seconds = load i64, ptr %time, align 8
  %part.p = getelementptr i64, ptr %time, i64 1
  %part = load i64, ptr %part.p, align 8
  %whole = mul i64 %seconds, 1000000000
  %sum = add i64 %whole, %part
  ret i64 %sum
}}

; a kernel like any other: arguments are source, target and the number of bytes
define void @graphc_copy(ptr %arguments, i64 %begin, i64 %end, ptr %worker) nounwind {{
  %source = load ptr, ptr %arguments, align 8
  %target.p = getelementptr ptr, ptr %arguments, i64 1
  %target = load ptr, ptr %target.p, align 8
  %bytes.p = getelementptr i64, ptr %arguments, i64 2
  %bytes = load i64, ptr %bytes.p, align 8
  %from = mul i64 %begin, {COPY_BLOCK}
  %wide = mul i64 %end, {COPY_BLOCK}
  %to = call i64 @llvm.umin.i64(i64 %wide, i64 %bytes)
  %count = sub i64 %to, %from
  %out = getelementptr i8, ptr %target, i64 %from
  %in = getelementptr i8, ptr %source, i64 %from
  call void @llvm.memcpy.p0.p0.i64(ptr %out, ptr %in, i64 %count, i1 false)
  ret void
}}

; `again`: this thread ran an earlier part of the same launch, and nothing else since
define internal void @graphc_part(ptr %part, ptr %worker, i1 %again) nounwind {{
  %function = get ptr part.function %part
  %arguments = get ptr part.arguments %part
  %begin = get i64 part.begin %part
  %end = get i64 part.end %part
  %events = get ptr worker.events %worker
  %plain = icmp eq ptr %events, null
  br i1 %plain, label %run, label %timed
run:
  call void %function(ptr %arguments, i64 %begin, i64 %end, ptr %worker)
  ret void
timed:
  %t0 = call i64 @graphc_now(i32 1)
  call void %function(ptr %arguments, i64 %begin, i64 %end, ptr %worker)
  %t1 = call i64 @graphc_now(i32 1)
  %id = get i64 part.id %part
  br i1 %again, label %extend, label %new
extend: ; of the event before, unless there was no room for it
  %earlier = getelementptr i8, ptr %events, i64 -{EVENT.nbytes}
  %of = get i64 event.launch %earlier
  %same = icmp eq i64 %of, %id
  br i1 %same, label %longer, label %out
longer:
  put i64 %t1, event.end %earlier
  br label %out
new:
  %stop = get ptr worker.events_end %worker
  %room = icmp ult ptr %events, %stop
  br i1 %room, label %record, label %out
record:
  %number = get i64 worker.number %worker
  put i64 %id, event.launch %events
  put i64 %t0, event.begin %events
  put i64 %t1, event.end %events
  put i64 %number, event.worker %events
  %following = next event %events
  put ptr %following, worker.events %worker
  br label %out
out:
  ret void
}}

; chunks first <= c < behind of a phase; takes and returns the launch that this thread ran last
define internal i64 @graphc_chunks(
    ptr %phase, i64 %first, i64 %behind, ptr %worker, i64 %last) nounwind {{
entry:
  %addresses = next phase %phase
  %from.p = getelementptr ptr, ptr %addresses, i64 %first
  %to.p = getelementptr ptr, ptr %addresses, i64 %behind
  %from = load ptr, ptr %from.p, align 8
  %to = load ptr, ptr %to.p, align 8
  br label %look
look:
  %part = phi ptr [ %from, %entry ], [ %following, %run ]
  %before = phi i64 [ %last, %entry ], [ %id, %run ]
  %left = icmp ult ptr %part, %to
  br i1 %left, label %run, label %out
run:
  %id = get i64 part.id %part
  %again = icmp eq i64 %id, %before
  call void @graphc_part(ptr %part, ptr %worker, i1 %again)
  %following = next part %part
  br label %look
out:
  ret i64 %before
}}

; whether what is kept was made from the versions that its states have now
define internal i1 @graphc_is_fresh(ptr %kept, i64 %count) nounwind {{
entry:
  %sources = getelementptr i8, ptr %kept, i64 64
  br label %look
look:
  %i = phi i64 [ 0, %entry ], [ %i1, %next ]
  %more = icmp ult i64 %i, %count
  br i1 %more, label %compare, label %yes
compare:
  %source = next source %sources, %i
  %version.p = get ptr source.version %source
  %version = load i64, ptr %version.p, align 8
  %made.p = at source.made %source
  %made = load atomic i64, ptr %made.p acquire, align 8
  %same = icmp eq i64 %made, %version
  br i1 %same, label %next, label %no
next:
  %i1 = add i64 %i, 1
  br label %look
yes:
  ret i1 true
no:
  ret i1 false
}}

; the states' locks are held, so no version moves between the making and this
define internal void @graphc_note(ptr %kept, i64 %count) nounwind {{
entry:
  %sources = getelementptr i8, ptr %kept, i64 64
  br label %look
look:
  %i = phi i64 [ 0, %entry ], [ %i1, %one ]
  %more = icmp ult i64 %i, %count
  br i1 %more, label %one, label %out
one:
  %source = next source %sources, %i
  %version.p = get ptr source.version %source
  %version = load i64, ptr %version.p, align 8
  %made.p = at source.made %source
  store atomic i64 %version, ptr %made.p release, align 8
  %i1 = add i64 %i, 1
  br label %look
out:
  ret void
}}

; true when a Python signal handler raised; asks Python only when 50 ms have passed
define internal i1 @graphc_poll(ptr %program) nounwind {{
entry:
  %thread = get ptr program.thread_state %program
  %foreign = icmp eq ptr %thread, null
  br i1 %foreign, label %no, label %look
look:
  %time = call i64 @graphc_now(i32 6)
  %before = get i64 program.polled %program
  %passed = sub i64 %time, %before
  %due = icmp sgt i64 %passed, {POLL_NANOSECONDS}
  br i1 %due, label %ask, label %no
ask:
  call void @PyEval_RestoreThread(ptr %thread)
  %raised = call i32 @PyErr_CheckSignals()
  %same = call ptr @PyEval_SaveThread()
  %time2 = call i64 @graphc_now(i32 6)
  put i64 %time2, program.polled %program
  %any = icmp ne i32 %raised, 0
  ret i1 %any
no:
  ret i1 false
}}

; run the table. 0: done; 1: a check failed, 2: a signal handler raised; then nothing is committed
define i64 @graphc_walk(ptr %program) nounwind {{
entry:
  %at = alloca ptr, align 8
  %mode = call i64 @graphc_float_enter()
  %errors = get ptr program.errors %program
  store atomic i64 0, ptr %errors monotonic, align 8
  %cells = get ptr program.cells %program
  %cells_bytes = get i64 program.cells_bytes %program
  call void @llvm.memset.p0.i64(ptr %cells, i8 0, i64 %cells_bytes, i1 false)
  %start = call i64 @graphc_now(i32 6)
  put i64 %start, program.polled %program
  put i64 0, program.parallel %program
  %pool = get ptr program.pool %program
  %own = get ptr program.workers %program
  %table = get ptr program.table %program
  store ptr %table, ptr %at, align 8
  br label %step

step:
  %pc = load ptr, ptr %at, align 8
  %op = get i64 instruction.op %pc
  %a = get i64 instruction.a %pc
  %b = get i64 instruction.b %pc
  %c = get i64 instruction.c %pc
  %cell = inttoptr i64 %a to ptr
  %target = inttoptr i64 %c to ptr
  %following = next instruction %pc
  switch i64 %op, label %end [
    i64 {PHASE}, label %phase
    i64 {LOOP}, label %loop
    i64 {NEXT}, label %next
    i64 {UNLESS}, label %unless
    i64 {JUMP}, label %jump
    i64 {POLL}, label %poll
    i64 {COMMIT}, label %commit
    i64 {RENEW}, label %renew
    i64 {KEPT}, label %kept
  ]
advance:
  store ptr %following, ptr %at, align 8
  br label %step
jump:
  store ptr %target, ptr %at, align 8
  br label %step

phase: ; a = count, b = serial, c = end
  store ptr %target, ptr %at, align 8
  %serial = icmp ne i64 %b, 0
  br i1 %serial, label %alone, label %together
together: ; 0: not tried yet, 1: the pool is ours, 2: it was busy or has no workers
  %state = get i64 program.parallel %program
  switch i64 %state, label %alone [
    i64 0, label %take
    i64 1, label %fork
  ]
take:
  %ours = call i1 @graphc_pool_take(ptr %pool, ptr %program)
  %state1 = select i1 %ours, i64 1, i64 2
  put i64 %state1, program.parallel %program
  br i1 %ours, label %fork, label %alone
fork:
  call void @graphc_pool_run(ptr %pool, ptr %program, ptr %pc)
  br label %step
alone:
  %ran = call i64 @graphc_chunks(ptr %pc, i64 0, i64 %a, ptr %own, i64 -1)
  br label %step

loop: ; a = counter, b = length, c = exit
  store i64 0, ptr %cell, align 8
  %enter = icmp sgt i64 %b, 0
  br i1 %enter, label %advance, label %jump
next: ; a = counter, b = length, c = back; a failed check ends a loop early
  %count = load i64, ptr %cell, align 8
  %count1 = add i64 %count, 1
  store i64 %count1, ptr %cell, align 8
  %failing = load atomic i64, ptr %errors acquire, align 8
  %fine = icmp eq i64 %failing, 0
  br i1 %fine, label %compare, label %failed
compare:
  %again = icmp slt i64 %count1, %b
  br i1 %again, label %jump, label %advance
unless: ; a = cell, b = mask, c = target
  %value = load i64, ptr %cell, align 8
  %masked = and i64 %value, %b
  %zero = icmp eq i64 %masked, 0
  br i1 %zero, label %jump, label %advance

poll:
  %raised = call i1 @graphc_poll(ptr %program)
  br i1 %raised, label %interrupted, label %advance
commit:
  %error = load atomic i64, ptr %errors acquire, align 8
  %good = icmp eq i64 %error, 0
  br i1 %good, label %last, label %failed
last:
  %raised1 = call i1 @graphc_poll(ptr %program)
  br i1 %raised1, label %interrupted, label %advance

renew: ; a = kept, b = count, c = target; other programs that share it may be making it
  %fresh = call i1 @graphc_is_fresh(ptr %cell, i64 %b)
  br i1 %fresh, label %jump, label %claim
claim:
  %r1 = call i32 @pthread_mutex_lock(ptr %cell)
  %fresh1 = call i1 @graphc_is_fresh(ptr %cell, i64 %b)
  br i1 %fresh1, label %disown, label %advance
disown:
  %r2 = call i32 @pthread_mutex_unlock(ptr %cell)
  br label %jump
kept: ; a = kept, b = count
  call void @graphc_note(ptr %cell, i64 %b)
  %r3 = call i32 @pthread_mutex_unlock(ptr %cell)
  br label %advance

end:
  %error1 = load atomic i64, ptr %errors acquire, align 8
  %good1 = icmp eq i64 %error1, 0
  br i1 %good1, label %leave, label %failed
failed:
  br label %leave
interrupted:
  br label %leave
leave:
  %status = phi i64 [ 0, %end ], [ 1, %failed ], [ 2, %interrupted ]
  %tried = get i64 program.parallel %program
  %never = icmp eq i64 %tried, 0
  br i1 %never, label %out, label %note
note:
  %give = icmp eq i64 %tried, 1
  call void @graphc_pool_ended(ptr %pool, ptr %program, i1 %give)
  br i1 %give, label %release, label %out
release:
  call void @graphc_pool_give(ptr %pool)
  br label %out
out:
  call void @graphc_float_leave(i64 %mode)
  ret i64 %status
}}
"""
