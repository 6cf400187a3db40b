"""The protocol as data: frames, method names, message records and their converter. Nothing in here runs."""
