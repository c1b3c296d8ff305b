"""Training for one class per image."""
