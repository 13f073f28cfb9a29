"""Self-configuring medical image segmentation, driven by configuration."""
