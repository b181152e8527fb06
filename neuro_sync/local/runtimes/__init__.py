"""What carries out the decisions about a job's life."""
