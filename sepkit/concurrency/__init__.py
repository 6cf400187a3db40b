"""How work runs: eager first steps, slots and mailboxes, threads, and the watch over the loop. No protocol."""
