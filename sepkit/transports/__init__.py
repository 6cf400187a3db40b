"""Transports carry lines of bytes between two peers, and know nothing of what the lines say.

``stdio`` serves the process's own descriptors, ``process`` a child's pipes, ``memory`` a pair within one loop. All of
them pass one contract suite (``tests/transports/test_contract.py``).
"""

from __future__ import annotations

from sepkit.transports.base import HIGH_WATER, LOW_WATER, Receiver, Transport

__all__ = ["HIGH_WATER", "LOW_WATER", "Receiver", "Transport"]
