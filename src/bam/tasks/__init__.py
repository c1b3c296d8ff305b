"""What a network is trained for: equal rooms, each removable."""
