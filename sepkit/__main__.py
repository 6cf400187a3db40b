"""``python -m sepkit``."""

from __future__ import annotations

from sepkit.cli import main

if __name__ == "__main__":
    main()
