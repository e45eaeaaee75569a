"""Trackers: W&B and TensorBoard as mirrors of what a run says."""
