"""The HTTP edge, a file a section: read, call one method, answer."""
