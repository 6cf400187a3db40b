"""What a host offers to an extension: the services it answers, and where their data is kept."""
