"""What leaves a participant, and through which channel."""
