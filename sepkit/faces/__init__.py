"""The wires an App is served over. Each face translates one kind of host into calls of ``serving``, and back."""
