"""What methods that are trained share: the loop, its state on disk, curves and model cards."""
