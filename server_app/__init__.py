"""The Flower ServerApp of the model's owner."""
