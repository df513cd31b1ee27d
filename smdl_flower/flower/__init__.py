"""Everything that knows Flower: messages, the strategy, and the engines that run both apps."""
