"""Training a small model with a huge output layer: what the command line and the demo run."""
