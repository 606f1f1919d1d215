"""The targets whose code can run here, with and without fma."""

from __future__ import annotations

from graphc.backends.llvm.target import Target, host_target, named_target


def runnable_targets() -> list[Target]:
    """The host; on x86-64 the generic machines that it includes as well."""
    host = host_target()
    if host.machine.architecture != "x86_64":
        return [host]
    return [named_target("sse"), *([named_target("avx2")] if host.has_fma else [])]


TARGETS = runnable_targets()
TARGET_NAMES = [target.name for target in TARGETS]
