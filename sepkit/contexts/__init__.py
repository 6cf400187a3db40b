"""What a handler is given beside its arguments, and the seam to the host it came from (``link``)."""
