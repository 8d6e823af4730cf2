"""Generation: images in batches over devices, and the files that streams of them are written to."""
