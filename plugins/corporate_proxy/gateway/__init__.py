"""A client of the OpenAI-compatible chat API, as its many servers really speak it.

``settings`` and ``network`` say where the server is and how it is reached, ``question`` what it is asked. ``server``
asks it, and ``events``, ``answer`` and ``usage`` read what it says. ``failures`` tells the host what went wrong.
"""
