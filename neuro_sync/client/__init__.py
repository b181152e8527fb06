"""What a user calls; one class a section."""
