"""Reads commands as a shell would, and says which of them destroy what cannot be brought back."""
