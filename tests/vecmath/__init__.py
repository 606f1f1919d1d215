"""The LLVM backend's scalar functions: exactness, special values, machine code."""
