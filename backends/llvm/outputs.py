"""Outputs of calls: fresh ndarrays over memory that is used again.

An output's bytes follow the header of a block; the ndarray's base is a capsule whose destructor
puts the block back on the free list of its size (under the GIL, so the lists need no lock). Blocks
of 2 MB and more lie on huge pages and are worth keeping: fresh memory page-faults at every step.
"""

from __future__ import annotations

from graphc.backends.llvm.layout import Layout

__all__ = [
    "ARRAY_FIELDS",
    "BLOCK",
    "CONTIGUOUS_ALIGNED",
    "OUTPUT_IR",
    "RUNTIME",
    "SIZE_CLASSES",
    "TENSOR",
    "WRITEABLE",
    "size_class",
]

#: where an array keeps what is looked at: NumPy's stable ABI
ARRAY_FIELDS = {"type": 8, "data": 16, "ndim": 24, "dims": 32, "descr": 56, "flags": 64}

#: what an argument or output must be, and the table's words that hold its address; an output with a
#: ``donor`` lies in the argument of this number, counted from 1
TENSOR = Layout(
    "tensor",
    *("descr", "ndim", "dims", "slots", "slots_count", "capacity", "size_class", "contiguous"),
    "donor",
)
#: heads a block of output memory; the array's bytes follow 64 bytes later
BLOCK = Layout("block", "following", "size_class", "capacity", "runtime", stride=8)
#: one for the process: NumPy's functions and the free lists
RUNTIME = Layout(
    "runtime", "array_type", "new_array", "set_base", "none", "free", "cached", "limit"
)
LAYOUTS = {"tensor": TENSOR, "block": BLOCK, "runtime": RUNTIME}

SIZE_CLASSES = 256  # up to 2**69 bytes
_HUGE = 1 << 21

CONTIGUOUS_ALIGNED, WRITEABLE = 0x101, 0x400  # NumPy's array flags


def size_class(nbytes: int) -> tuple[int, int]:
    """The number of the free list for a size and the bytes its blocks hold: four steps to a
    doubling.

    >>> size_class(0), size_class(65), size_class(1000)
    ((0, 64), (1, 80), (16, 1024))
    """
    wanted = max(nbytes, 64)
    power = (wanted - 1).bit_length() - 1 if wanted > 64 else 6
    step = 1 << (power - 2)
    steps = -(-(wanted - (1 << power)) // step)
    return (power - 6) * 4 + steps, (1 << power) + steps * step


OUTPUT_IR = f"""
declare ptr @PyTuple_New(i64)
declare i32 @PyTuple_SetItem(ptr, i64, ptr)
declare ptr @PyCapsule_New(ptr, ptr, ptr)
declare ptr @PyCapsule_GetPointer(ptr, ptr)
declare ptr @PyErr_NoMemory()
declare void @Py_IncRef(ptr)
declare void @Py_DecRef(ptr)
declare i32 @posix_memalign(ptr, i64, i64)
declare i32 @madvise(ptr, i64, i32)
declare void @free(ptr)

; write an address into the words of the table that hold it
define internal void @graphc_patch(ptr %tensor, ptr %data) nounwind {{
entry:
  %slots = get ptr tensor.slots %tensor
  %count = get i64 tensor.slots_count %tensor
  br label %look
look:
  %i = phi i64 [ 0, %entry ], [ %i1, %write ]
  %more = icmp ult i64 %i, %count
  br i1 %more, label %write, label %out
write:
  %slot.p = getelementptr ptr, ptr %slots, i64 %i
  %slot = load ptr, ptr %slot.p, align 8
  store ptr %data, ptr %slot, align 8
  %i1 = add i64 %i, 1
  br label %look
out:
  ret void
}}

; a block of output memory: recycled, or new; null without memory
define internal ptr @graphc_block_new(ptr %runtime, ptr %tensor) nounwind {{
entry:
  %place = alloca ptr, align 8
  %class = get i64 tensor.size_class %tensor
  %capacity = get i64 tensor.capacity %tensor
  %free = get ptr runtime.free %runtime
  %list = getelementptr ptr, ptr %free, i64 %class
  %head = load ptr, ptr %list, align 8
  %empty = icmp eq ptr %head, null
  br i1 %empty, label %make, label %pop
pop:
  %following = get ptr block.following %head
  store ptr %following, ptr %list, align 8
  %cached = get i64 runtime.cached %runtime
  %less = sub i64 %cached, %capacity
  put i64 %less, runtime.cached %runtime
  ret ptr %head
make:
  %total = add i64 %capacity, {BLOCK.nbytes}
  %large = icmp uge i64 %total, {_HUGE}
  %alignment = select i1 %large, i64 {_HUGE}, i64 64
  %failed = call i32 @posix_memalign(ptr %place, i64 %alignment, i64 %total)
  %ok = icmp eq i32 %failed, 0
  br i1 %ok, label %fill, label %none
fill:
  %block = load ptr, ptr %place, align 8
  put i64 %class, block.size_class %block
  put i64 %capacity, block.capacity %block
  put ptr %runtime, block.runtime %block
  br i1 %large, label %advise, label %out
advise: ; MADV_HUGEPAGE; a refusal costs nothing
  %r = call i32 @madvise(ptr %block, i64 %total, i32 14)
  br label %out
out:
  ret ptr %block
none:
  ret ptr null
}}

; back to its free list, or to the system when enough is kept
define internal void @graphc_block_delete(ptr %block) nounwind {{
  %runtime = get ptr block.runtime %block
  %class = get i64 block.size_class %block
  %capacity = get i64 block.capacity %block
  %cached = get i64 runtime.cached %runtime
  %limit = get i64 runtime.limit %runtime
  %sum = add i64 %cached, %capacity
  %keep = icmp ule i64 %sum, %limit
  br i1 %keep, label %push, label %drop
push:
  %free = get ptr runtime.free %runtime
  %list = getelementptr ptr, ptr %free, i64 %class
  %head = load ptr, ptr %list, align 8
  put ptr %head, block.following %block
  store ptr %block, ptr %list, align 8
  put i64 %sum, runtime.cached %runtime
  ret void
drop:
  call void @free(ptr %block)
  ret void
}}

; destructor of the capsule that is an output's base
define internal void @graphc_capsule_delete(ptr %capsule) nounwind {{
  %block = call ptr @PyCapsule_GetPointer(ptr %capsule, ptr null)
  call void @graphc_block_delete(ptr %block)
  ret void
}}

; an ndarray over fresh memory or over an argument's, which it then keeps; its address in the table;
; null with an exception set
define internal ptr @graphc_output(ptr %runtime, ptr %tensor, ptr %args) nounwind {{
entry:
  %donor = get i64 tensor.donor %tensor
  %donated = icmp ne i64 %donor, 0
  br i1 %donated, label %reuse, label %fresh
reuse:
  %number = sub i64 %donor, 1
  %argument.p = getelementptr ptr, ptr %args, i64 %number
  %argument = load ptr, ptr %argument.p, align 8
  %taken.p = getelementptr i8, ptr %argument, i64 {ARRAY_FIELDS["data"]}
  %taken = load ptr, ptr %taken.p, align 8
  call void @Py_IncRef(ptr %argument)
  br label %array
fresh:
  %block = call ptr @graphc_block_new(ptr %runtime, ptr %tensor)
  %empty = icmp eq ptr %block, null
  br i1 %empty, label %full, label %wrap
full:
  %n = call ptr @PyErr_NoMemory()
  ret ptr null
wrap:
  %capsule = call ptr @PyCapsule_New(ptr %block, ptr null, ptr @graphc_capsule_delete)
  %no_capsule = icmp eq ptr %capsule, null
  br i1 %no_capsule, label %undo, label %place
undo:
  call void @graphc_block_delete(ptr %block)
  ret ptr null
place:
  %behind = next block %block
  br label %array
array:
  %data = phi ptr [ %taken, %reuse ], [ %behind, %place ]
  %owner = phi ptr [ %argument, %reuse ], [ %capsule, %place ]
  %type = get ptr runtime.array_type %runtime
  %new = get ptr runtime.new_array %runtime
  %set_base = get ptr runtime.set_base %runtime
  %descr = get ptr tensor.descr %tensor
  %ndim64 = get i64 tensor.ndim %tensor
  %ndim = trunc i64 %ndim64 to i32
  %dims = get ptr tensor.dims %tensor
  call void @Py_IncRef(ptr %descr) ; new_array steals it
  %made = call ptr %new(ptr %type, ptr %descr, i32 %ndim, ptr %dims, ptr null, ptr %data,
                        i32 {CONTIGUOUS_ALIGNED | WRITEABLE}, ptr null)
  %no_array = icmp eq ptr %made, null
  br i1 %no_array, label %undo2, label %own
undo2:
  call void @Py_DecRef(ptr %owner)
  ret ptr null
own:
  %bad = call i32 %set_base(ptr %made, ptr %owner) ; steals the owner
  %refused = icmp ne i32 %bad, 0
  br i1 %refused, label %undo3, label %done
undo3:
  call void @Py_DecRef(ptr %made)
  ret ptr null
done:
  call void @graphc_patch(ptr %tensor, ptr %data)
  ret ptr %made
}}

; all outputs: one array, a tuple of them, or None; null with an exception set
define internal ptr @graphc_outputs(ptr %runtime, ptr %program, ptr %args) nounwind {{
entry:
  %outputs = get ptr program.outputs %program
  %single = get i64 program.single %program
  %count = get i64 program.outputs_count %program
  switch i64 %single, label %several [
    i64 0, label %nothing
    i64 1, label %one
  ]
nothing:
  %none = get ptr runtime.none %runtime
  call void @Py_IncRef(ptr %none)
  ret ptr %none
one:
  %only = call ptr @graphc_output(ptr %runtime, ptr %outputs, ptr %args)
  ret ptr %only
several:
  %tuple = call ptr @PyTuple_New(i64 %count)
  %failed = icmp eq ptr %tuple, null
  br i1 %failed, label %out, label %look
look:
  %i = phi i64 [ 0, %several ], [ %i1, %put ]
  %more = icmp ult i64 %i, %count
  br i1 %more, label %make, label %out
make:
  %tensor = next tensor %outputs, %i
  %array = call ptr @graphc_output(ptr %runtime, ptr %tensor, ptr %args)
  %missing = icmp eq ptr %array, null
  br i1 %missing, label %undo, label %put
put:
  %r = call i32 @PyTuple_SetItem(ptr %tuple, i64 %i, ptr %array) ; steals it
  %i1 = add i64 %i, 1
  br label %look
undo:
  call void @Py_DecRef(ptr %tuple)
  ret ptr null
out:
  ret ptr %tuple
}}
"""
