"""The ``neuro`` command: a thin face of the client."""
