"""What travels between the two sides; pure, no input or output."""
