"""What a directory of weights holds, and whether the engine can load it. Reads headers, never tensors."""
