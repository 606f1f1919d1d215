"""Tests of the Kernel IR; `zoo` is shared with the backends."""
