"""The entry of an executable: a C-level Python callable that checks its arguments in machine code.

``graphc_call(self, args, nargs, kwnames)`` is METH_FASTCALL | METH_KEYWORDS. ``self`` is the
tuple (address of a ``handle`` record, owner); the handle points at a program bound to sizes and
at a Python callable ``slow``. When every argument is a C-contiguous, aligned ndarray of exactly
the expected element type and shape, its address goes into the program's table, fresh outputs are
made, the locks are taken, and the table is walked without the GIL. In any other case the whole
call is handed to ``slow(*args, **kwargs)``, which converts, binds new sizes, or explains. Where a
state's newest values lie on a device, the locks are given back, ``fail`` brings the values, and the
call starts again.

The offsets of ``PyArrayObject``'s fields are NumPy's stable ABI and are compared with a real array
when the runtime is loaded.
"""

from __future__ import annotations

from graphc.backends.llvm.layout import Layout
from graphc.backends.llvm.outputs import ARRAY_FIELDS, CONTIGUOUS_ALIGNED, WRITEABLE

__all__ = [
    "ARRAY_FIELDS",
    "CALL_IR",
    "FAILED_LOCKED",
    "FAILED_REENTERED",
    "FAILED_STALE",
    "HANDLE",
    "LOCK",
]

#: codes below zero that ``fail`` gets besides the ids of checks
FAILED_REENTERED, FAILED_LOCKED = -1, -2
#: no failure: ``fail`` brings the values of states from where they are, and returns
FAILED_STALE = -3

HANDLE = Layout("handle", "program", "slow")
#: a state's lock (see graphc.memory) and whether the program writes the state
LOCK = Layout("lock", "address", "writes")

LAYOUTS = {"handle": HANDLE, "lock": LOCK}


CALL_IR = f"""
declare ptr @PyTuple_GetItem(ptr, i64)
declare ptr @PyLong_AsVoidPtr(ptr)
declare ptr @PyLong_FromLongLong(i64)
declare ptr @PyObject_Vectorcall(ptr, ptr, i64, ptr)
declare ptr @PyObject_CallOneArg(ptr, ptr)
declare i32 @pthread_rwlock_rdlock(ptr)
declare i32 @pthread_rwlock_wrlock(ptr)
declare i32 @pthread_rwlock_unlock(ptr)

; true when %object is an ndarray exactly as %tensor says; its address is then in the table
define internal i1 @graphc_bind(ptr %runtime, ptr %tensor, ptr %object, i32 %flags) nounwind {{
entry:
  %type.p = getelementptr i8, ptr %object, i64 {ARRAY_FIELDS["type"]}
  %type = load ptr, ptr %type.p, align 8
  %array_type = get ptr runtime.array_type %runtime
  %is_array = icmp eq ptr %type, %array_type
  br i1 %is_array, label %element, label %no
element:
  %descr.p = getelementptr i8, ptr %object, i64 {ARRAY_FIELDS["descr"]}
  %descr = load ptr, ptr %descr.p, align 8
  %expected = get ptr tensor.descr %tensor
  %same = icmp eq ptr %descr, %expected
  br i1 %same, label %layout, label %no
layout:
  %flags.p = getelementptr i8, ptr %object, i64 {ARRAY_FIELDS["flags"]}
  %has = load i32, ptr %flags.p, align 4
  %common = and i32 %has, %flags
  %all = icmp eq i32 %common, %flags
  br i1 %all, label %rank, label %no
rank:
  %ndim.p = getelementptr i8, ptr %object, i64 {ARRAY_FIELDS["ndim"]}
  %ndim32 = load i32, ptr %ndim.p, align 4
  %ndim = sext i32 %ndim32 to i64
  %wanted = get i64 tensor.ndim %tensor
  %fits = icmp eq i64 %ndim, %wanted
  br i1 %fits, label %shape, label %no
shape:
  %dims.p = getelementptr i8, ptr %object, i64 {ARRAY_FIELDS["dims"]}
  %dims = load ptr, ptr %dims.p, align 8
  %wants = get ptr tensor.dims %tensor
  br label %look
look:
  %i = phi i64 [ 0, %shape ], [ %i1, %next ]
  %more = icmp ult i64 %i, %ndim
  br i1 %more, label %compare, label %yes
compare:
  %has.p = getelementptr i64, ptr %dims, i64 %i
  %has_extent = load i64, ptr %has.p, align 8
  %wants.p = getelementptr i64, ptr %wants, i64 %i
  %wants_extent = load i64, ptr %wants.p, align 8
  %equal = icmp eq i64 %has_extent, %wants_extent
  br i1 %equal, label %next, label %no
next:
  %i1 = add i64 %i, 1
  br label %look
yes:
  %data.p = getelementptr i8, ptr %object, i64 {ARRAY_FIELDS["data"]}
  %data = load ptr, ptr %data.p, align 8
  call void @graphc_patch(ptr %tensor, ptr %data)
  ret i1 true
no:
  ret i1 false
}}

; release the first %count state locks; %done counts a new version of what was written
define internal void @graphc_unlock(ptr %program, i64 %count, i64 %done) nounwind {{
entry:
  %locks = get ptr program.locks %program
  br label %look
look:
  %i = phi i64 [ 0, %entry ], [ %i1, %one ]
  %more = icmp ult i64 %i, %count
  br i1 %more, label %one, label %out
one:
  %lock = next lock %locks, %i
  %address = get ptr lock.address %lock
  %writes = get i64 lock.writes %lock
  %change = and i64 %writes, %done
  %version.p = getelementptr i64, ptr %address, i64 8
  %version = load i64, ptr %version.p, align 8
  %version1 = add i64 %version, %change
  store atomic i64 %version1, ptr %version.p monotonic, align 8
  %r = call i32 @pthread_rwlock_unlock(ptr %address)
  %i1 = add i64 %i, 1
  br label %look
out:
  ret void
}}

; without the GIL: take the state locks in their one order and walk
; as graphc_walk, or 3: this thread holds a lock, or 4: a state's values lie elsewhere
define internal i64 @graphc_run(ptr %program) nounwind {{
entry:
  %locks = get ptr program.locks %program
  %count = get i64 program.locks_count %program
  br label %look
look:
  %i = phi i64 [ 0, %entry ], [ %i1, %taken ]
  %more = icmp ult i64 %i, %count
  br i1 %more, label %one, label %walk
one:
  %lock = next lock %locks, %i
  %address = get ptr lock.address %lock
  %writes = get i64 lock.writes %lock
  %exclusive = icmp ne i64 %writes, 0
  br i1 %exclusive, label %write, label %read
write:
  %r1 = call i32 @pthread_rwlock_wrlock(ptr %address)
  br label %check
read:
  %r2 = call i32 @pthread_rwlock_rdlock(ptr %address)
  br label %check
check:
  %r = phi i32 [ %r1, %write ], [ %r2, %read ]
  %refused = icmp ne i32 %r, 0
  br i1 %refused, label %undo, label %taken
taken:
  %i1 = add i64 %i, 1
  %stale.p = getelementptr i64, ptr %address, i64 9
  %stale = load atomic i64, ptr %stale.p monotonic, align 8
  %elsewhere = icmp ne i64 %stale, 0
  br i1 %elsewhere, label %back, label %look
back:
  call void @graphc_unlock(ptr %program, i64 %i1, i64 0)
  ret i64 4
undo:
  call void @graphc_unlock(ptr %program, i64 %i, i64 0)
  ret i64 3
walk:
  %status = call i64 @graphc_walk(ptr %program)
  %good = icmp eq i64 %status, 0
  %done = zext i1 %good to i64
  call void @graphc_unlock(ptr %program, i64 %count, i64 %done)
  ret i64 %status
}}

; own the program: 0, or the reason why not (this thread runs it already, further down its stack)
define internal i32 @graphc_enter(ptr %program) nounwind {{
  %users = get i64 program.users %program
  %users1 = add i64 %users, 1
  put i64 %users1, program.users %program
  %mutex = get ptr program.mutex %program
  %busy = call i32 @pthread_mutex_trylock(ptr %mutex)
  %free = icmp eq i32 %busy, 0
  br i1 %free, label %out, label %wait
wait:
  %thread = call ptr @PyEval_SaveThread()
  %r = call i32 @pthread_mutex_lock(ptr %mutex)
  call void @PyEval_RestoreThread(ptr %thread)
  %refused = icmp ne i32 %r, 0
  br i1 %refused, label %undo, label %out
undo:
  %now = get i64 program.users %program
  %now1 = sub i64 %now, 1
  put i64 %now1, program.users %program
  ret i32 %r
out:
  ret i32 0
}}

define internal void @graphc_leave(ptr %program) nounwind {{
  %mutex = get ptr program.mutex %program
  %r = call i32 @pthread_mutex_unlock(ptr %mutex)
  %users = get i64 program.users %program
  %users1 = sub i64 %users, 1
  put i64 %users1, program.users %program
  ret void
}}

; bind %count arrays; false at the first that does not fit
define internal i1 @graphc_bind_all(
    ptr %runtime, ptr %tensors, ptr %objects, i64 %count, i32 %flags) nounwind {{
entry:
  br label %look
look:
  %i = phi i64 [ 0, %entry ], [ %i1, %next ]
  %more = icmp ult i64 %i, %count
  br i1 %more, label %one, label %yes
one:
  %tensor = next tensor %tensors, %i
  %object.p = getelementptr ptr, ptr %objects, i64 %i
  %object = load ptr, ptr %object.p, align 8
  %fits = call i1 @graphc_bind(ptr %runtime, ptr %tensor, ptr %object, i32 %flags)
  br i1 %fits, label %next, label %no
next:
  %i1 = add i64 %i, 1
  br label %look
yes:
  ret i1 true
no:
  ret i1 false
}}

; raise: call the Python function that does, with a code
define internal void @graphc_fail(ptr %program, i64 %code) nounwind {{
  %fail = get ptr program.fail %program
  %number = call ptr @PyLong_FromLongLong(i64 %code)
  %null = icmp eq ptr %number, null
  br i1 %null, label %out, label %raise
raise:
  %r = call ptr @PyObject_CallOneArg(ptr %fail, ptr %number)
  call void @Py_DecRef(ptr %number)
  br label %out
out:
  ret void
}}

; bring the values of states that lie elsewhere; false where that raised
define internal i1 @graphc_fetch(ptr %program) nounwind {{
entry:
  %fail = get ptr program.fail %program
  %number = call ptr @PyLong_FromLongLong(i64 {FAILED_STALE})
  %null = icmp eq ptr %number, null
  br i1 %null, label %no, label %bring
bring:
  %r = call ptr @PyObject_CallOneArg(ptr %fail, ptr %number)
  call void @Py_DecRef(ptr %number)
  %raised = icmp eq ptr %r, null
  br i1 %raised, label %no, label %yes
yes:
  call void @Py_DecRef(ptr %r)
  ret i1 true
no:
  ret i1 false
}}

; %given: outputs are passed after the arguments instead of made
define internal ptr @graphc_entry(
    ptr %self, ptr %args, i64 %nargs, ptr %kwnames, i1 %given) nounwind {{
entry:
  %address = call ptr @PyTuple_GetItem(ptr %self, i64 0)
  %handle = call ptr @PyLong_AsVoidPtr(ptr %address)
  br label %start
start:
  %program = get ptr handle.program %handle
  %unbound = icmp eq ptr %program, null
  %named = icmp ne ptr %kwnames, null
  %odd = or i1 %unbound, %named
  br i1 %odd, label %slow, label %count
slow:
  %callable = get ptr handle.slow %handle
  %answer = call ptr @PyObject_Vectorcall(ptr %callable, ptr %args, i64 %nargs, ptr %kwnames)
  ret ptr %answer
count:
  %runtime = get ptr program.runtime %program
  %arguments = get ptr program.arguments %program
  %arguments_count = get i64 program.arguments_count %program
  %outputs_count = get i64 program.outputs_count %program
  %extra = select i1 %given, i64 %outputs_count, i64 0
  %expected = add i64 %arguments_count, %extra
  %right = icmp eq i64 %nargs, %expected
  br i1 %right, label %lock, label %slow
lock:
  %refused = call i32 @graphc_enter(ptr %program)
  %entered = icmp eq i32 %refused, 0
  br i1 %entered, label %bind, label %reentered
reentered:
  call void @graphc_fail(ptr %program, i64 {FAILED_REENTERED})
  ret ptr null
bind:
  %fits = call i1 @graphc_bind_all(ptr %runtime, ptr %arguments, ptr %args,
                                   i64 %arguments_count, i32 {CONTIGUOUS_ALIGNED})
  br i1 %fits, label %results, label %mismatch
mismatch:
  call void @graphc_leave(ptr %program)
  br label %slow
results:
  br i1 %given, label %into, label %fresh
into:
  %targets = getelementptr ptr, ptr %args, i64 %arguments_count
  %outputs = get ptr program.outputs %program
  %fit = call i1 @graphc_bind_all(ptr %runtime, ptr %outputs, ptr %targets,
                                  i64 %outputs_count, i32 {CONTIGUOUS_ALIGNED | WRITEABLE})
  br i1 %fit, label %nothing, label %mismatch
nothing:
  %none = get ptr runtime.none %runtime
  call void @Py_IncRef(ptr %none)
  br label %run
fresh:
  %made = call ptr @graphc_outputs(ptr %runtime, ptr %program, ptr %args)
  %failed = icmp eq ptr %made, null
  br i1 %failed, label %full, label %run
full:
  call void @graphc_leave(ptr %program)
  ret ptr null
run:
  %result = phi ptr [ %none, %nothing ], [ %made, %fresh ]
  %thread = call ptr @PyEval_SaveThread()
  put ptr %thread, program.thread_state %program
  %status = call i64 @graphc_run(ptr %program)
  call void @PyEval_RestoreThread(ptr %thread)
  %errors = get ptr program.errors %program
  %word = load i64, ptr %errors, align 8
  call void @graphc_leave(ptr %program)
  switch i64 %status, label %interrupted [
    i64 0, label %good
    i64 1, label %checked
    i64 3, label %locked
    i64 4, label %elsewhere
  ]
good:
  ret ptr %result
checked:
  call void @Py_DecRef(ptr %result)
  call void @graphc_fail(ptr %program, i64 %word)
  ret ptr null
locked:
  call void @Py_DecRef(ptr %result)
  call void @graphc_fail(ptr %program, i64 {FAILED_LOCKED})
  ret ptr null
elsewhere: ; the program may be bound to other sizes by then
  call void @Py_DecRef(ptr %result)
  %brought = call i1 @graphc_fetch(ptr %program)
  br i1 %brought, label %start, label %gone
gone:
  ret ptr null
interrupted: ; the exception is set
  call void @Py_DecRef(ptr %result)
  ret ptr null
}}

define ptr @graphc_call(ptr %self, ptr %args, i64 %nargs, ptr %kwnames) nounwind {{
  %r = call ptr @graphc_entry(ptr %self, ptr %args, i64 %nargs, ptr %kwnames, i1 false)
  ret ptr %r
}}
define ptr @graphc_call_into(ptr %self, ptr %args, i64 %nargs, ptr %kwnames) nounwind {{
  %r = call ptr @graphc_entry(ptr %self, ptr %args, i64 %nargs, ptr %kwnames, i1 true)
  ret ptr %r
}}
"""
