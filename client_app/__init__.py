"""The Flower ClientApp of a participating institution."""
