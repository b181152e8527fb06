"""The local platform: the protocol of the hosted one, and jobs that run on this machine."""
