"""The virtual clock, under the name that the tests know it by."""

from __future__ import annotations

from sepkit.testing.clock import BusyLoop, Deadlock, VirtualClockLoop, current_loop, run_virtual

__all__ = ["BusyLoop", "Deadlock", "VirtualClockLoop", "current_loop", "run_virtual"]
