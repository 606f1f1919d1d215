"""States on the device: each has memory there, shared by all programs, and the host's copy."""

from __future__ import annotations

import weakref

from graphc.backends.triton.driver import Driver
from graphc.backends.triton.holdings import Holdings
from graphc.memory import StateBuffer

__all__ = ["DeviceState", "device_state"]


class DeviceState:
    """A state's memory on the device, and which version of the host's it holds."""

    def __init__(self, buffer: StateBuffer, driver: Driver) -> None:
        self.buffer, self.driver = weakref.ref(buffer), driver
        self.nbytes = buffer.array.nbytes
        self.address = Holdings(driver, buffer).allocate(self.nbytes, f"state {buffer.type}")
        self.version: int | None = None

    def send(self, buffer: StateBuffer) -> None:
        """Bring the host's values. Under the state's lock."""
        self.driver.copy_in(self.address, buffer.address, self.nbytes)
        self.version = buffer.version

    def fetch(self) -> None:
        """Bring the device's values to the host. Under the state's lock."""
        buffer = self.buffer()
        if buffer is not None:
            self.driver.copy_out(buffer.address, self.address, self.nbytes)
            self.driver.synchronize("reading a state")


_device_states: weakref.WeakKeyDictionary[StateBuffer, DeviceState] = weakref.WeakKeyDictionary()


def device_state(buffer: StateBuffer, driver: Driver) -> DeviceState:
    """The device's memory of a state, made once."""
    found = _device_states.get(buffer)
    if found is None or found.driver is not driver:
        found = _device_states[buffer] = DeviceState(buffer, driver)
    return found
